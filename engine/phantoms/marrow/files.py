"""Files of a set of synthetic marrow slides, with exact masks and a table of the truth."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import ParameterError, install_command
from engine.kernels.segmentation.tissue import COLOURS, Tissue, bone_density
from engine.phantoms.folders import claim_folder, mark_of
from engine.phantoms.marrow.options import MarrowOptions
from engine.phantoms.marrow.png_stream import PngRows
from engine.phantoms.marrow.slide import MarrowSlide

COMMAND = "cohort phantom marrow"
TRUTH = "truth.parquet"

MASKED = (Tissue.BONE, Tissue.FAT, Tissue.OTHER)
"""Classes that have masks; the background is outside all of them."""

UM_PER_PX = 2.0
"""Pixel size at which the vacuoles of scale 1 have their natural width of some 50 micrometres."""

TILE_PX = 256
SMALLEST_LEVEL_PX = 512

TRUTH_SCHEMA = pa.schema(
    [
        ("slide_number", pa.int64()),
        ("subject", pa.string()),
        ("name", pa.string()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("background_px", pa.int64()),
        ("bone_px", pa.int64()),
        ("fat_px", pa.int64()),
        ("other_px", pa.int64()),
        ("bone_density", pa.float64()),
    ]
)
"""One row per slide, counted on its masks. bone_density: bone / (bone + fat + other)."""

Apply = Callable[[Callable[[int], dict[str, Any]], Iterable[int]], Iterable[dict[str, Any]]]


def write_marrow(directory: str | Path, options: MarrowOptions, apply: Apply = map) -> Path:
    """Write a set of synthetic slides; equal options give equal pixels.

    Slides go to ``slides/<subject>/<name>.png`` (.psd, .tif), masks of 0 and 255 to
    ``masks/<bone, fat or other>/<subject>/<name>.png``. A layered PSD also holds them as layers, as
    annotators draw them: the slide, the foreground, fat under a mask, and bone. All formats but PSD
    are streamed, so memory does not depend on the size.

    Parameters
    ----------
    directory
        A new or empty folder, or one written with the same options.
    options
        Parameters of the set.
    apply
        Called with a picklable function and the slides' numbers, like ``map``.

    Returns
    -------
    Path of ``truth.parquet``: one row per slide with the columns of `TRUTH_SCHEMA`.

    Raises
    ------
    ParameterError
        If the folder holds anything else, or a package for the format is missing.
    """
    root = Path(directory)
    expected = f"a new or empty folder, or one where {COMMAND} wrote the same set"
    claim_folder(root, mark_of(COMMAND, asdict(options)), expected)
    rows = list(apply(partial(_write_slide, root, options), range(options.images)))
    rows.sort(key=lambda row: (row["subject"], row["name"]))
    pq.write_table(pa.Table.from_pylist(rows, schema=TRUTH_SCHEMA), root / TRUTH)
    return root / TRUTH


def _write_slide(root: Path, options: MarrowOptions, number: int) -> dict[str, Any]:
    slide = MarrowSlide(options, number)
    areas = np.zeros(len(Tissue), np.int64)
    with ExitStack() as stack:
        masks = {
            tissue: stack.enter_context(
                PngRows(root / f"masks/{tissue.name.lower()}/{slide.name}.png", slide.shape, 1)
            )
            for tissue in MASKED
        }
        keep = _keeper(root, options, slide, stack)
        for band in slide.bands():
            areas += np.bincount(band.labels.ravel(), minlength=len(Tissue))
            for tissue, mask in masks.items():
                mask.write(np.where(band.labels == tissue, np.uint8(255), np.uint8(0)))
            keep(band.pixels, band.labels)
    subject, name = slide.name.split("/")
    counts = {f"{tissue.name.lower()}_px": int(areas[tissue]) for tissue in Tissue}
    return {
        "slide_number": number,
        "subject": subject,
        "name": name,
        "height": slide.shape[0],
        "width": slide.shape[1],
        **counts,
        "bone_density": bone_density(areas.tolist()),
    }


Keep = Callable[[NDArray[np.uint8], NDArray[np.uint8]], None]


def _keeper(root: Path, options: MarrowOptions, slide: MarrowSlide, stack: ExitStack) -> Keep:
    """Return a function that receives bands of pixels and labels, and writes the slide at exit."""
    path = root / f"slides/{slide.name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if options.format == "png":
        file = stack.enter_context(
            PngRows(path.with_suffix(".png"), slide.shape, 3, UM_PER_PX / options.scale)
        )
        return lambda pixels, labels: file.write(pixels)
    bands: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
    if options.format == "psd":
        stack.callback(lambda: _write_psd(path.with_suffix(".psd"), bands))
        return lambda pixels, labels: bands.append((pixels, labels))
    # A pyramid reads each level twice, and TIFF needs whole tiles: buffer the slide in a file.
    waiting = stack.enter_context(tempfile.TemporaryDirectory(dir=root, prefix=".waiting-"))
    base = np.memmap(f"{waiting}/0", np.uint8, "w+", shape=(*slide.shape, 3))
    done = 0

    def keep(pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        nonlocal done
        base[done : done + pixels.shape[1]] = np.moveaxis(pixels, 0, 2)
        done += pixels.shape[1]
        if done == slide.shape[0]:
            spacing = UM_PER_PX / options.scale
            _write_pyramid(path.with_suffix(".tif"), base, Path(waiting), spacing)

    return keep


def _write_pyramid(path: Path, base: NDArray[np.uint8], waiting: Path, spacing_um: float) -> None:
    """Write a tiled TIFF with the slide and its downsampled levels (1/2, 1/4, ...) as pages."""
    import tifffile

    per_cm = 10_000 / spacing_um
    with tifffile.TiffWriter(path, bigtiff=base.nbytes > 2**31) as tiff:
        level, number = base, 0
        while True:
            tiff.write(
                _tiles(level),
                shape=level.shape,
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="deflate",
                predictor=True,
                subfiletype=1 if number else 0,  # TIFF 6.0: a reduced version of another page
                resolution=(per_cm / 2**number, per_cm / 2**number),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
            )
            if max(level.shape[:2]) <= SMALLEST_LEVEL_PX:
                return
            number += 1
            level = _halved(level, waiting / str(number))


def _tiles(level: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for y in range(0, level.shape[0], TILE_PX):
        for x in range(0, level.shape[1], TILE_PX):
            tile = np.zeros((TILE_PX, TILE_PX, 3), np.uint8)
            part = level[y : y + TILE_PX, x : x + TILE_PX]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _halved(level: NDArray[np.uint8], file: Path) -> NDArray[np.uint8]:
    """Return the means of 2 x 2 pixels, in a file; an odd last row or column is dropped."""
    height, width = level.shape[0] // 2, level.shape[1] // 2
    half = np.memmap(file, np.uint8, "w+", shape=(height, width, 3))
    for y in range(0, height, TILE_PX):
        rows = level[2 * y : 2 * min(y + TILE_PX, height), : 2 * width].astype(np.uint16)
        means = rows[::2, ::2] + rows[1::2, ::2] + rows[::2, 1::2] + rows[1::2, 1::2] + 2
        half[y : y + len(means)] = means // 4
    return half


def _write_psd(path: Path, bands: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
    """Write a slide as annotated by people: the slide, the tissue, fat as a mask, and bone."""
    try:
        from PIL import Image
        from psd_tools import PSDImage
    except ImportError:
        raise ParameterError(
            "format", "psd", f"one whose package is there: {install_command('slides')}"
        ) from None
    pixels = np.moveaxis(np.concatenate([band[0] for band in bands], axis=1), 0, 2)
    labels = np.concatenate([band[1] for band in bands])
    size = (labels.shape[1], labels.shape[0])

    def painted(tissue: Tissue, alpha: NDArray[np.uint8]) -> Any:
        colour = [int(COLOURS[tissue][n : n + 2], 16) for n in (1, 3, 5)]
        plain = np.broadcast_to(np.asarray(colour, np.uint8), (*labels.shape, 3))
        return Image.fromarray(np.dstack((plain, alpha)))

    opaque = np.full(labels.shape, 255, np.uint8)
    image = PSDImage.new("RGBA", size, color=(255, 255, 255, 255))  # with transparent layers
    image.create_pixel_layer(Image.fromarray(pixels), name="slide")
    tissue = np.where(labels != Tissue.BACKGROUND, opaque, np.uint8(0))
    image.create_pixel_layer(painted(Tissue.OTHER, tissue), name="foreground", opacity=60)
    fat = image.create_pixel_layer(painted(Tissue.FAT, opaque), name="fat", opacity=120)
    fat.create_mask(Image.fromarray(np.where(labels == Tissue.FAT, opaque, np.uint8(0))))
    bone = np.where(labels == Tissue.BONE, opaque, np.uint8(0))
    image.create_pixel_layer(painted(Tissue.BONE, bone), name="bone", opacity=120)
    image.save(path)
