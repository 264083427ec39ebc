"""OME-Zarr 0.5 stacks: write shard by shard, read with all integrity checks.

A shard is assembled in a staging folder and published once under its final name (a link or a
conditional put), so that it appears whole or not at all. Reading adds the checks that Zarr lacks:
metadata against their digest, and a shard's existence and size against the catalog. The checksums
of the chunks (zstd's, or crc32c) and of the shard's index (crc32c) cover the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import AlignmentError, AlreadyExists, Conflict, CorruptStore, MissingObject
from engine.store.backend.base import Store
from engine.store.catalog.tables import ShardRow
from engine.store.digests import digest_bytes
from engine.store.pixels.channel_display import omero_attributes
from engine.store.pixels.layout import StackLayout, level_shapes
from engine.store.pixels.ome_metadata import group_attributes
from engine.store.pixels.shard_codec import count_chunks, merge_shards

if TYPE_CHECKING:
    import zarr
    from zarr.abc.codec import BytesBytesCodec

OPEN_ARRAYS = 64
"""Size of the cache of open arrays per process; each is a few kilobytes of metadata."""


@lru_cache(maxsize=OPEN_ARRAYS)
def _open_level(store: Store, path: str, digest: str) -> zarr.Array[Any]:
    """Open a level for reading, cached per process; ``digest`` is that of its checked metadata."""
    from engine.store.pixels.zarr_arrays import open_array

    return open_array(store.as_zarr_store(path), "r")


def stack_path(stack: str) -> str:
    """Return the path of a stack, or of one of its label images, relative to the cohort.

    Examples
    --------
    >>> stack_path("a-0"), stack_path(label_stack("a-0", "segment@12345678"))
    ('pixels/a-0.zarr', 'pixels/a-0.zarr/labels/segment@12345678')
    """
    return f"pixels/{stack}" if "/" in stack else f"pixels/{stack}.zarr"


def label_stack(stack: str, name: str) -> str:
    """Return the catalog's name of a label image of a stack; readers treat it as a stack."""
    return f"{stack}.zarr/labels/{name}"


def shard_key(grid: Sequence[int], index: int) -> str:
    """Return the Zarr key of a shard from its C-order index in the shard grid.

    Examples
    --------
    >>> shard_key((2, 1, 3, 3), 10)
    'c/1/0/0/1'
    """
    if not 0 <= index < math.prod(grid):
        raise AlignmentError(index, f"a grid of {tuple(grid)} shards")
    return "c/" + "/".join(str(int(i)) for i in np.unravel_index(index, grid))


@dataclass(frozen=True, slots=True)
class LevelPlan:
    """Shapes of one array to create: of the whole, of its shards and of its chunks."""

    shape: tuple[int, ...]
    shard: tuple[int, ...]
    chunk: tuple[int, ...]


def create_stack(store: Store, plan: StackLayout) -> list[ShardRow]:
    """Write the metadata of all levels of a stack, and return their rows for the catalog."""
    return _create(store, plan.name, stack_metadata(store, plan))


def stack_metadata(store: Store, plan: StackLayout) -> dict[str, bytes]:
    """Return the metadata files of a stack, by path in the order in which they are written."""
    from engine.store.pixels.zarr_arrays import pixel_codecs

    shapes = level_shapes(plan.shape) if plan.kind == "giant" else (plan.shape,)
    names = () if plan.display else plan.channel_names
    attributes = group_attributes(plan.name, shapes, plan.spacing_um, plan.lattice, names)
    if plan.display:
        attributes["ome"]["omero"] = omero_attributes(plan.display, plan.dtype)
    levels = [LevelPlan(shape, plan.shard, plan.chunk) for shape in shapes]
    codecs = pixel_codecs(plan.dtype)
    return _metadata(store, plan.name, levels, plan.dtype, attributes, codecs)


def create_image(
    store: Store,
    stack: str,
    levels: Sequence[LevelPlan],
    dtype: str,
    attributes: Mapping[str, Any],
) -> list[ShardRow]:
    """Write the metadata of an OME-Zarr image; reuse existing metadata if they are equal.

    Parameters
    ----------
    stack
        Name of a stack, or a `label_stack`.
    levels
        Arrays of axes t,c,y,x or t,c,z,y,x, finest first.
    attributes
        Attributes of the group.

    Returns
    -------
    Rows for the catalog: one for each array, and one for the group.

    Raises
    ------
    Conflict
        If different metadata exist.
    """
    from engine.store.pixels.zarr_arrays import ZSTD

    return _create(store, stack, _metadata(store, stack, levels, dtype, attributes, ZSTD))


