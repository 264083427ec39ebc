"""The order of an epoch: which items are in which batch. Pure, and the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Epoch:
    """The batches of one epoch.

    Attributes
    ----------
    items
        Numbers of items, batch after batch.
    bounds
        Where in ``items`` each batch begins, and the last one ends.
    """

    items: Numbers
    bounds: Numbers

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def batch(self, number: int) -> Numbers:
        """Return the items of a batch."""
        return self.items[self.bounds[number] : self.bounds[number + 1]]

    def turns(self, count: int) -> Numbers:
        """Return the batch of each of ``count`` items, -1 where it is in none."""
        turns = np.full(count, -1, np.int64)
        turns[self.items] = np.repeat(np.arange(len(self)), np.diff(self.bounds))
        return turns


def shuffle_items(shards: Numbers, window: int, seed: int, epoch: int) -> Numbers:
    """Return items in random order, such that few shards are needed at a time.

    Shards come in random order, items within a shard too, and then the stream goes through a
    window: the next one given out is any of it, and its place is taken by the next that comes in.
    An item is given out at most a window and a shard after its shard is first needed, or stays in
    the window.

    Parameters
    ----------
    shards
        Shard of each item, ascending.
    window
        Items that are held at a time. From their whole number on, the order is uniformly random.
    seed, epoch
        The same two give the same order, on any machine: bits of PCG64, of which numpy promises
        that they stay (NEP 19), and no distribution made of them.

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


def cut_batches(order: Numbers, kinds: Numbers, batch_size: int, drop_last: bool) -> Epoch:
    """Cut an order into batches of one kind each.

    A batch is complete when it has ``batch_size`` items, and comes then. What is left of each kind
    is a shorter batch at the end, those of the kinds that were seen first before others, or is left
    out.

    Parameters
    ----------
    order
        Items as they come.
    kinds
        Kind of each item, by its number: items of one shape.
    batch_size
        Items of a batch.
    drop_last
        Leave shorter batches out.

    Examples
    --------
    >>> epoch = cut_batches(np.arange(5), np.array([0, 1, 0, 0, 1]), 2, drop_last=False)
    >>> [epoch.batch(n).tolist() for n in range(len(epoch))]
    [[0, 2], [1, 4], [3]]
    """
    of_order = kinds[order]
    _, first, kind = np.unique(of_order, return_index=True, return_inverse=True)
    # Within its kind, an item has a place; the batch of that place is complete at its last item.
    by_kind = np.argsort(kind, kind="stable")
    counts = np.bincount(kind, minlength=len(first))
    begins = np.cumsum(counts) - counts
    place = np.empty(len(order), np.int64)
    place[by_kind] = np.arange(len(order)) - np.repeat(begins, counts)
    group = place // batch_size
    full = (group + 1) * batch_size <= counts[kind]
    # Batches are sorted by where they end; the shorter ones come after all, by first sight.
    last = np.where(
        full,
        by_kind[np.minimum(begins[kind] + (group + 1) * batch_size, len(order)) - 1],
        len(order) + first[kind],
    )
    kept = np.flatnonzero(full) if drop_last else np.arange(len(order))
    kept = kept[np.argsort(last[kept], kind="stable")]
    ends = np.flatnonzero(np.diff(last[kept])) + 1
    bounds = np.concatenate([[0], ends, [len(kept)]] if len(kept) else [[0]]).astype(np.int64)
    return Epoch(order[kept], bounds)
