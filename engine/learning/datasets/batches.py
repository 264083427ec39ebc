"""Batches of images and their masks, read shard by shard in an order that a seed gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError, MissingExtra, ParameterError
from engine.learning.datasets.items import Items, Shelf
from engine.learning.datasets.left_out import LeftOut
from engine.learning.datasets.masks import Masks
from engine.learning.datasets.sampler import Epoch, Numbers, cut_batches, shuffle_items
from engine.store.catalog.tables import ShardRow
from engine.store.digests import digest_bytes
from engine.store.root.base import Root

BUFFER_BYTES = 128 * 1024**2
"""Decoded size of the images among which the next one is chosen: a thousand planes of 256 x 256."""

Augment = Callable[..., Any]
"""Called with an image (c, y, x) and a mask (y, x), if there are masks; returns them changed."""


class Batch(TypedDict, total=False):
    """One batch: arrays, or tensors where torch iterates.

    ``image`` (b, c, y, x) in modality units; ``mask`` (b, y, x) uint8, if masks were asked for;
    ``image_id``, b names; ``epoch`` and ``batch``, which one it is, from 0.
    """

    image: Any
    mask: Any
    image_id: list[str]
    epoch: int
    batch: int


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How batches are made, see `engine.cohort.cohort.Cohort.batches`."""

    batch_size: int = 8
    shuffle: bool = True
    seed: int = 0
    drop_last: bool = False
    buffer_bytes: int = BUFFER_BYTES
    workers: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("batch_size", 1), ("buffer_bytes", 1), ("workers", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ParameterError(name, getattr(self, name), f"at least {least}")


class WrongState(EngineError, ValueError):
    """A saved position belongs to other batches: (what differs,)."""

    def __str__(self) -> str:
        return (
            f"The saved position is one of other batches: {self.args[0]}. Go on with the same "
            "images, masks and options, or begin anew without load_state_dict."
        )


class Batches:
    """The batches of some images, epoch after epoch; get one from `Cohort.batches`.

    Each iteration is one epoch, and the next one has another order; one that was broken off begins
    anew, unless `load_state_dict` says where to go on. Where torch is installed this is a
    `torch.utils.data.IterableDataset`, and iterating gives tensors; `numpy` gives arrays, with or
    without torch.
    """

    def __init__(
        self,
        root: Root,
        files: Sequence[ShardRow],
        items: Items,
        masks: Masks | None,
        augment: Augment | None,
        options: BatchOptions,
    ) -> None:
        self._root = root
        self._files = {row.path: row for row in files}
        self._items = items
        self._masks = masks
        self._change: Callable[..., Any] | None = None
        if augment is not None:
            from engine.learning.datasets.transforms import augment_item  # needs torch

            self._change = partial(augment_item, augment)
        self.options = options
        self.left_out: tuple[LeftOut, ...] = ()
        """Which images are in no batch since they have no mask, and why."""
        self._epoch = 0
        self._start = 0  # the batch that the next iteration begins with
        self._next = 0  # the one that comes after what was given out last

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration is of; setting it means to begin it."""
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
        """Return how many batches an epoch has."""
        counts = np.bincount(self._items.kinds)
        size = self.options.batch_size
        return int((counts // size if self.options.drop_last else -(-counts // size)).sum())

    def __iter__(self) -> Iterator[Batch]:
        """Yield tensors: only where torch is installed, see `engine.learning.datasets.torch`."""
        raise MissingExtra("torch", "segment", "to iterate tensors; numpy() gives arrays without")

    def numpy(self) -> Iterator[Batch]:
        """Yield the batches of an epoch as numpy arrays, read in this process."""
        yield from self._follow(self.make(self.epoch, self._begin()))

    def _begin(self) -> int:
        """Return the batch to begin with; the iteration after this one begins an epoch."""
        self._next, self._start = self._start, 0
        return self._next

    def _follow(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches, and take note of where they are."""
        for batch in batches:
            self._next = batch["batch"] + 1
            yield batch
        self.epoch += 1

    # where it is

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the batch that was given out last, as JSON can hold it."""
        return {"epoch": self.epoch, "batch": self._next, "of": self._identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at a position that `state_dict` gave, with the batch that would have come next.

        Raises
        ------
        WrongState
            If the position is one of other images, masks or options.
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
        """What the order of the batches depends on."""
        options = asdict(self.options)
        del options["workers"]  # the order does not depend on them
        names = "\n".join(self._items.image_ids.to_pylist())
        shapes = self._items.shapes.tobytes() + self._items.shards.tobytes()
        return {**options, "images": digest_bytes(names.encode() + shapes)}

    # how they are made

    def _plan(self, epoch: int) -> Epoch:
        options, items = self.options, self._items
        order = np.arange(len(items))
        if options.shuffle:
            window = max(options.batch_size, int(options.buffer_bytes // self._nbytes().mean()))
            order = shuffle_items(items.shards, window, options.seed, epoch)
        return cut_batches(order, items.kinds, options.batch_size, options.drop_last)

    def _nbytes(self) -> Numbers:
        """Return the bytes that each item takes while it waits."""
        masks = 0 if self._masks is None else np.prod(self._items.shapes[:, 1:], axis=1)
        return np.maximum(self._items.nbytes + masks, 1)

    def make(self, epoch: int, first: int, share: int = 0, shares: int = 1) -> Iterator[Batch]:
        """Yield every ``shares``-th batch of an epoch from one on, as arrays.

        Parameters
        ----------
        epoch
            Which epoch.
        first
            Number of the batch that the first share begins with.
        share, shares
            Which share of how many: a loader with so many processes asks each for one.
        """
        plan = self._plan(epoch)
        numbers = range(first + share, len(plan), shares)
        wanted = [plan.batch(number) for number in numbers]
        if not wanted:
            return
        shard = int(np.add.reduceat(self._nbytes(), self._items.starts[:-1]).max())
        limit = self.options.buffer_bytes + shard
        with Shelf(
            self._root, self._files, self._items, self._masks, np.concatenate(wanted), limit
        ) as shelf:
            for number, items in zip(numbers, wanted, strict=True):
                yield self._batch(items.tolist(), shelf, epoch, number)

    def _batch(self, wanted: list[int], shelf: Shelf, epoch: int, number: int) -> Batch:
        shape, masked = self._items.shapes[wanted[0]], self._masks is not None
        images = np.empty((len(wanted), *shape), np.float32)
        masks = np.empty((len(wanted), *shape[1:]), np.uint8) if masked else None
        rescale = self._items.rescale[wanted].tolist()
        for n, held in enumerate(shelf.take(wanted)):
            slope, intercept = rescale[n]
            if (slope, intercept) == (1.0, 0.0):
                images[n] = held.pixels
            else:  # PS3.3, C.11.1.1.2
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
