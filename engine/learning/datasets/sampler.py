"""Sampling order of an epoch: a pure, machine-independent assignment of items to batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class EpochSampler:
    """The batches of one epoch.

    Attributes
    ----------
    items
        Numbers of items, batch after batch.
    bounds
        Start of each batch in ``items``, and the end of the last batch.
    """

    items: Numbers
    bounds: Numbers

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def batch(self, number: int) -> Numbers:
        """Return the items of a batch."""
        return self.items[self.bounds[number] : self.bounds[number + 1]]

    def batch_of_each(self, count: int) -> Numbers:
        """Return the batch of each of ``count`` items, -1 if it is in none."""
        turns = np.full(count, -1, np.int64)
        turns[self.items] = np.repeat(np.arange(len(self)), np.diff(self.bounds))
        return turns


def shuffle_items(shards: Numbers, window: int, seed: int, epoch: int) -> Numbers:
    """Return items in random order, such that few shards are needed at a time.

    Shards come in random order, and items within a shard too; then the stream passes through a
    shuffle window: the next item is drawn from the window, and replaced by the next one of the
    stream. An item leaves at most a window and a shard after its shard is first needed, or stays in
    the window.

    Parameters
    ----------
    shards
        Shard of each item, ascending.
    window
        Number of items held at a time. If it is at least the number of items, the order is
        uniformly random.
    seed, epoch
        The same two give the same order on any machine: raw bits of PCG64, which numpy guarantees
        to be stable (NEP 19), without its distributions.

    Examples
    --------
    >>> order = shuffle_items(np.array([0, 0, 1, 1, 2]), window=2, seed=7, epoch=0)
    >>> sorted(order.tolist())
    [0, 1, 2, 3, 4]
    """
    count = len(shards)
    bits = np.random.PCG64(np.random.SeedSequence((seed, epoch)))
    if count == 0:
        return np.zeros(0, np.int64)
    if window >= count:
        return _by_chance(bits.random_raw(count))
    _, number = np.unique(shards, return_inverse=True)
    rank = bits.random_raw(int(number[-1]) + 1)
    stream = np.lexsort((bits.random_raw(count), rank[number]))
    held = stream[:window].tolist()
    picks = (bits.random_raw(count - window) % np.uint64(window)).tolist()
    order = []
    for pick, item in zip(picks, stream[window:].tolist(), strict=True):
        order.append(held[pick])
        held[pick] = item
    rest = np.array(held, np.int64)[_by_chance(bits.random_raw(window))]
    return np.concatenate([np.array(order, np.int64), rest])


def _by_chance(bits: NDArray[np.uint64]) -> Numbers:
    return np.argsort(bits, kind="stable").astype(np.int64)


def make_batches(order: Numbers, kinds: Numbers, batch_size: int, drop_last: bool) -> EpochSampler:
    """Cut an order into batches of one kind each.

    A batch is yielded as soon as it has ``batch_size`` items. The remaining items of each kind form
    a shorter batch at the end, in the order in which the kinds first appeared, or are dropped.

    Parameters
    ----------
    order
        Items in order.
    kinds
        Kind of each item, by its number: items of one shape.
    batch_size
        Number of items in a batch.
    drop_last
        Drop incomplete batches.

    Examples
    --------
    >>> epoch = make_batches(np.arange(5), np.array([0, 1, 0, 0, 1]), 2, drop_last=False)
    >>> [epoch.batch(n).tolist() for n in range(len(epoch))]
    [[0, 2], [1, 4], [3]]
    """
    of_order = kinds[order]
    _, first, kind = np.unique(of_order, return_index=True, return_inverse=True)
    # Items are numbered within their kind; a batch is complete at its last item.
    by_kind = np.argsort(kind, kind="stable")
    counts = np.bincount(kind, minlength=len(first))
    begins = np.cumsum(counts) - counts
    place = np.empty(len(order), np.int64)
    place[by_kind] = np.arange(len(order)) - np.repeat(begins, counts)
    group = place // batch_size
    full = (group + 1) * batch_size <= counts[kind]
    # Batches are sorted by their ends; the shorter ones come last, by first appearance.
    last = np.where(
        full,
        by_kind[np.minimum(begins[kind] + (group + 1) * batch_size, len(order)) - 1],
        len(order) + first[kind],
    )
    kept = np.flatnonzero(full) if drop_last else np.arange(len(order))
    kept = kept[np.argsort(last[kept], kind="stable")]
    ends = np.flatnonzero(np.diff(last[kept])) + 1
    bounds = np.concatenate([[0], ends, [len(kept)]] if len(kept) else [[0]]).astype(np.int64)
    return EpochSampler(order[kept], bounds)