def _metadata(
    store: Store,
    stack: str,
    levels: Sequence[LevelPlan],
    dtype: str,
    attributes: Mapping[str, Any],
    codecs: Sequence[BytesBytesCodec],
) -> dict[str, bytes]:
    import zarr

    with store.staging() as folder:
        made = folder / "stack.zarr"
        group = zarr.create_group(made, zarr_format=3, attributes=dict(attributes))
        names = ("t", "c", "z", "y", "x") if len(levels[0].shape) == 5 else ("t", "c", "y", "x")
        for number, level in enumerate(levels):
            group.create_array(
                str(number),
                shape=level.shape,
                dtype=dtype,
                chunks=level.chunk,
                shards=level.shard,
                compressors=codecs,
                fill_value=0,
                dimension_names=names,
            )
        # The group last: viewers see complete stacks.
        files = [*(f"{number}/zarr.json" for number in range(len(levels))), "zarr.json"]
        return {f"{stack_path(stack)}/{name}": (made / name).read_bytes() for name in files}


def _create(store: Store, stack: str, files: Mapping[str, bytes]) -> list[ShardRow]:
    rows = []
    for number, (path, mine) in enumerate(files.items()):
        data = mine
        try:
            store.create(path, mine)
        except AlreadyExists:
            data = store.read(path)
            if data != mine and json.loads(data) != json.loads(mine):
                raise Conflict(path) from None
        level = number if number < len(files) - 1 else -1
        rows.append(ShardRow(path, stack, level, -1, digest_bytes(data), len(data), -1))
    return rows


