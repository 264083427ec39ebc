"""Tracing of a mask: the contour that covers exactly the mask's pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError


def trace_mask(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the rings around a mask, along the edges of its pixels, without smoothing.

    `engine.kernels.contours.geometry.fill_contour` restores the mask from them bit by bit, and
    their area is the number of its pixels.

    Parameters
    ----------
    mask
        (y, x), True inside.

    Returns
    -------
    Arrays (n, 2) of y, x at corners of pixels (halves), one point at each turn of the outline.
    Outer rings run clockwise on the screen, holes anticlockwise; pixels that only share a corner
    belong to separate rings.

    Examples
    --------
    >>> (ring,) = trace_mask(np.array([[False, True, True]]))
    >>> ring.tolist()
    [[-0.5, 0.5], [-0.5, 2.5], [0.5, 2.5], [0.5, 0.5]]
    """
    plane = np.asarray(mask)
    if plane.ndim != 2 or plane.dtype != np.bool_:
        raise ParameterError("mask", (plane.shape, plane.dtype.name), "(y, x) of bool")
    padded = np.pad(plane, 1).astype(np.int8)
    # Corners of pixels, row by row; the inside is to the right of every step.
    columns = plane.shape[1] + 1
    down = padded[1:, 1:-1] - padded[:-1, 1:-1]  # (height + 1, width): edges along x
    right = padded[1:-1, 1:] - padded[1:-1, :-1]  # (height, width + 1): edges along y
    steps: dict[int, list[int]] = {}

    def add(sign: int, edges: NDArray[np.int8], forth: int, back: int, stride: int) -> None:
        y, x = np.nonzero(edges == sign)
        corner = y * columns + x
        begin, end = (corner + forth * stride, corner + back * stride)
        for a, b in zip(begin.tolist(), end.tolist(), strict=True):
            steps.setdefault(a, []).append(b)

    add(1, down, 0, 1, 1)  # inside below: go right
    add(-1, down, 1, 0, 1)  # inside above: go left
    add(1, right, 1, 0, columns)  # inside to the right: go up
    add(-1, right, 0, 1, columns)  # inside to the left: go down
    rings = []
    for start in sorted(steps):
        while steps[start]:
            ring = _follow(steps, start, columns)
            corners = np.array(ring, np.int64)
            points = np.stack([corners // columns, corners % columns], axis=1) - 0.5
            rings.append(_only_turns(points))
    return rings


def _follow(steps: dict[int, list[int]], start: int, columns: int) -> list[int]:
    """Follow steps back to the start; at a corner shared by two outlines, turn right."""
    ring = [start]
    at, heading = steps[start].pop(0), 0
    heading = at - start
    while at != start:
        ring.append(at)
        ways = steps[at]
        # Right of right is down, of down left, and so on: stay with the pixel inside.
        turned = {1: columns, columns: -1, -1: -columns, -columns: 1}[heading]
        after = at + turned if at + turned in ways else ways[0]
        ways.remove(after)
        heading, at = after - at, after
    return ring


def _only_turns(points: NDArray[np.float64]) -> NDArray[np.float64]:
    before = points - np.roll(points, 1, axis=0)
    after = np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return points[turns]
