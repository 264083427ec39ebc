"""Rings around objects, such as the cytoplasm around nuclei or the background beside them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.kernels._jit import Plane, Whole32, compiled
from engine.kernels.objects.runs import as_labels


@compiled
def find_vertical(labels: Plane, reach: int, away: Whole32, nearest: Plane) -> None:
    """Find the nearest object above or below each pixel.

    Parameters
    ----------
    reach
        Greatest distance, pixels.
    away
        (y, x) int32: filled with the distance, ``reach + 1`` for none.
    nearest
        (y, x): filled with the label, the smaller one of two at the same distance.
    """
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            if labels[y, x] > 0:
                away[y, x] = 0
                nearest[y, x] = labels[y, x]
            elif y > 0 and away[y - 1, x] < reach:
                away[y, x] = away[y - 1, x] + 1
                nearest[y, x] = nearest[y - 1, x]
            else:
                away[y, x] = reach + 1
    for y in range(height - 2, -1, -1):
        for x in range(width):
            below = away[y + 1, x] + 1
            if below < away[y, x] or (
                below == away[y, x] and below <= reach and nearest[y + 1, x] < nearest[y, x]
            ):
                away[y, x] = below
                nearest[y, x] = nearest[y + 1, x]


@compiled
def find_rings(away: Whole32, nearest: Plane, reach: int, limit: int, rings: Plane) -> None:
    """Write the label of the nearest object within a squared distance, outside of all objects.

    Parameters
    ----------
    away, nearest
        See `find_vertical`, with the same ``reach``.
    limit
        Greatest squared distance, pixels squared.
    rings
        (y, x), zeros.
    """
    height, width = away.shape
    for y in range(height):
        for x in range(width):
            if away[y, x] == 0:
                continue
            best = limit + 1
            for across in range(reach + 1):
                if across * across > best:
                    break
                for column in (x - across, x + across):
                    if 0 <= column < width and away[y, column] <= reach:
                        down = int(away[y, column])
                        square = across * across + down * down
                        label = nearest[y, column]
                        if square < best or (square == best and label < rings[y, x]):
                            best = square
                            rings[y, x] = label


def ring_labels(labels: NDArray[Any], ring_px: float) -> NDArray[Any]:
    """Return the rings around objects: each pixel's nearest object, if it is near enough.

    Parameters
    ----------
    labels
        (y, x) of any integer type; positive labels are objects.
    ring_px
        Greatest distance between the centres of a pixel and of the object's nearest pixel, pixels.

    Returns
    -------
    Array (y, x) of the type of the labels: the label of the nearest object, of two at the same
    distance the smaller label; 0 inside of objects and far from all of them. An object whose
    pixels are all enclosed by others has no ring.

    Raises
    ------
    ParameterError
        If the labels are not a plane of integers, or the distance is not over 0.

    Examples
    --------
    >>> ring_labels(np.array([[0, 0, 7, 0, 3, 0, 0]]), 1.5)
    array([[0, 7, 0, 3, 0, 3, 0]])
    """
    plane = as_labels(labels)
    if not (ring_px > 0 and math.isfinite(ring_px)):
        raise ParameterError("ring_px", ring_px, "a number of pixels over 0")
    # No pixel is farther than this, so wider rings change nothing and squares stay small.
    widest = min(float(ring_px), float(sum(plane.shape)))
    limit = math.floor(widest**2) + 1
    while math.sqrt(limit) > widest:
        limit -= 1
    reach = math.floor(widest)
    away = np.empty(plane.shape, np.int32)
    nearest, rings = np.zeros_like(plane), np.zeros_like(plane)
    find_vertical(plane, reach, away, nearest)
    find_rings(away, nearest, reach, limit, rings)
    return rings
