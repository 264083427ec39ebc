"""Files of a set of synthetic images, with a table of the truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import ParameterError
from engine.phantoms.discs.image import DiscImage, draw_disc_image, make_scene
from engine.phantoms.discs.options import DiscOptions, image_path, image_place
from engine.phantoms.folders import MARK, mark_of, write_if_new

TRUTH = "truth.parquet"
"""Marker file, written first: a folder with it, and with only the files that it lists, may be
overwritten."""

COMMAND = "cohort phantom discs"

TRUTH_SCHEMA = pa.schema(
    [
        ("image_number", pa.int64()),
        ("date", pa.string()),
        ("subject", pa.string()),
        ("experiment", pa.string()),
        ("name", pa.string()),
        ("disc", pa.int64()),
        ("y", pa.float64()),
        ("x", pa.float64()),
        ("radius_px", pa.float64()),
        ("grey", pa.float64()),
        ("visible_edge", pa.float64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("noise", pa.float64()),
        ("blur_px", pa.float64()),
    ]
)
"""One row per disc, exact and never rounded. y, x, radius: pixels, pixel centres at integer
coordinates. grey: grey levels of the file. visible_edge: share of the circumference. noise: sd as
a share of full scale."""

Rows = list[dict[str, Any]]
Apply = Callable[[Callable[[int], Rows], Iterable[int]], Iterable[Rows]]


def write_discs(
    directory: str | Path, options: DiscOptions | None = None, apply: Apply = map
) -> Path:
    """Write a set of synthetic images and their truth; equal options give equal bytes.

    Files with the right bytes are not rewritten, so their times don't change.

    Parameters
    ----------
    directory
        A new or empty folder, or one written by this function. In the latter, images of the
        previous set that are not in the new one are removed.
    options
        Parameters of the set; by default the small lab cohort of `DiscOptions`.
    apply
        Called with a picklable function and the image numbers, like the built-in ``map``; it may
        work in parallel and return the results in any order.

    Returns
    -------
    Path of ``truth.parquet``: one row per disc with the columns of `TRUTH_SCHEMA`, ordered by path
    and disc. An image without discs has no row.

    Raises
    ------
    ParameterError
        If the folder holds anything else, or the discs don't fit.
    """
    options = DiscOptions() if options is None else options
    root = Path(directory)
    for number in range(options.images):  # takes milliseconds each, and fails before any write
        make_scene(options, number)
    _claim(root, options)
    rows = [
        row
        for part in apply(partial(_write_image, root, options), range(options.images))
        for row in part
    ]
    rows.sort(key=lambda r: (r["date"], r["subject"], r["experiment"], r["name"], r["disc"]))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=TRUTH_SCHEMA), sink, compression="zstd")
    truth = root / TRUTH
    write_if_new(truth, sink.getvalue().to_pybytes())
    return truth


def truth_rows(image: DiscImage, options: DiscOptions) -> Rows:
    """Return the truth of an image, one row per disc, with the columns of `TRUTH_SCHEMA`."""
    height, width = options.shape
    return [
        {
            "image_number": image.number,
            **asdict(image.folder),
            "name": image.name,
            "disc": disc,
            "y": float(y),
            "x": float(x),
            "radius_px": float(radius),
            "grey": float(image.grey[disc]),
            "visible_edge": float(image.visible_edge[disc]),
            "height": height,
            "width": width,
            "noise": options.noise,
            "blur_px": options.blur_px,
        }
        for disc, (y, x, radius) in enumerate(image.circles)
    ]


def _write_image(root: Path, options: DiscOptions, number: int) -> Rows:
    image = draw_disc_image(options, number)
    path = root / image.path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_if_new(path, bytes(imagecodecs.png_encode(image.pixels)))
    return truth_rows(image, options)


def _paths(images: int) -> set[str]:
    options = DiscOptions(images=images)
    return {image_path(*image_place(options, number)) for number in range(images)}


def _claim(root: Path, options: DiscOptions) -> None:
    """Mark the folder for this set and remove images outside the set, or refuse the folder."""
    expected = f"a new or empty folder, or one made by {COMMAND}"
    if root.exists() and not root.is_dir():
        raise ParameterError("directory", str(root), expected)
    there = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
    former: set[str] = set()
    if MARK in there:
        former = _paths(_marked_images(root / MARK, expected))
    if there - former - {MARK, TRUTH} or (there and MARK not in there):
        raise ParameterError("directory", str(root), expected)
    # The old mark lists the stale images until all of them are removed, and the new one is written
    # before the first new image: so a run killed at any point can be repeated.
    for path in sorted((former - _paths(options.images)) & there):
        (root / path).unlink()
    root.mkdir(parents=True, exist_ok=True)
    write_if_new(root / MARK, mark_of(COMMAND, asdict(options)))


def _marked_images(mark: Path, expected: str) -> int:
    """Return the number of images that a mark lists."""
    try:
        content = json.loads(mark.read_bytes())
        images = content["options"]["images"]
        ours = content["made_by"] == COMMAND and isinstance(images, int) and images >= 1
    except (ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise ParameterError("directory", str(mark.parent), expected)
    return int(images)
