"""Images and stacks as xarray objects; pixels are read on access.

xarray and dask.array are imported where they are used: together they would take a third of the time
of ``import engine``, and neither workers nor the command line need them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.errors import NothingFound
from engine.operations.array_metadata import (
    as_array,
    attributes_of,
    channel_labels,
    in_units,
    named,
)
from engine.runs.selection import condition_of, select_images, with_sources
from engine.store.arrow import is_any
from engine.store.backend.base import Store
from engine.store.catalog.derived import CHANNEL_NAMES
from engine.store.catalog.tables import ShardRow, expand_fields
from engine.store.labels.images import LABELS, files_by_path, is_label
from engine.store.pixels.stacks import StackReader, stack_path

if TYPE_CHECKING:
    import xarray as xr


class Images(Sequence["xr.DataArray"]):
    """The images of a cohort that have pixels, by image_id; each is read on access."""

    def __init__(
        self,
        store: Store,
        images: pa.Table,
        files: Sequence[ShardRow],
        where: str | None,
        *,
        stored: bool = False,
    ) -> None:
        chosen = select_images(images, condition_of(store, where), None)
        self.frame = expand_fields(chosen).to_pandas()
        self._reader = StackReader(store, {row.path: row for row in files})
        self._stored = stored

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        return f"<{len(self)} images; their rows of the catalog are in .frame>"

    @overload
    def __getitem__(self, index: int) -> xr.DataArray: ...
    @overload
    def __getitem__(self, index: slice) -> list[xr.DataArray]: ...
    def __getitem__(self, index: int | slice) -> xr.DataArray | list[xr.DataArray]:
        """Read an image, or several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._read(self.frame.iloc[index])

    def __iter__(self) -> Iterator[xr.DataArray]:
        return (self[i] for i in range(len(self)))

    def by_id(self, image_id: str) -> xr.DataArray:
        """Return an image by its image_id."""
        rows = self.frame[self.frame["image_id"] == image_id]
        if rows.empty:
            raise KeyError(image_id)
        return self._read(rows.iloc[0])

    def _read(self, row: Any) -> xr.DataArray:
        box = (slice(0, int(row.channels)), slice(0, int(row.height)), slice(0, int(row.width)))
        place: tuple[int | slice, ...] = (int(row.t), *box)
        if row.z is not None and not np.isnan(row.z):
            place = (int(row.t), box[0], int(row.z), *box[1:])
        pixels = self._reader.read(row.stack, place)
        sides = float(row.spacing_y_um), float(row.spacing_x_um)
        spacing = None if np.isnan(sides).any() else sides
        rescale = float(row.rescale_slope), float(row.rescale_intercept)
        known = None if np.isnan(rescale).any() else rescale
        separate = 1 < len(row.noise_sd) == len(pixels)
        said = attributes_of(row.source, named(row.image_id, row), known, separate)
        if known is not None and not self._stored:
            said["stored_dtype"] = str(pixels.dtype)
            pixels = in_units(pixels, known)
        names = () if row.channel_names is None else tuple(row.channel_names)
        return as_array(pixels, spacing, attributes=said, channel_names=names)


def chosen_images(
    store: Store,
    images: pa.Table,
    chosen: str | Sequence[str] | Images | None,
    with_orphaned: bool = False,
) -> pa.Table:
    """Return the catalog's rows of the chosen images that have pixels.

    Parameters
    ----------
    store
        The cohort.
    images
        The catalog's current rows.
    chosen
        A condition on the catalog's columns, image_ids, or images; None for all.

    with_orphaned
        Include images whose source is gone.

    Raises
    ------
    NothingFound
        If an image_id is not in the catalog, has no pixels, or is orphaned.
    """
    if chosen is None or isinstance(chosen, str):
        found = select_images(images, condition_of(store, chosen), None)
        return found if with_orphaned else with_sources(found)
    names = list(chosen.frame["image_id"]) if isinstance(chosen, Images) else list(chosen)
    ready = select_images(images, None, None)
    unknown = sorted({*names} - {*ready["image_id"].to_pylist()})
    if unknown:
        raise NothingFound(
            f"{len(unknown)} of {len(names)} images have no pixels here, e.g. {unknown[0]!r}",
            "image_ids are those of cohort.images().frame; a condition is given as one text.",
        )
    found = ready.filter(is_any(ready["image_id"], names))
    kept = found if with_orphaned else with_sources(found)
    if kept.num_rows < found.num_rows and not isinstance(chosen, Images):
        (first, *_) = sorted({*found["image_id"].to_pylist()} - {*kept["image_id"].to_pylist()})
        raise NothingFound(
            f"{found.num_rows - kept.num_rows} of {len(names)} images are orphaned, since their "
            f"sources are gone, e.g. {first!r}",
            "Leave them out, or take them by with_orphaned=True.",
        )
    return kept