class StackWriter:
    """Writer of whole shards of one level of a stack.

    Parameters
    ----------
    store
        Storage of the cohort.
    stack
        Name of a stack made by `create_stack`.
    level
        Level of the pyramid.
    """

    def __init__(self, store: Store, stack: str, level: int = 0) -> None:
        self._store, self._stack, self._level = store, stack, level
        self._base = f"{stack_path(stack)}/{level}"
        self.metadata: dict[str, Any] = json.loads(store.read(f"{self._base}/zarr.json"))
        self.shape = tuple(self.metadata["shape"])
        self.shard = tuple(self.metadata["chunk_grid"]["configuration"]["chunk_shape"])
        inner = tuple(self.metadata["codecs"][0]["configuration"]["chunk_shape"])
        self.inner = tuple(s // i for s, i in zip(self.shard, inner, strict=True))
        self.chunks = math.prod(self.inner)
        self.grid = tuple(-(-n // s) for n, s in zip(self.shape, self.shard, strict=True))

    def write(self, index: int, pixels: NDArray[Any]) -> ShardRow:
        """Publish one shard once; a retry with the same pixels reuses the existing shard.

        Parameters
        ----------
        index
            C-order index in the shard grid.
        pixels
            Array of the shard's shape, cropped at the edge of the level.

        Raises
        ------
        AlignmentError
            If the array does not have the shape of one whole shard.
        Conflict
            If the shard exists with other pixels.
        StoreFull, StoreReadOnly
        """
        path = self.path_of(index)
        self._check_shape(index, pixels)
        with self._store.staging() as folder:
            assembled = self._assemble(folder, pixels)
            if not assembled.exists():  # every chunk is blank, and blank chunks are not stored
                return self._row(path, index, b"", 0)
            data = assembled.read_bytes()
            try:
                self._store.create_from(path, assembled)
            except AlreadyExists:
                data = self._reuse_existing(path, data, pixels)
        return self._row(path, index, data, count_chunks(data, self.chunks))

    def encode(self, index: int, pixels: NDArray[Any]) -> bytes:
        """Return the bytes that `write` would publish for one shard; a blank one is only its index.

        Raises
        ------
        AlignmentError, StoreFull, StoreReadOnly
        """
        self._check_shape(index, pixels)
        with self._store.staging() as folder:
            assembled = self._assemble(folder, pixels)
            data = assembled.read_bytes() if assembled.exists() else None
        return merge_shards(None, data, self.chunks)

    def path_of(self, index: int) -> str:
        """Return the path of a shard from its C-order index, relative to the cohort."""
        return f"{self._base}/{shard_key(self.grid, index)}"

    def shape_of(self, index: int) -> tuple[int, ...]:
        """Return the shape of a shard, cropped at the edge of the level."""
        corner = np.unravel_index(index, self.grid)
        return tuple(
            min(s, n - int(c) * s) for c, s, n in zip(corner, self.shard, self.shape, strict=True)
        )

    def _check_shape(self, index: int, pixels: NDArray[Any]) -> None:
        due = self.shape_of(index)
        if pixels.shape != due:
            raise AlignmentError(pixels.shape, f"{self.path_of(index)}, of {due} pixels")

    def _row(self, path: str, index: int, data: bytes, chunks: int) -> ShardRow:
        return ShardRow(
            path, self._stack, self._level, index, digest_bytes(data), len(data), chunks
        )

    def describe(self) -> ShardRow:
        """Return the catalog's row of the level's own metadata."""
        path = f"{self._base}/zarr.json"
        return self._row(path, -1, self._store.read(path), -1)

    def _assemble(self, folder: Path, pixels: NDArray[Any]) -> Path:
        from engine.store.pixels.zarr_arrays import open_array

        (folder / "zarr.json").write_text(json.dumps({**self.metadata, "shape": self.shard}))
        array = open_array(folder, "r+")
        array[tuple(slice(0, n) for n in pixels.shape)] = pixels
        return folder / shard_key((1,) * len(self.shard), 0)

    def _reuse_existing(self, path: str, mine: bytes, pixels: NDArray[Any]) -> bytes:
        """Reuse the shard of an earlier attempt if its pixels are equal."""
        there = self._store.read(path)
        if there == mine:
            return there
        with self.open_bytes(there) as array:
            same = np.array_equal(array[tuple(slice(0, n) for n in pixels.shape)], pixels)
        if not same:
            raise Conflict(path)
        return there

    @contextmanager
    def open_bytes(self, data: bytes) -> Iterator[zarr.Array[Any]]:
        """Yield an array of the shard's shape, backed by the given bytes, e.g. damaged ones."""
        from engine.store.pixels.zarr_arrays import open_array

        with self._store.staging() as folder:
            (folder / "zarr.json").write_text(json.dumps({**self.metadata, "shape": self.shard}))
            target = folder / shard_key((1,) * len(self.shard), 0)
            target.parent.mkdir(parents=True)
            target.write_bytes(data)
            yield open_array(folder, "r")


class StackReader:
    """Reader of a cohort's pixels that checks files against their catalog rows.

    Parameters
    ----------
    store
        Storage of the cohort.
    files
        Catalog rows by path, at least of the metadata and shards to read.
    """

    def __init__(self, store: Store, files: Mapping[str, ShardRow]) -> None:
        self._store = store
        self._files = files
        self._checked: dict[str, str] = {}

    def array(self, stack: str, level: int | str = 0) -> zarr.Array[Any]:
        """Return a level as a Zarr array with checked metadata.

        ``level`` may be the path of a label image's level, ``labels/<name>/0``.

        Raises
        ------
        MissingObject, CorruptStore
        """
        path = f"{stack_path(stack)}/{level}"
        if path not in self._checked:
            self._checked[path] = self._check_metadata(f"{path}/zarr.json")
        return _open_level(self._store, path, self._checked[path])

    def _check_metadata(self, path: str) -> str:
        row = self._files.get(path)
        if row is None:
            raise CorruptStore(path, "is not in the catalog")
        if digest_bytes(self._store.read(path)) != row.digest:
            raise CorruptStore(path, "its bytes do not match the catalog's digest")
        return row.digest

    def check_shard(self, path: str) -> bool:
        """Return True if a shard holds any chunk; raise if its file differs from the catalog."""
        row = self._files.get(path)
        if row is None:
            raise CorruptStore(path, "is not in the catalog")
        size = self._store.size(path)
        if size is None and row.size:
            raise MissingObject(path)
        if (size or 0) != row.size:
            raise CorruptStore(path, f"has {size or 0} bytes, but the catalog says {row.size}")
        return row.chunks > 0

    def read(
        self, stack: str, index: tuple[slice | int, ...], level: int | str = 0
    ) -> NDArray[Any]:
        """Read pixels, and check every shard that holds any of them.

        Parameters
        ----------
        index
            One int or slice (step 1) for each axis of the level.
        level
            Level of the pyramid; or the path of a label image's level, ``labels/<name>/0``.

        Raises
        ------
        MissingObject
            If a catalogued shard does not exist.
        CorruptStore
            If metadata, a shard or a chunk differ from their written state.
        """
        array = self.array(stack, level)
        box = [
            (i, i + 1) if isinstance(i, int) else i.indices(n)[:2]
            for i, n in zip(index, array.shape, strict=True)
        ]
        shard = array.shards or array.chunks
        touched = [range(lo // s, -(-hi // s)) for (lo, hi), s in zip(box, shard, strict=True)]
        for corner in np.ndindex(*(len(r) for r in touched)):
            key = "/".join(str(r[i]) for r, i in zip(touched, corner, strict=True))
            self.check_shard(f"{stack_path(stack)}/{level}/c/{key}")
        try:
            return np.asarray(array[index])
        except MemoryError:
            raise
        except Exception as error:
            # zarr and zarrs raise many types for bad checksums; their texts hold no pixels.
            where = f"{stack_path(stack)}/{level}"
            told = f"a chunk can't be decoded ({type(error).__name__})"
            named = self._store.as_store_error(error, where, reading=True) or CorruptStore(
                where, told
            )
            raise named from None
