"""Batches of images and masks, read shard by shard in a seeded order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError, MissingExtra, ParameterError
from engine.learning.datasets.items import ItemIndex, ShardPrefetcher
from engine.learning.datasets.left_out import LeftOut
from engine.learning.datasets.masks import Masks
from engine.learning.datasets.sampler import EpochSampler, Numbers, make_batches, shuffle_items
from engine.store.backend.base import Store
from engine.store.catalog.tables import ShardRow
from engine.store.digests import digest_bytes

BUFFER_BYTES = 128 * 1024**2
"""Decoded size of the shuffle window: a thousand planes of 256 x 256."""

Augment = Callable[..., Any]
"""Called with an image (c, y, x) and a mask (y, x), if any; returns both, transformed."""


class Batch(TypedDict, total=False):
    """One batch: arrays, or tensors when iterated with torch.

    ``image`` (b, c, y, x) in modality units; ``mask`` (b, y, x) uint8, if masks were requested;
    ``image_id``, b names; ``epoch`` and ``batch``, their numbers from 0.
    """

    image: Any
    mask: Any
    image_id: list[str]
    epoch: int
    batch: int


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Options of batches, see `engine.cohort.cohort.Cohort.batches`."""

    batch_size: int = 8
    shuffle: bool = True
    seed: int = 0
    drop_last: bool = False
    buffer_bytes: int = BUFFER_BYTES
    workers: int = 0

    def __post_init__(self) -> None:
        """Validate the numbers."""
        for name, least in (("batch_size", 1), ("buffer_bytes", 1), ("workers", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ParameterError(name, getattr(self, name), f"at least {least}")


class WrongState(EngineError, ValueError):
    """A saved position belongs to different batches: (difference,)."""

    def __str__(self) -> str:
        return (
            f"The saved position is one of other batches: {self.args[0]}. Go on with the same "
            "images, masks and options, or start again without load_state_dict."
        )


class Batches:
    """Batches of images, epoch after epoch; create them with `Cohort.batches`.

    Each iteration is one epoch with an order of its own; an interrupted epoch restarts, unless
    `load_state_dict` restores a position. With torch installed this is a
    `torch.utils.data.IterableDataset`, and iterating yields tensors; `numpy` yields arrays, with or
    without torch.
    """

    def __init__(
        self,
        store: Store,
        files: Sequence[ShardRow],
        items: ItemIndex,
        masks: Masks | None,
        augment: Augment | None,
        options: BatchOptions,
    ) -> None:
        self._store = store
        self._files = {row.path: row for row in files}
        self._items = items
        self._masks = masks
        self._change: Callable[..., Any] | None = None
        if augment is not None:
            from engine.learning.datasets.transforms import augment_item  # needs torch

            self._change = partial(augment_item, augment)
        self.options = options
        self.left_out: tuple[LeftOut, ...] = ()
        """Images without a mask, which are in no batch, with the reasons."""
        self._epoch = 0
        self._start = 0  # first batch of the next iteration
        self._next = 0  # batch after the last one yielded

    @property
    def epoch(self) -> int:
        """Epoch of the next iteration; assign to start that epoch."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch, self._start, self._next = epoch, 0, 0

    def __repr__(self) -> str:
        masks = "" if self._masks is None else " with masks"
        size = f"batch_size={self.options.batch_size}, seed={self.options.seed}"
        left = "".join(f", {one.count} left out ({one.reason})" for one in self.left_out)
        return f"<{len(self)} batches of {len(self._items)} images{masks}{left}, {size}>"

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        counts = np.bincount(self._items.kinds)
        size = self.options.batch_size
        return int((counts // size if self.options.drop_last else -(-counts // size)).sum())

    def __iter__(self) -> Iterator[Batch]:
        """Yield tensors; needs torch, see `engine.learning.datasets.torch`."""
        raise MissingExtra("torch", "segment", "to iterate tensors; numpy() gives arrays without")

    def numpy(self) -> Iterator[Batch]:
        """Yield the batches of an epoch as numpy arrays, read in this process."""
        yield from self._follow(self.make(self.epoch, self._begin()))

    def _begin(self) -> int:
        """Return the first batch of this iteration; the iteration after it begins an epoch."""
        self._next, self._start = self._start, 0
        return self._next

    def _follow(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches, and record the position."""
        for batch in batches:
            self._next = batch["batch"] + 1
            yield batch
        self.epoch += 1

    # position

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch yielded, in JSON-compatible values."""
        return {"epoch": self.epoch, "batch": self._next, "of": self._identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume at a position from `state_dict`, with the batch that would have come next.

        Raises
        ------
        WrongState
            If the position belongs to different images, masks or options.
        """
        mine = self._identity
        there = state.get("of")
        if there != mine:
            known = there if isinstance(there, Mapping) else {}
            differing = ", ".join(name for name in mine if known.get(name) != mine[name])
            raise WrongState(f"{differing or 'all'} differ")
        self.epoch = int(state["epoch"])
        self._start = self._next = int(state["batch"])

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """Identity of the batches: all that determines their order."""
        options = asdict(self.options)
        del options["workers"]  # does not affect the order
        names = "\n".join(self._items.image_ids.to_pylist())
        shapes = self._items.shapes.tobytes() + self._items.shards.tobytes()
        return {**options, "images": digest_bytes(names.encode() + shapes)}

    # loading

    def _plan(self, epoch: int) -> EpochSampler:
        options, items = self.options, self._items
        order = np.arange(len(items))
        if options.shuffle:
            window = max(options.batch_size, int(options.buffer_bytes // self._nbytes().mean()))
            order = shuffle_items(items.shards, window, options.seed, epoch)
        return make_batches(order, items.kinds, options.batch_size, options.drop_last)

    def _nbytes(self) -> Numbers:
        """Return the bytes that each item takes while it is held in memory."""
        masks = 0 if self._masks is None else np.prod(self._items.shapes[:, 1:], axis=1)
        return np.maximum(self._items.nbytes + masks, 1)

    def make(self, epoch: int, first: int, share: int = 0, shares: int = 1) -> Iterator[Batch]:
        """Yield every ``shares``-th batch of an epoch, starting at a given one, as arrays.

        Parameters
        ----------
        epoch
            Number of the epoch.
        first
            Number of the batch with which the first share begins.
        share, shares
            Index of the share, and number of shares: one per process of a loader.
        """
        plan = self._plan(epoch)
        numbers = range(first + share, len(plan), shares)
        wanted = [plan.batch(number) for number in numbers]
        if not wanted:
            return
        shard = int(np.add.reduceat(self._nbytes(), self._items.starts[:-1]).max())
        limit = self.options.buffer_bytes + shard
        with ShardPrefetcher(
            self._store, self._files, self._items, self._masks, np.concatenate(wanted), limit
        ) as shelf:
            for number, items in zip(numbers, wanted, strict=True):
                yield self._batch(items.tolist(), shelf, epoch, number)

    def _batch(self, wanted: list[int], shelf: ShardPrefetcher, epoch: int, number: int) -> Batch:
        shape, masked = self._items.shapes[wanted[0]], self._masks is not None
        images = np.empty((len(wanted), *shape), np.float32)
        masks = np.empty((len(wanted), *shape[1:]), np.uint8) if masked else None
        rescale = self._items.rescale[wanted].tolist()
        for n, held in enumerate(shelf.take(wanted)):
            slope, intercept = rescale[n]
            if (slope, intercept) == (1.0, 0.0):
                images[n] = held.pixels
            else:  # modality rescale, PS3.3, C.11.1.1.2
                image = images[n]
                np.multiply(held.pixels, slope, image, dtype=np.float32, casting="same_kind")
                image += intercept
            if masks is not None:
                masks[n] = held.mask
        batch: Batch = {"image": images}
        if masks is not None:
            batch["mask"] = masks
        if self._change is not None:
            each = [None] * len(wanted) if masks is None else masks
            seeds = ((self.options.seed, epoch, item) for item in wanted)
            batch |= _stacked(list(map(self._change, images, each, seeds)))
        return {
            **batch,
            "image_id": [self._items.image_ids[item].as_py() for item in wanted],
            "epoch": epoch,
            "batch": number,
        }


def _stacked(changed: Sequence[tuple[NDArray[Any], NDArray[np.uint8] | None]]) -> Batch:
    shapes = {image.shape for image, _ in changed}
    if len(shapes) > 1:
        found = " and ".join(map(str, sorted(shapes)))
        raise ParameterError(
            "augment", f"one that makes {found} of images of one size", "one that keeps to one size"
        )
    batch: Batch = {"image": np.stack([image for image, _ in changed])}
    if changed[0][1] is not None:
        batch["mask"] = np.stack([mask for _, mask in changed if mask is not None])
    return batch
