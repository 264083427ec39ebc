"""Render the pictures of one unit on a worker: read pixels once, draw, encode, publish.

A failure affects only its own picture; errors of the store end the unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.errors import StoreError
from engine.operations.base import Operation
from engine.operations.channels import find_channel
from engine.operations.outlines import Outline, outline_labels
from engine.qc.render import (
    OVERLAY_PX,
    THUMB_PX,
    Shown,
    crop,
    encode,
    labels_of,
    montage,
    paint,
    show,
    shrink,
    tint,
)
from engine.runs.plan import PlanItem
from engine.runs.regions import region_of
from engine.runs.rows import reason_code
from engine.runs.worker import ledger_of, read_items
from engine.store.backend.base import Store
from engine.store.catalog.tables import ShardRow
from engine.store.delta.parts import Part
from engine.store.pictures import MONTAGE, MONTAGES, OVERLAY, OVERLAYS, THUMBS, Picture
from engine.store.pictures import publish_picture as publish
from engine.store.pixels.layout import level_shapes
from engine.store.pixels.stacks import StackReader, label_stack
from engine.store.results import DONE

MONTAGE_CROPS = 48
"""Maximum crops in a montage: four rows."""

WRITERS = 16
"""Threads that publish pictures while the next ones are drawn: publishing waits for the disk."""


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """An image to draw; ``made_of`` is the digest of its picture's inputs.

    ``path`` is the prefix of the picture's name, ``parts`` the ledger parts with its results.
    """

    item: PlanItem
    giant: bool
    done: bool
    made_of: str
    path: str
    parts: tuple[Part, ...]

    @property
    def image_id(self) -> str:
        """Identifier of the image."""
        return self.item.image_ids[0]

    @property
    def level(self) -> int:
        """Pyramid level to draw from: the smallest that fills the picture."""
        if not self.giant:
            return 0
        shapes = level_shapes((1, *self.item.shape))
        sides = [max(shape[-2:]) for shape in shapes]
        return max((n for n, side in enumerate(sides) if side >= OVERLAY_PX), default=0)


@dataclass(frozen=True, slots=True)
class OverlayUnit:
    """Overlays to render, of neighbours in the store."""

    number: int
    wanted: tuple[PictureRequest, ...]

    @property
    def pictures(self) -> int:
        """Number of pictures."""
        return len(self.wanted)

    @property
    def parts(self) -> tuple[PictureRequest, ...]:
        """Images to draw."""
        return self.wanted

    def only(self, parts: Sequence[PictureRequest]) -> OverlayUnit:
        """Return the unit with some of its images."""
        return replace(self, wanted=tuple(parts))

    def dry_run(self) -> OverlayUnit:
        """Return the unit itself: drawing twice does no harm."""
        return self


@dataclass(frozen=True, slots=True)
class MontageUnit:
    """One montage to render, of crops of some images."""

    number: int
    name: str
    made_of: str
    path: str
    wanted: tuple[PictureRequest, ...]

    @property
    def pictures(self) -> int:
        """Number of pictures."""
        return 1

    @property
    def parts(self) -> tuple[MontageUnit]:
        """The montage, which can't be divided."""
        return (self,)

    def only(self, parts: Sequence[MontageUnit]) -> MontageUnit:
        """Return the one part."""
        return parts[0]

    def dry_run(self) -> MontageUnit:
        """Return the unit itself: drawing twice does no harm."""
        return self


Unit = OverlayUnit | MontageUnit


@dataclass(frozen=True, slots=True)
class PictureResult:
    """Result of a task: pictures, and (image_id, reason) of failed ones."""

    pictures: tuple[Picture, ...]
    failed: tuple[tuple[str, str], ...] = ()


