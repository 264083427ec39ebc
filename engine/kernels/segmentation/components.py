"""Connected components of a class: labelled, measured, and merged across borders of blocks.

A block of a large plane contains components that its border cuts. Their measures are additive:
area, centroid and second moments, and the runs that touch the border. `merge_components` joins the
components that meet, so the result does not depend on the blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.geometry import YX

TOP, BOTTOM, LEFT, RIGHT = 0, 1, 2, 3
"""Sides of a block."""

Columns = Mapping[str, "NDArray[Any]"]


@dataclass(frozen=True, eq=False)
class Pieces:
    """Components of one class: columns of equal length.

    Attributes
    ----------
    pieces
        ``first`` (first pixel, as an index into the whole plane row by row), ``y``, ``x``
        (centroid, pixels of the whole plane), ``area_px``, ``yy``, ``xx``, ``yx`` (central second
        moments, sums over pixels), ``touches_border`` (of the whole plane). Sorted by ``first``.
    runs
        Contacts of components with a border inside the plane: ``side``, ``line`` (the row or
        column of the plane), ``start``, ``stop`` (half-open, along it) and ``piece``.
    """

    pieces: Columns
    runs: Columns


def label_components(
    mask: NDArray[np.bool_], origin: YX = (0, 0), whole: YX | None = None
) -> Pieces:
    """Find the connected components of a mask; pixels that share a side are connected.

    Parameters
    ----------
    mask
        (y, x): a plane, or one block of it.
    origin
        Position of the block in the plane, pixels.
    whole
        Size of the plane; by default the size of the mask.
    """
    numbered, count = _numbered(mask)
    flat = np.flatnonzero(numbered)
    piece = numbered.ravel()[flat] - 1
    width = mask.shape[1]
    y, x = (flat // width).astype(np.float64), (flat % width).astype(np.float64)
    area = np.bincount(piece, minlength=count)
    began = np.empty(count, np.int64)
    began[piece[::-1]] = flat[::-1]  # with repeated indices the last assignment stays

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(piece, values, count) / area

    cy, cx = mean(y), mean(x)
    yy, xx, yx = mean(y * y) - cy * cy, mean(x * x) - cx * cx, mean(y * x) - cy * cx
    height, size = mask.shape[0], whole or mask.shape
    sides = (
        (TOP, numbered[0], origin[0], origin[1], origin[0] > 0),
        (BOTTOM, numbered[-1], origin[0] + height - 1, origin[1], origin[0] + height < size[0]),
        (LEFT, numbered[:, 0], origin[1], origin[0], origin[1] > 0),
        (RIGHT, numbered[:, -1], origin[1] + width - 1, origin[0], origin[1] + width < size[1]),
    )
    touches = np.zeros(count, bool)
    runs = [np.empty((0, 5), np.int32)]
    for side, edge, line, first, goes_on in sides:
        if goes_on:
            runs.append(_runs(side, edge, line, first))
        else:
            touches[edge[edge > 0] - 1] = True
    side, line, start, stop, owner = np.concatenate(runs).T
    across = (whole or mask.shape)[1]
    return Pieces(
        {
            "first": (began // width + origin[0]) * across + began % width + origin[1],
            "y": cy + origin[0],
            "x": cx + origin[1],
            "area_px": area,
            "yy": np.maximum(yy, 0) * area,
            "xx": np.maximum(xx, 0) * area,
            "yx": yx * area,
            "touches_border": touches,
        },
        {"side": side, "line": line, "start": start, "stop": stop, "piece": owner},
    )


def _numbered(mask: NDArray[np.bool_]) -> tuple[NDArray[np.integer], int]:
    """Return the labelled components of a mask, numbered from 1 by their first pixels."""
    from skimage.measure import label

    numbered, count = label(mask, connectivity=1, return_num=True)
    return numbered, int(count)


def number_pixels(
    mask: NDArray[np.bool_], numbers: NDArray[np.integer] | None = None, before: int = 0
) -> NDArray[np.uint32]:
    """Return the object number of each pixel of a mask, (y, x), and 0 elsewhere.

    Parameters
    ----------
    mask
        (y, x): a plane, or one block of it.
    numbers
        The objects of the components that `label_components` finds in it, in the same order; None
        numbers each component as an object of its own, in that order.
    before
        Without ``numbers``: the highest number already in use.

    Raises
    ------
    ValueError
        If the mask has a different number of components.

    Examples
    --------
    >>> number_pixels(np.array([[True, False, True]]), before=4)
    array([[5, 0, 6]], dtype=uint32)
    """
    numbered, count = _numbered(mask)
    if numbers is None:
        numbers = np.arange(1, count + 1) + before
    if len(numbers) != count:
        raise ValueError(f"{count} pieces, but {len(numbers)} numbers")
    return np.concatenate(([0], numbers)).astype(np.uint32)[numbered]


def _runs(side: int, edge: NDArray[np.integer], line: int, first: int) -> NDArray[np.int32]:
    """Return the runs of components along one side of a block: side, line, start, stop, piece."""
    padded = np.concatenate(([0], edge, [0]))
    change = np.flatnonzero(padded[1:] != padded[:-1])
    begin, end = change[:-1], change[1:]
    kept = edge[begin] > 0
    begin, end = begin[kept], end[kept]
    columns = (
        np.full(len(begin), side),
        np.full(len(begin), line),
        begin + first,
        end + first,
        edge[begin] - 1,
    )
    return np.stack(columns, axis=1).astype(np.int32)


def merge_components(
    plane: NDArray[np.integer], pieces: Columns, runs: Columns
) -> NDArray[np.int64]:
    """Merge the components of blocks of planes into objects.

    Parameters
    ----------
    plane
        Number of each component's plane: components of different planes (or classes) never meet.
    pieces, runs
        As in `Pieces`, of all blocks; ``piece`` is the index of a component among all of them.

    Returns
    -------
    Number of each component's object, from 0, in the order of first appearance.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    side, line = runs["side"], runs["line"]
    of_plane = plane[runs["piece"]]
    pairs: list[tuple[int, int]] = []
    for first, second in ((BOTTOM, TOP), (RIGHT, LEFT)):
        # The other side's line is the next one; a dictionary of lines finds its runs.
        beyond: dict[tuple[int, int], list[int]] = {}
        for n in np.flatnonzero(side == second):
            beyond.setdefault((int(of_plane[n]), int(line[n])), []).append(int(n))
        for n in np.flatnonzero(side == first):
            for m in beyond.get((int(of_plane[n]), int(line[n]) + 1), ()):
                if runs["start"][n] < runs["stop"][m] and runs["start"][m] < runs["stop"][n]:
                    pairs.append((int(runs["piece"][n]), int(runs["piece"][m])))
    count = len(plane)
    ends = np.array(pairs, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), (count, count))
    _, number = connected_components(graph, directed=False)
    _, where, ranked = np.unique(number, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(where))
    return np.asarray(order[ranked], np.int64)


