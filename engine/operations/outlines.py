"""Outlines of objects, drawn over their image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kernels.contours.trace import trace_mask

SAGITTA_PX = 0.1
"""Maximum distance of a circle's polygon from the circle, pixels: too small to see."""

MOST_CORNERS = 180
"""Maximum corners of a circle's polygon; reached at a radius of some 650 pixels."""


@dataclass(frozen=True, slots=True)
class Outline:
    """One closed line over an image; a single point is a small mark.

    Attributes
    ----------
    points
        (n, 2) float, (y, x) in pixels of the whole image; pixel centres are whole numbers. The
        last point is joined with the first. A single point is drawn as a mark of fixed size.
    label
        Kind of object, e.g. ``"endocardium"``: each kind gets a colour.
    """

    points: NDArray[np.float64]
    label: str = ""


def corners_of(radius_px: float) -> int:
    """Return the number of corners that approximate a circle of a radius to within `SAGITTA_PX`.

    Examples
    --------
    >>> corners_of(2.0), corners_of(45.0), corners_of(1e6)
    (10, 48, 180)
    """
    bend = math.acos(max(0.0, 1.0 - SAGITTA_PX / max(radius_px, SAGITTA_PX)))
    return min(MOST_CORNERS, max(8, math.ceil(math.pi / bend)))


def circle_points(y: float, x: float, radius_px: float) -> NDArray[np.float64]:
    """Return a polygon (n, 2), (y, x), that approximates a circle to within `SAGITTA_PX`.

    Examples
    --------
    >>> points = circle_points(10.0, 20.0, 5.0)
    >>> bool(np.allclose(np.hypot(points[:, 0] - 10, points[:, 1] - 20), 5))
    True
    """
    return next(_circles(np.array([y]), np.array([x]), np.array([radius_px])))


def _circles(
    y: NDArray[np.float64], x: NDArray[np.float64], radius_px: NDArray[np.float64]
) -> Iterator[NDArray[np.float64]]:
    """Yield polygons, all with the corners of the largest, so that numpy computes all at once."""
    if not len(y):
        return
    corners = corners_of(float(radius_px.max()))
    angles = np.arange(corners) * (2 * math.pi / corners)
    points = np.stack([np.sin(angles), np.cos(angles)], axis=1) * radius_px[:, None, None]
    points += np.stack([y, x], axis=1)[:, None, :]
    yield from points


def outline_objects(found: Mapping[str, NDArray[Any]]) -> list[Outline]:
    """Return circles for objects with y, x and radius_px, marks for those with y and x only.

    Objects without a finite position get no outline.

    Examples
    --------
    >>> place = {"y": np.array([3.0]), "x": np.array([4.0])}
    >>> [len(outline.points) for outline in outline_objects(place)]
    [1]
    >>> outline_objects({"mean": np.array([1.0])})
    []
    """
    if not {"y", "x"} <= set(found):
        return []
    y, x = (np.asarray(found[name], np.float64) for name in ("y", "x"))
    seen = np.isfinite(y) & np.isfinite(x)
    if "radius_px" not in found:
        return [Outline(np.array([[cy, cx]])) for cy, cx in zip(y[seen], x[seen], strict=True)]
    radius = np.asarray(found["radius_px"], np.float64)
    seen &= np.isfinite(radius) & (radius > 0)
    return [Outline(points) for points in _circles(y[seen], x[seen], radius[seen])]


def outline_labels(labels: NDArray[Any], scale: float = 1.0) -> list[Outline]:
    """Return the outlines of a label image's objects by ascending number, holes included.

    Parameters
    ----------
    labels
        (y, x) of any integer type; 0 is background.
    scale
        Pixels of the whole image per pixel of the label image.

    Examples
    --------
    >>> [outline.points.tolist() for outline in outline_labels(np.array([[0, 3, 3]]))]
    [[[-0.5, 0.5], [-0.5, 2.5], [0.5, 2.5], [0.5, 0.5]]]
    """
    from scipy.ndimage import find_objects

    found = []
    for number, box in enumerate(find_objects(labels), 1):
        if box is None:
            continue
        corner = np.array([side.start for side in box])
        for ring in trace_mask(labels[box] == number):
            found.append(Outline((ring + corner + 0.5) * scale - 0.5))
    return found
