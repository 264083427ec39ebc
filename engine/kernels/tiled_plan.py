"""How overlapping windows cover a plane, and how much each counts where they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import TilingError
from engine.geometry import YX


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """A window along one axis.

    Attributes
    ----------
    start, stop
        What it reads, half-open, pixels.
    weights
        (stop - start,) float32: its share of the answer. Those of all spans sum to one at every
        pixel of the axis, so blended probabilities need no division, and no second buffer.
    """

    start: int
    stop: int
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class TiledPlan:
    """A cover of a plane by windows: each span of ``y`` with each of ``x``.

    A window's weight at a pixel is the product of its spans' weights, so those of all windows sum
    to one too.
    """

    shape: YX
    y: tuple[Span, ...]
    x: tuple[Span, ...]


def plan_tiled(
    shape: YX, tile: YX, halo: int, blend: int | None = None, multiple: int = 1
) -> TiledPlan:
    """Cover a plane by tiles with halo whose answers fade into one another at their borders.

    The windows are the read regions of `engine.geometry.plan_tiles`: anchored at the plane's
    origin, grown by the halo and clipped at the plane's edge, smaller there and never padded.

    Parameters
    ----------
    shape
        Plane size (y, x), pixels.
    tile
        Tile size without halo (y, x), pixels.
    halo
        Context on each side, pixels.
    blend
        Each side of a border between tiles, pixels: within it, the weight goes linearly from one
        tile to the other; beyond, a tile counts alone. From 0 (no blending) to ``halo``; by
        default an eighth of the halo, so that no answer counts that lacks more than an eighth of
        its context. Tiles equal the whole where the halo is a network's reach and the blend.
    multiple
        What tile and halo must be multiples of, so that a network that pools sees the same grid in
        each tile as in the whole plane, pixels.

    Raises
    ------
    TilingError
        If a size is not positive, the halo is negative, one of them is not a multiple, or the
        blend is not in [0, halo].

    Examples
    --------
    >>> plan = plan_tiled((4, 6), tile=(4, 4), halo=1, blend=1)
    >>> [(span.start, span.stop, span.weights.tolist()) for span in plan.x]
    [(0, 5, [1.0, 1.0, 1.0, 0.75, 0.25]), (3, 6, [0.25, 0.75, 1.0])]
    """
    if min(*shape, *tile) < 1 or halo < 0:
        raise TilingError(
            f"plane {shape} and tile {tile} must be positive, halo {halo} not below 0"
        )
    if tile[0] % multiple or tile[1] % multiple or halo % multiple:
        raise TilingError(f"tile {tile} and halo {halo} must be multiples of {multiple} px")
    blend = halo // 8 if blend is None else blend
    if not 0 <= blend <= halo:
        raise TilingError(f"the blend is {blend} px, but must be from 0 to the halo, {halo} px")
    y, x = (_axis(size, side, halo, blend) for size, side in zip(shape, tile, strict=True))
    return TiledPlan(shape, y, x)


def plan_grid(
    shape: YX, starts: tuple[Sequence[int], Sequence[int]], profiles: Sequence[NDArray[np.float32]]
) -> TiledPlan:
    """Cover a plane by windows of one size at given places, weighed by a given profile.

    Parameters
    ----------
    shape
        Plane size (y, x), pixels.
    starts
        First pixels of the windows along y and along x, growing.
    profiles
        Weights along y and along x, (side,) each, positive: how much a window's answer counts,
        before they are made to sum to one.

    Raises
    ------
    TilingError
        If the windows leave pixels out or reach beyond the plane.
    """
    axes = []
    for size, firsts, profile in zip(shape, starts, profiles, strict=True):
        reads = [(first, first + len(profile)) for first in firsts]
        if reads != sorted(reads) or reads[0][0] < 0 or reads[-1][1] > size:
            raise TilingError(f"windows {reads} must grow and lie in [0, {size})")
        axes.append(_summing_to_one(size, reads, [profile for _ in reads]))
    return TiledPlan(shape, axes[0], axes[1])


def _axis(size: int, side: int, halo: int, blend: int) -> tuple[Span, ...]:
    reads, weights = [], []
    for first in range(0, size, side):
        last = min(first + side, size)
        start, stop = max(0, first - halo), min(size, last + halo)
        centres = np.arange(start, stop) + 0.5
        weight = np.ones(stop - start)
        if first > 0:
            weight = np.minimum(weight, _ramp(centres - first, blend))
        if last < size:
            weight = np.minimum(weight, _ramp(last - centres, blend))
        reads.append((start, stop))
        weights.append(weight)
    return _summing_to_one(size, reads, weights)


def _ramp(inside_px: NDArray[np.floating], blend: int) -> NDArray[np.floating]:
    """Return weights from 0, ``blend`` outside of a border, to 1, as far inside of it."""
    if blend == 0:
        return (inside_px > 0).astype(np.float64)
    return np.clip((inside_px + blend) / (2 * blend), 0.0, 1.0)


def _summing_to_one(
    size: int, reads: Sequence[tuple[int, int]], weights: Sequence[NDArray[np.floating]]
) -> tuple[Span, ...]:
    total = np.zeros(size)
    for (start, stop), weight in zip(reads, weights, strict=True):
        total[start:stop] += weight
    if total.min() <= 0:
        raise TilingError(f"no window counts at pixel {int(total.argmin())}")
    return tuple(
        Span(start, stop, (weight / total[start:stop]).astype(np.float32))
        for (start, stop), weight in zip(reads, weights, strict=True)
    )