def add_pieces(number: NDArray[np.integer], pieces: Columns) -> dict[str, NDArray[Any]]:
    """Return the objects merged from components, in the columns of `Pieces.pieces`.

    Parameters
    ----------
    number
        Each component's object, see `merge_components`.
    """
    count = int(number.max()) + 1 if len(number) else 0

    def added(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(number, values.astype(np.float64), count).astype(np.float64)

    part = pieces["area_px"].astype(np.float64)
    area = added(part)
    y, x = added(pieces["y"] * part) / area, added(pieces["x"] * part) / area
    dy, dx = pieces["y"] - y[number], pieces["x"] - x[number]  # the parallel axis theorem
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, number, pieces["first"])
    return {
        "first": first,
        "y": y,
        "x": x,
        "area_px": np.rint(area).astype(np.int64),
        "yy": added(pieces["yy"] + part * dy * dy),
        "xx": added(pieces["xx"] + part * dx * dx),
        "yx": added(pieces["yx"] + part * dy * dx),
        "touches_border": added(pieces["touches_border"]) > 0,
    }


def diameter_px(area_px: NDArray[Any]) -> NDArray[np.float64]:
    """Return the diameter of a disc of the same area, pixels."""
    return np.sqrt(4 * area_px.astype(np.float64) / np.pi)


def eccentricity(pieces: Columns) -> NDArray[np.float64]:
    """Return the eccentricity of the ellipse with the same second moments: 0 is a circle.

    As ``skimage.measure.regionprops`` defines it.
    """
    yy, xx, yx = (pieces[name] / pieces["area_px"] for name in ("yy", "xx", "yx"))
    middle, apart = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
    large, small = middle + apart, np.maximum(middle - apart, 0)
    ratio = np.divide(small, large, out=np.ones_like(large), where=large > 0)
    return np.sqrt(1 - ratio)