class Level:
    """One level of a stack with the array interface that Dask expects; reads are verified.

    Small and picklable; paths and metadata travel to a worker, not pixels.
    """

    def __init__(self, store: Store, files: Mapping[str, ShardRow], stack: str, level: int) -> None:
        self._given = (store, files, stack, level)
        self._reader = StackReader(store, files)
        array = self._reader.array(stack, level)
        self.shape: tuple[int, ...] = array.shape
        self.ndim = len(self.shape)
        self.dtype: np.dtype[Any] = array.dtype
        self.chunks: tuple[int, ...] = array.shards or array.chunks

    def __reduce__(self) -> tuple[Any, ...]:
        return Level, self._given

    def __getitem__(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        """Read a box inside one shard: an int or a slice for each axis."""
        _, files, stack, level = self._given
        ranges = [
            range(i, i + 1) if isinstance(i, (int, np.integer)) else range(*i.indices(n))
            for i, n in zip(index, self.shape, strict=True)
        ]
        box = tuple(slice(min(r), max(r) + 1) if r else slice(0, 0) for r in ranges)
        corner = [s.start // side for s, side in zip(box, self.chunks, strict=True)]
        if f"{stack_path(stack)}/{level}/c/{'/'.join(map(str, corner))}" in files:
            pixels = self._reader.read(stack, box, level)
        else:  # empty shard, e.g. all of its planes are duplicates
            pixels = np.zeros([s.stop - s.start for s in box], self.dtype)
        return pixels[
            tuple(slice(None, None, i.step) if isinstance(i, slice) else 0 for i in index)
        ]


def stack_tree(store: Store, images: pa.Table, files: Sequence[ShardRow]) -> xr.DataTree:
    """Return a tree with one node per stack and level, ``/<stack>/<level>``, read lazily.

    Label images are at ``/<stack>/labels/<name>/<level>``, in ``labels`` instead of ``pixels``. The
    coordinate ``c`` has the names of channels that all images of a stack share.
    """
    import dask.array as da
    import xarray as xr

    by_level: dict[tuple[str, int], dict[str, ShardRow]] = {}
    for row in files_by_path(store, files).values():
        if row.level >= 0:
            by_level.setdefault((row.stack, row.level), {})[row.path] = row
    channels = _names_by_stack(images)
    nodes = {}
    for (stack, number), rows in sorted(by_level.items()):
        level = Level(store, rows, stack, number)
        names = ("t", "c", "z", "y", "x") if level.ndim == 5 else ("t", "c", "y", "x")
        meta = np.empty((0,) * level.ndim, level.dtype)
        lazy = da.from_array(level, chunks=level.chunks, name=False, fancy=False, meta=meta)
        what = "labels" if is_label(stack) else "pixels"
        place = stack.replace(LABELS, "/labels/")
        labels = channel_labels(channels.get(stack, ()))
        coordinates = {"c": labels} if len(labels) == level.shape[1] else {}
        nodes[f"/{place}/{number}"] = xr.Dataset({what: (names, lazy)}, coordinates)
    return xr.DataTree.from_dict(nodes)


def _names_by_stack(images: pa.Table) -> dict[str, tuple[str, ...]]:
    """Return the names of the channels of each stack whose images all have the same."""
    found: dict[str, set[tuple[str, ...]]] = {}
    columns = (images[name].to_pylist() for name in ("stack", CHANNEL_NAMES))
    for stack, names in zip(*columns, strict=True):
        found.setdefault(stack, set()).add(tuple(names or ()))
    return {stack: names.pop() for stack, names in found.items() if len(names) == 1}
