"""What batches are made of: where each item's pixels lie, and the items that are held in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
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
from engine.store.planes import read_planes
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


Held = tuple[NDArray[Any], Labels | None]
"""Pixels (c, y, x) as they are stored, and the mask (y, x)."""


Later = Callable[[int, int], NDArray[np.bool_]]


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
        self._held: OrderedDict[int, Held] = OrderedDict()
        self._bytes = 0
        self._read: set[int] = set()

    def take(self, wanted: Sequence[int], later: Later) -> list[Held]:
        """Return items, and forget them.

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
        taken = [self._held.pop(item) for item in wanted]
        self._bytes -= sum(_bytes_of(held) for held in taken)
        while self._bytes > self._limit:
            _, dropped = self._held.popitem(last=False)
            self._bytes -= _bytes_of(dropped)
        return taken

    def clear(self) -> None:
        """Forget everything: another epoch begins."""
        self._held.clear()
        self._read.clear()
        self._bytes = 0

    def _load(self, some: list[int]) -> None:
        items = self._items
        stack = items.stacks[some[0]].as_py()
        places = [(t, None if z < 0 else z) for t, z in items.places[some].tolist()]
        once = list(dict.fromkeys(places))  # copies of an image share its pixels
        planes = dict(zip(once, read_planes(self._reader, stack, once), strict=True))
        masks: Sequence[Labels | None] = [None] * len(some)
        if self._masks is not None:
            masks = self._masks.read_many(items.image_ids.take(some).to_pylist())
        for item, place, mask in zip(some, places, masks, strict=True):
            channels, height, width = items.shapes[item]
            held = planes[place][:channels, :height, :width], mask
            self._held[item] = held
            self._bytes += _bytes_of(held)


def _bytes_of(held: Held) -> int:
    pixels, mask = held
    return pixels.nbytes + (0 if mask is None else mask.nbytes)
