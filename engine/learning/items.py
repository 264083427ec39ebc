"""What batches are made of: where each item's pixels lie, and the items that are held in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.errors import NothingFound, ParameterError
from engine.learning.masks import Labels, Masks
from engine.learning.order import Numbers
from engine.store.catalog import ShardRow
from engine.store.pixels import StackReader
from engine.store.planes import Place, read_planes
from engine.store.root import Root

ORDER = [(name, "ascending") for name in ("stack", "shard", "t", "z", "image_id")]


@dataclass(frozen=True, eq=False)
class Items:
    """Images as numbered items, in the order in which they lie.

    Attributes
    ----------
    image_ids
        Names.
    stacks
        Name of each item's stack.
    places
        t and z of each (n, 2); z is -1 in a stack.
    shapes
        Channels, height and width of each (n, 3), pixels.
    shards
        Number of each item's shard, ascending.
    starts
        First item of each shard, and the count of all.
    kinds
        Number of each item's shape.
    rescale
        Slope and intercept of each (n, 2); 1 and 0 where the header has none.
    nbytes
        Decoded bytes of each.
    """

    image_ids: pa.StringArray
    stacks: pa.DictionaryArray
    places: Numbers
    shapes: Numbers
    shards: Numbers
    starts: Numbers
    kinds: Numbers
    rescale: NDArray[np.float64]
    nbytes: Numbers

    def __len__(self) -> int:
        return len(self.shards)


def items_of(images: pa.Table) -> Items:
    """Return the items of catalog rows.

    Parameters
    ----------
    images
        Rows of images that have pixels.

    Raises
    ------
    NothingFound
        If there is none.
    ParameterError
        If an image is a giant one, which no batch can hold.
    """
    if images.num_rows == 0:
        raise NothingFound("No image is chosen", "See what there is: cohort status")
    giants = images.filter(images["giant"])["image_id"].to_pylist()
    if giants:
        raise ParameterError(
            "images", f"{len(giants)} giant images ({giants[0]}, ...)",
            "images that fit into a batch; leave giant ones out: images='giant == False'",
        )  # fmt: skip
    rows = images.take(pc.sort_indices(images, sort_keys=ORDER)).combine_chunks()

    def numbers(*names: str, null: float = 0) -> NDArray[Any]:
        return np.stack([pc.fill_null(rows[n], null).to_numpy() for n in names], axis=1)

    stacks = pc.dictionary_encode(rows["stack"]).combine_chunks()
    of_shard = np.stack([stacks.indices.to_numpy(), rows["shard"].to_numpy()], axis=1)
    begins = np.flatnonzero(np.any(np.diff(of_shard, axis=0, prepend=-1), axis=1))
    shards = np.cumsum(np.isin(np.arange(len(rows)), begins)) - 1
    shapes = numbers("channels", "height", "width").astype(np.int64)
    _, kinds = np.unique(shapes, axis=0, return_inverse=True)
    sizes = {name: np.dtype(name).itemsize for name in pc.unique(rows["dtype"]).to_pylist()}
    itemsize = np.array([sizes[name] for name in rows["dtype"].to_pylist()])
    slope = pc.fill_null(rows["rescale_slope"], 1.0).to_numpy()
    intercept = pc.fill_null(rows["rescale_intercept"], 0.0).to_numpy()
    return Items(
        rows["image_id"].combine_chunks(),
        stacks,
        numbers("t", "z", null=-1).astype(np.int64),
        shapes,
        shards.astype(np.int64),
        np.append(begins, len(rows)).astype(np.int64),
        kinds.reshape(-1).astype(np.int64),
        np.stack([slope, intercept], axis=1),
        np.prod(shapes, axis=1) * itemsize,
    )


Later = Callable[[int, int], NDArray[np.bool_]]


@dataclass(slots=True, eq=False)
class Held:
    """An item in memory: pixels (c, y, x) as they are stored, and the mask (y, x)."""

    pixels: NDArray[Any]
    mask: Labels | None = None

    @property
    def nbytes(self) -> int:
        """What it takes, bytes."""
        return self.pixels.nbytes + (0 if self.mask is None else self.mask.nbytes)


class Memory:
    """Arrays that are used again.

    Items come and go in another order than they came; given back to the system's allocator they
    leave holes, and after some epochs the process had six times the memory that it used.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._free: dict[tuple[object, ...], list[NDArray[Any]]] = {}
        self._bytes = 0

    def copy(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a copy."""
        free = self._free.get((array.dtype, array.shape))
        if not free:
            return array.copy()
        kept = free.pop()
        self._bytes -= kept.nbytes
        kept[:] = array
        return kept

    def give_back(self, *arrays: NDArray[Any] | None) -> None:
        """Take arrays that nobody reads any more."""
        for array in arrays:
            if array is not None and self._bytes + array.nbytes <= self._limit:
                self._free.setdefault((array.dtype, array.shape), []).append(array)
                self._bytes += array.nbytes


class Shelf:
    """Items in memory: what was read with a shard, until its turn.

    Parameters
    ----------
    root, files
        The cohort, and the catalog's rows of its files by path.
    items
        All items.
    masks
        Their masks, or None.
    limit_bytes
        How much is kept. What came first makes room; it is read again by itself if its turn comes.
    """

    def __init__(
        self,
        root: Root,
        files: Mapping[str, ShardRow],
        items: Items,
        masks: Masks | None,
        limit_bytes: int,
    ) -> None:
        self._reader = StackReader(root, files)
        self._items = items
        self._masks = masks
        self._limit = limit_bytes
        self._memory = Memory(limit_bytes)
        self._held: OrderedDict[int, Held] = OrderedDict()
        self._bytes = 0
        self._read: set[int] = set()

    def take(self, wanted: Sequence[int], later: Later) -> Iterator[Held]:
        """Yield items, each to be read until the next one is asked for.

        Parameters
        ----------
        wanted
            Numbers of items.
        later
            Tells of a range of items which will be wanted later: they are kept where their shard
            is read.
        """
        missing: dict[int, list[int]] = {}
        for item in wanted:
            if item not in self._held:
                missing.setdefault(int(self._items.shards[item]), []).append(item)
        for shard, some in missing.items():
            if shard not in self._read:
                begin, end = self._items.starts[shard : shard + 2]
                also = (begin + np.flatnonzero(later(begin, end))).tolist()
                some = sorted({*some, *also})
                self._read.add(shard)
            self._load(some)
        for item in wanted:
            held = self._drop(item)
            yield held
            self._memory.give_back(held.pixels, held.mask)
        while self._bytes > self._limit:
            self._drop(next(iter(self._held)))

    def _drop(self, item: int) -> Held:
        held = self._held.pop(item)
        self._bytes -= held.nbytes
        return held

    def _load(self, some: list[int]) -> None:
        items = self._items
        names = items.image_ids.take(some).to_pylist()
        masks: Sequence[Labels | None] = [None] * len(some)
        if self._masks is not None:
            masks = list(map(self._memory.copy, self._masks.read_many(names)))
        of_place: dict[Place, list[tuple[int, Labels | None]]] = {}
        for item, mask in zip(some, masks, strict=True):
            t, z = items.places[item].tolist()
            of_place.setdefault((t, None if z < 0 else z), []).append((item, mask))
        stack = items.stacks[some[0]].as_py()
        for place, plane in read_planes(self._reader, stack, list(of_place)):
            for item, mask in of_place[place]:  # copies of an image share its place
                channels, height, width = items.shapes[item]
                held = Held(self._memory.copy(plane[:channels, :height, :width]), mask)
                self._held[item] = held
                self._bytes += held.nbytes
