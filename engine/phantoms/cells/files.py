"""Files of a set of synthetic fluorescence fields, with instance masks and a table of the truth.

```
DIR/images/<date>/<subject>/<experiment>/<name>.tif        two channels, uint16
DIR/truth/masks/<date>/<subject>/<experiment>/<name>.tif   instances of nuclei, uint16 or uint32
DIR/truth/objects.csv    one row per nucleus, see `truth_columns`
DIR/subjects.csv         subject,group
DIR/phantom.json         the options
```
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from engine.geometry import Region
from engine.phantoms.cells.field import CellField
from engine.phantoms.cells.objects import NucleusNumbers, NucleusRow, NucleusSums, sum_part
from engine.phantoms.cells.options import SUBJECTS, CellOptions, field_path
from engine.phantoms.cells.tiff_file import TILE_PX, TiledTiff
from engine.phantoms.folders import claim_folder, mark_of, replace_if_new, write_if_new

COMMAND = "cohort phantom cells"
IMAGES, MASKS = "images", "truth/masks"
OBJECTS, SUBJECTS_FILE = "truth/objects.csv", "subjects.csv"


def write_cells(directory: str | Path, options: CellOptions) -> Path:
    """Write a set of synthetic fields and their truth; equal options give equal bytes.

    Fields are streamed by rows of tiles, so memory grows with their width alone. Files with the
    right bytes are not rewritten.

    Parameters
    ----------
    directory
        A new or empty folder, or one written with the same options.
    options
        Parameters of the set.

    Returns
    -------
    Path of ``objects.csv``.

    Raises
    ------
    ParameterError
        If the folder holds anything else.
    """
    root = Path(directory)
    expected = f"a new or empty folder, or one where {COMMAND} wrote the same set"
    claim_folder(root, mark_of(COMMAND, asdict(options)), expected)
    present = sorted(SUBJECTS[: options.images], key=lambda subject: subject.name)
    groups = "".join(f"{subject.name},{subject.group}\n" for subject in present)
    write_if_new(root / SUBJECTS_FILE, f"subject,group\n{groups}".encode())
    objects = root / OBJECTS
    objects.parent.mkdir(parents=True, exist_ok=True)
    part = objects.with_name(f".{objects.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(truth_columns(options))
        for number in range(options.images):
            fields = field_path(number).split("/")
            for row in _write_field(root, options, number):
                table.writerow((*fields, *_truth_values(row)))
    replace_if_new(part, objects)
    return objects


def truth_columns(options: CellOptions) -> tuple[str, ...]:
    """Return the columns of the truth table, one row per nucleus.

    ``object`` is the value in the mask: nuclei are numbered by their first pixel, row-major.
    Centroids are in pixels, with pixel centres at integer coordinates. ``mean_<channel>`` is the
    mean of the grey levels in the mask without noise, and ``class`` is that of the marker.

    Examples
    --------
    >>> truth_columns(CellOptions())[4:]
    ('object', 'centroid_y', 'centroid_x', 'area_px', 'mean_DAPI', 'mean_CD3', 'class')
    """
    means = (f"mean_{channel}" for channel in options.channels)
    place = ("date", "subject", "experiment", "name")
    return (*place, "object", "centroid_y", "centroid_x", "area_px", *means, "class")


def _truth_values(row: NucleusRow) -> tuple[Any, ...]:
    means = (row.y, row.x, row.first_channel, row.second_channel)
    y, x, first, second = (f"{total / row.area_px:.4f}" for total in means)
    label = "positive" if row.positive_px else "negative"
    return row.number, y, x, int(row.area_px), first, second, label


def _write_field(root: Path, options: CellOptions, number: int) -> Iterator[NucleusRow]:
    """Write a field and its mask; yield its nuclei in the order of their numbers."""
    field = CellField(options, number)
    path, (height, width) = f"{field_path(number)}.tif", field.shape
    is_small = field.most_cells <= np.iinfo(np.uint16).max
    grid = field.shape, options.spacing_um
    image = TiledTiff(root / IMAGES / path, *grid, options.channels, np.uint16)
    mask = TiledTiff(root / MASKS / path, *grid, ("nuclei",), np.uint16 if is_small else np.uint32)
    numbers = NucleusNumbers()
    with image, mask:
        for top in range(0, height, TILE_PX):
            bottom = min(top + TILE_PX, height)
            ids = np.zeros((bottom - top, width), np.uint32)
            sums = NucleusSums.empty()
            for left in range(0, width, TILE_PX):
                region = Region((top, left), (bottom, min(left + TILE_PX, width)))
                part = field.draw(region)
                image.write(part.pixels)
                ids[:, left : region.stop[1]] = part.ids
                sums = sums.merge(sum_part(part))
            numbered = numbers.number(ids)
            for left in range(0, width, TILE_PX):
                mask.write([numbered[:, left : left + TILE_PX]])
            yield from numbers.finish(sums, ids[-1:] if bottom < height else ids[:0])