def make_unit(
    store: Store, operation: Operation, folder: str, unit: Unit, files: Mapping[str, ShardRow]
) -> PictureResult:
    """Render the pictures of a unit and publish them; the driver adds them to the index later.

    Parameters
    ----------
    folder
        Folder of the operation's pictures.
    files
        Catalog rows of the files that it reads, by path.

    Raises
    ------
    StoreFull, StoreReadOnly
    """
    found = _read_objects(store, operation, unit.wanted)
    reader = StackReader(store, files)
    if isinstance(unit, MontageUnit):
        return _make_montage(store, operation, folder, unit, reader, found)
    pictures: list[Picture] = []
    failed: list[tuple[str, str]] = []
    with ThreadPoolExecutor(WRITERS) as pool:
        waiting = []
        for wanted, shown in _read_shown(reader, operation, unit.wanted):
            try:
                if isinstance(shown, Exception):
                    raise shown
                shown, classes = _tinted(reader, operation, wanted, shown)
                outlines = _outlines(reader, operation, wanted, found)
                picture, jpegs = _draw(wanted, shown, outlines)
                picture = replace(picture, labels=(*classes, *picture.labels))
            except StoreError:
                raise
            except Exception as error:  # a failure of this image only, as in a run
                failed.append((wanted.image_id, reason_code(error)))
                continue
            names = [
                pool.submit(publish, store, folder, f"{kind}/{wanted.path}", data)
                for kind, data in zip((OVERLAYS, THUMBS), jpegs, strict=True)
            ]
            waiting.append((picture, names))
        for picture, (path, thumb) in waiting:
            pictures.append(replace(picture, path=path.result(), thumb=thumb.result()))
    return PictureResult(tuple(pictures), tuple(failed))


def _draw(
    wanted: PictureRequest, shown: Shown, outlines: Sequence[Outline]
) -> tuple[Picture, tuple[bytes, bytes]]:
    overlay = encode(paint(shown, outlines))
    thumb = encode(paint(shrink(shown, THUMB_PX), outlines, thin=True))
    height, width = shown.pixels.shape[:2]
    picture = Picture(
        OVERLAY,
        wanted.image_id,
        wanted.made_of,
        "",
        len(overlay),
        "",
        len(thumb),
        height,
        width,
        shown.low,
        shown.high,
        len(outlines),
        tuple(labels_of(outlines)),
        shown.scale,
    )
    return picture, (overlay, thumb)


def _outlines(
    reader: StackReader,
    operation: Operation,
    wanted: PictureRequest,
    found: Mapping[str, Mapping[str, NDArray[Any]]],
) -> list[Outline]:
    if operation.has_instances and wanted.done:
        return outline_labels(_read_labels(reader, operation, wanted), 2.0**wanted.level)
    columns = found.get(wanted.image_id)
    return operation.outlines(columns) if columns is not None and wanted.done else []


