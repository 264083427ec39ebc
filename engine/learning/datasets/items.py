"""Items of batches: an index of their pixels, and a cache that loads them shard by shard."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.errors import NothingFound, ParameterError
from engine.learning.datasets.masks import Labels, Masks
from engine.learning.datasets.sampler import Numbers
from engine.store.backend.base import Store
from engine.store.catalog.tables import ShardRow
from engine.store.pixels.read_planes import PlaneIndex, read_planes
from engine.store.pixels.stacks import StackReader

ORDER = [(name, "ascending") for name in ("stack", "shard", "t", "z", "image_id")]


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """Index of images as numbered items, in storage order.

    Attributes
    ----------
    image_ids
        Image ids.
    stacks
        Name of each item's stack.
    places
        t and z of each item (n, 2); z is -1 in a stack.
    shapes
        Channels, height and width of each item (n, 3), pixels.
    shards
        Number of each item's shard, ascending.
    starts
        First item of each shard, and the total number of items.
    kinds
        Number of the shape of each item.
    rescale
        Slope and intercept of each item (n, 2); 1 and 0 without rescaling in the header.
    nbytes
        Decoded bytes of each item.
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


def items_of(images: pa.Table) -> ItemIndex:
    """Return the index of the images in catalog rows.

    Parameters
    ----------
    images
        Rows of images that have pixels.

    Raises
    ------
    NothingFound
        If there are no images.
    ParameterError
        If an image is giant, so that no batch can hold it.
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
    return ItemIndex(
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


@dataclass(slots=True, eq=False)
class LoadedItem:
    """Item in memory: pixels (c, y, x) as stored, and the mask (y, x)."""

    pixels: NDArray[Any]
    mask: Labels | None = None

    @property
    def nbytes(self) -> int:
        """Memory size, bytes."""
        return self.pixels.nbytes + (0 if self.mask is None else self.mask.nbytes)


class ArrayPool:
    """Pool of arrays for reuse.

    Items leave memory in another order than they enter it; returned to the system's allocator they
    fragment the heap, and after some epochs the process had six times the memory that it used.
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
        """Return arrays to the pool; no reader may use them any more."""
        for array in arrays:
            if array is not None and self._bytes + array.nbytes <= self._limit:
                self._free.setdefault((array.dtype, array.shape), []).append(array)
                self._bytes += array.nbytes


Planes = dict[PlaneIndex, NDArray[Any]]
"""Planes (c, y, x) of one shard by (t, z)."""


class ShardPrefetcher:
    """Prefetching cache of items: each shard is read once, and its items are held until needed.

    While the items of one shard are yielded, a thread reads the next shard: decoding is most of
    the work, and releases the GIL.

    Parameters
    ----------
    root, files
        The cohort's store, and the catalog's rows of its files by path.
    items
        All items.
    masks
        Masks of the items, or None.
    wanted
        Numbers of the items that will be requested, in order.
    limit_bytes
        Memory limit. The oldest items are evicted, and read again individually when requested.
    """

    def __init__(
        self,
        store: Store,
        files: Mapping[str, ShardRow],
        items: ItemIndex,
        masks: Masks | None,
        wanted: Numbers,
        limit_bytes: int,
    ) -> None:
        self._reader = StackReader(store, files)
        self._items = items
        self._masks = masks
        self._limit = limit_bytes
        self._memory = ArrayPool(limit_bytes)
        self._held: OrderedDict[int, LoadedItem] = OrderedDict()
        self._bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._shards = _by_shard(items.shards, wanted)
        self._ahead: Future[Planes] | None = None
        self._expected: list[int] = []
        self._read_ahead()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def take(self, wanted: Sequence[int]) -> Iterator[LoadedItem]:
        """Yield items, each valid until the next one is requested."""
        missing: dict[int, list[int]] = {}
        for item in wanted:
            if item not in self._held:
                missing.setdefault(int(self._items.shards[item]), []).append(item)
        for some in missing.values():
            if self._ahead is not None and some[0] in self._expected:
                some, planes = self._expected, self._ahead.result()
                self._read_ahead()
            else:  # it was evicted
                planes = self._thread.submit(self._read, some).result()
            self._load(some, planes)
            del planes  # a whole shard, already copied
        for item in wanted:
            held = self._drop(item)
            yield held
            self._memory.give_back(held.pixels, held.mask)
        while self._bytes > self._limit:
            self._drop(next(iter(self._held)))

    def _drop(self, item: int) -> LoadedItem:
        held = self._held.pop(item)
        self._bytes -= held.nbytes
        return held

    def _read_ahead(self) -> None:
        self._expected = next(self._shards, [])
        self._ahead = self._thread.submit(self._read, self._expected) if self._expected else None

    def _read(self, some: Sequence[int]) -> Planes:
        """Read the planes of items of one shard."""
        places = {self._place(item) for item in some}
        return dict(read_planes(self._reader, self._items.stacks[some[0]].as_py(), list(places)))

    def _place(self, item: int) -> PlaneIndex:
        t, z = self._items.places[item].tolist()
        return t, None if z < 0 else z

    def _load(self, some: list[int], planes: Planes) -> None:
        masks: Iterable[Labels | None] = repeat(None)
        if self._masks is not None:
            masks = self._masks.read_many(self._items.image_ids.take(some).to_pylist())
        shapes = self._items.shapes[some].tolist()
        for item, (channels, height, width), mask in zip(some, shapes, masks, strict=False):
            plane = planes[self._place(item)]  # copies of an image share its place
            held = LoadedItem(
                self._memory.copy(plane[:channels, :height, :width]),
                None if mask is None else self._memory.copy(mask),
            )
            self._held[item] = held
            self._bytes += held.nbytes


def _by_shard(shards: Numbers, wanted: Numbers) -> Iterator[list[int]]:
    """Yield the requested items of each shard, in storage order, by the first use of the shard."""
    numbers, first = np.unique(shards[wanted], return_index=True)
    lying = np.sort(wanted)
    parts = np.split(lying, np.searchsorted(shards[lying], numbers[1:]))
    yield from (parts[n].tolist() for n in np.argsort(first))
