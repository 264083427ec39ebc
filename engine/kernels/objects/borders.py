"""Perimeter and Euler number of objects, counted in one pass over the rows of the image."""

from __future__ import annotations

import math

import numpy as np

from engine.kernels._jit import Floats, Whole, Whole32, compiled
from engine.kernels.objects.runs import Runs

STRAIGHT, DIAGONAL, MIXED = 1, 2, 3
"""Classes of pixels of a border, by the neighbours that belong to it too."""

EDGE, CORNER = 2, 10
"""Weights of a neighbour that shares an edge or a corner; with 1 for the pixel itself, the sum
names the neighbourhood."""

CLASSES = np.zeros(50, np.int64)
"""Class of each sum of weights, in `skimage.measure.perimeter`, after Benkrid and Crookes, "Design
and FPGA implementation of a perimeter estimator"."""
CLASSES[[5, 7, 15, 17, 25, 27]] = STRAIGHT
CLASSES[[21, 33]] = DIAGONAL
CLASSES[[13, 23]] = MIXED


@compiled
def paint_row(runs: Runs, run: int, y: int, line: Whole32) -> int:
    """Write the objects of a row, counted from 1, with a pixel of background on either side.

    Returns
    -------
    The first run of the next row, if ``run`` is that of this row.
    """
    line[:] = 0
    while run < runs.row.size and runs.row[run] == y:
        line[runs.start[run] + 1 : runs.stop[run] + 1] = runs.number[run] + 1
        run += 1
    return run


@compiled
def add_euler(above: Whole32, line: Whole32, euler: Whole) -> None:
    """Add the contributions of all squares of four pixels between two rows.

    Only two patterns count: the upper left pixel alone, and the upper right and lower left ones
    without the lower right one. The sum is the number of 8-connected parts less that of holes.
    """
    for x in range(1, line.size):
        corner, up, left, here = above[x - 1], above[x], line[x - 1], line[x]
        if corner != 0 and corner != up and corner != left and corner != here:
            euler[corner - 1] += 1
        if up != 0 and up == left and up != here:
            euler[up - 1] -= 1


@compiled
def mark_border(above: Whole32, line: Whole32, below: Whole32, border: Whole32) -> None:
    """Write the object of each pixel with an edge to another object or background, and 0."""
    for x in range(1, line.size - 1):
        here = line[x]
        inside = (
            here == above[x] and here == below[x] and here == line[x - 1] and here == line[x + 1]
        )
        border[x] = 0 if inside else here


@compiled
def count_border(above: Whole32, line: Whole32, below: Whole32, counts: Whole) -> None:
    """Count a row's pixels of the borders by class, from three rows of `mark_border`."""
    for x in range(1, line.size - 1):
        here = line[x]
        if here != 0:
            corners = (
                int(above[x - 1] == here) + int(above[x + 1] == here)
                + int(below[x - 1] == here) + int(below[x + 1] == here)
            )  # fmt: skip
            edges = (
                int(above[x] == here) + int(below[x] == here)
                + int(line[x - 1] == here) + int(line[x + 1] == here)
            )  # fmt: skip
            counts[here - 1, CLASSES[1 + EDGE * edges + CORNER * corners]] += 1


@compiled
def count_borders(runs: Runs, height: int, width: int, counts: Whole, euler: Whole) -> None:
    """Count the pixels of borders by class, and the parts less the holes, of each object.

    Parameters
    ----------
    counts
        (n, 4) int64, zeros: filled with the number of pixels of each class.
    euler
        (n,) int64, zeros: filled with the Euler number.
    """
    # Three rows each, used in turn: the last one is the row at hand, and one more for the border.
    lines = np.zeros((3, width + 2), np.int32)
    borders = np.zeros((3, width + 2), np.int32)
    run = 0
    for y in range(height + 2):
        line, above = lines[y % 3], lines[(y + 2) % 3]
        run = paint_row(runs, run, y, line)
        add_euler(above, line, euler)
        mark_border(lines[(y + 1) % 3], above, line, borders[(y + 2) % 3])
        count_border(borders[y % 3], borders[(y + 1) % 3], borders[(y + 2) % 3], counts)


def border_columns(runs: Runs, shape: tuple[int, ...]) -> dict[str, Floats | Whole]:
    """Return ``perimeter`` (pixels) and ``euler_number`` of each object.

    As `skimage.measure.regionprops` defines them: a perimeter through the centres of the pixels
    that have one of their 4 neighbours outside of the object, and 8-connected parts less holes.
    """
    count = runs.first.size - 1
    counts, euler = np.zeros((count, 4), np.int64), np.zeros(count, np.int64)
    count_borders(runs, shape[0], shape[1], counts, euler)
    # One sum after the other: a product of matrices would round by the number of objects.
    perimeter = (
        counts[:, STRAIGHT]
        + math.sqrt(2) * counts[:, DIAGONAL]
        + (1 + math.sqrt(2)) / 2 * counts[:, MIXED]
    )
    return {"perimeter": perimeter, "euler_number": euler}