def _read_labels(reader: StackReader, operation: Operation, wanted: PictureRequest) -> NDArray[Any]:
    """Return the labels (y, x) of an image, or of the level of a giant image that is shown."""
    item, level = wanted.item, wanted.level
    sides = (slice(0, -(-side // 2**level)) for side in item.shape[1:])
    place = (item.t, 0) if item.z is None else (item.t, 0, item.z)
    return reader.read(label_stack(item.stack, operation.label_name), (*place, *sides), level)


def _tinted(
    reader: StackReader, operation: Operation, wanted: PictureRequest, shown: Shown
) -> tuple[Shown, list[str]]:
    """Return an image with its labels overlaid, if it has any, and the names of the classes."""
    if not operation.label_classes or not wanted.done:
        return shown, []
    return tint(shown, _read_labels(reader, operation, wanted), operation.label_classes)


def _make_montage(
    store: Store,
    operation: Operation,
    folder: str,
    unit: MontageUnit,
    reader: StackReader,
    found: Mapping[str, Mapping[str, NDArray[Any]]],
) -> PictureResult:
    each = -(-MONTAGE_CROPS // max(1, len(unit.wanted)))
    tiles: list[tuple[float, NDArray[np.uint8]]] = []
    kinds: list[str] = []
    failed: list[tuple[str, str]] = []
    for wanted, shown in _read_shown(reader, operation, unit.wanted):
        try:
            if isinstance(shown, Exception):
                raise shown
            outlines = _outlines(reader, operation, wanted, found)
            kinds += [kind for kind in labels_of(outlines) if kind not in kinds]
            tiles += _tiles(shown, outlines, kinds, each)
        except StoreError:
            raise
        except Exception as error:
            failed.append((wanted.image_id, reason_code(error)))
    if not tiles:
        return PictureResult((), tuple(failed))
    tiles = sorted(tiles[:MONTAGE_CROPS], key=lambda tile: tile[0])
    sheet = montage([tile for _, tile in tiles])
    data = encode(sheet)
    picture = Picture(
        MONTAGE,
        unit.name,
        unit.made_of,
        publish(store, folder, f"{MONTAGES}/{unit.path}", data),
        len(data),
        height=sheet.shape[0],
        width=sheet.shape[1],
        outlines=len(tiles),
        labels=tuple(kinds),
    )
    # Show an incomplete montage, but render it again the next time.
    return PictureResult((replace(picture, made_of="") if failed else picture,), tuple(failed))


def _tiles(
    shown: Shown, outlines: Sequence[Outline], kinds: Sequence[str], most: int
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield crops of objects spread evenly over an image, with their sizes in pixels."""
    first = [outline for outline in outlines if outline.label == outlines[0].label]
    others = [outline for outline in outlines if outline.label != outlines[0].label][:most]
    for n in np.unique(np.linspace(0, len(first) - 1, min(most, len(first))).round().astype(int)):
        size = float(np.ptp(first[n].points, axis=0).max())
        yield size, crop(shown, first[n], [first[n], *others], kinds)


def _read_shown(
    reader: StackReader, operation: Operation, wanted: Sequence[PictureRequest]
) -> Iterator[tuple[PictureRequest, Shown | Exception]]:
    """Read images for display, neighbours together; yield the error for an unreadable one."""
    chosen = getattr(operation, "channel", None)

    def channel_of(item: PlanItem) -> int | None:
        if not isinstance(chosen, (int, str)):
            return None
        return find_channel(chosen, item.channel_names, item.shape[0])

    flat = [one for one in wanted if not one.giant]
    pairs = read_items(reader, tuple(one.item for one in flat), lambda item: region_of(item)[0])
    for one, (item, image) in zip(flat, pairs, strict=True):
        yield one, image if isinstance(image, Exception) else show(image.pixels, channel_of(item))
    for one in wanted:
        if one.giant:
            level = one.level
            whole = (0, slice(None), slice(None), slice(None))
            try:
                pixels = reader.read(one.item.stack, whole, level)
            except Exception as error:
                yield one, error
                continue
            yield one, show(pixels, channel_of(one.item), 2.0**level)


def _read_objects(
    store: Store, operation: Operation, wanted: Sequence[PictureRequest]
) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the object columns of each completed image, with its blocks concatenated."""
    ledger = ledger_of(store, operation)
    parts = {part.path: part for one in wanted for part in one.parts}
    names = pa.array([one.image_id for one in wanted], pa.string())
    inputs = {one.image_id: one.item.inputs for one in wanted}
    pieces: dict[str, list[pa.Array]] = {}
    for part in parts.values():
        rows = ledger.read_part(part, ["image_id", "inputs", "status", "objects"])
        rows = rows.filter(pc.is_in(rows["image_id"], value_set=names))
        for n, (image_id, of, status) in enumerate(
            zip(*(rows[c].to_pylist() for c in ("image_id", "inputs", "status")), strict=True)
        ):
            if of == inputs[image_id] and status == DONE:
                pieces.setdefault(image_id, []).append(rows["objects"][n].values)
    return {image_id: _columns(operation, arrays) for image_id, arrays in pieces.items()}


def _columns(operation: Operation, arrays: list[pa.Array]) -> dict[str, NDArray[Any]]:
    structs = pa.concat_arrays(arrays)
    fields = operation.object_schema.names
    return {name: structs.field(name).to_numpy(zero_copy_only=False) for name in fields}
