"""Tiling plans: overlapping windows that cover a plane, and their blending weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import TilingError
from engine.geometry import YX


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Window along one axis.

    Attributes
    ----------
    start, stop
        Range that it reads, half-open, pixels; may exceed the plane if more is readable.
    first
        First pixel of its weighted range.
    weights
        (last - first,) float32: its weights. Those of all spans sum to one at every pixel of the
        axis, so blended probabilities need no division, and no second buffer.
    """

    start: int
    stop: int
    first: int
    weights: NDArray[np.float32]

    @property
    def last(self) -> int:
        """End of its weighted range, half-open, pixels."""
        return self.first + len(self.weights)

    @property
    def counted(self) -> slice:
        """Weighted part of the window's prediction."""
        return slice(self.first - self.start, self.last - self.start)


@dataclass(frozen=True, slots=True, eq=False)
class TiledPlan:
    """Cover of a plane by windows: each span of ``y`` with each of ``x``.

    A window's weight at a pixel is the product of its spans' weights, so the weights of all windows
    sum to one too.
    """

    shape: YX
    y: tuple[Span, ...]
    x: tuple[Span, ...]

    @property
    def upright(self) -> bool:
        """True if the plane is swept along y, its longer side."""
        return self.shape[0] >= self.shape[1]


def plan_tiled(
    shape: YX,
    tile: YX,
    halo: int,
    blend: int | None = None,
    multiple: int = 1,
    around: tuple[YX, YX] = ((0, 0), (0, 0)),
) -> TiledPlan:
    """Cover a plane with tiles and halos, with predictions blended at the tiles' borders.

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
        Half width of the blending zone at a border between tiles, pixels: within it, the weight
        goes linearly from one tile to the other; beyond it, only one tile counts. From 0 (no
        blending) to ``halo``; by default an eighth of the halo, so that every prediction used has
        at least seven eighths of its context. Tiles equal the whole if the halo is a network's
        receptive field plus the blend.
    multiple
        Required multiple of tile and halo, pixels, so that a network that pools sees the same grid
        in each tile as in the whole plane.
    around
        Readable margins before and after the plane along y, and along x, for a block of a larger
        image: its tiles are then those of the image, and each tile is computed once.

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
    >>> [(span.start, span.stop, span.first) for span in plan_tiled((4, 4), (4, 4), 1).x]
    [(0, 4, 0)]
    >>> inside = plan_tiled((4, 4), (4, 4), 1, around=((0, 0), (3, 3)))
    >>> [(span.start, span.stop, span.first) for span in inside.x]
    [(-1, 5, 0)]
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
    y, x = (
        _axis(size, side, halo, blend, *more)
        for size, side, more in zip(shape, tile, around, strict=True)
    )
    return TiledPlan(shape, y, x)


def plan_grid(
    shape: YX, starts: tuple[Sequence[int], Sequence[int]], profiles: Sequence[NDArray[np.float32]]
) -> TiledPlan:
    """Cover a plane by windows of one size at given positions, with a given weight profile.

    Parameters
    ----------
    shape
        Plane size (y, x), pixels.
    starts
        Ascending first pixels of the windows along y and along x.
    profiles
        Weights along y and along x, (side,) each, positive: the relative weight of a window's
        prediction, before normalisation to a sum of one.

    Raises
    ------
    TilingError
        If the windows leave out pixels or reach beyond the plane.
    """
    axes = []
    for size, firsts, profile in zip(shape, starts, profiles, strict=True):
        reads = [(first, first + len(profile)) for first in firsts]
        if reads != sorted(reads) or reads[0][0] < 0 or reads[-1][1] > size:
            raise TilingError(f"windows {reads} must grow and lie in [0, {size})")
        axes.append(_summing_to_one(size, reads, list(firsts), [profile for _ in reads]))
    return TiledPlan(shape, axes[0], axes[1])


def _axis(size: int, side: int, halo: int, blend: int, before: int, after: int) -> tuple[Span, ...]:
    reads, firsts, weights = [], [], []
    for begin in range(0, size, side):
        end = min(begin + side, size)
        reads.append((max(-before, begin - halo), min(size + after, end + halo)))
        # Predictions count as far as they are blended, and not in the rest of the halo.
        first, last = max(0, begin - blend), min(size, end + blend)
        centres = np.arange(first, last) + 0.5
        weight = np.ones(last - first)
        if begin > 0:
            weight = np.minimum(weight, _ramp(centres - begin, blend))
        if end < size:
            weight = np.minimum(weight, _ramp(end - centres, blend))
        firsts.append(first)
        weights.append(weight)
    return _summing_to_one(size, reads, firsts, weights)


def _ramp(inside_px: NDArray[np.floating], blend: int) -> NDArray[np.floating]:
    """Return weights that rise from 0 at ``blend`` outside a border to 1 at ``blend`` inside it."""
    if blend == 0:
        return (inside_px > 0).astype(np.float64)
    return np.clip((inside_px + blend) / (2 * blend), 0.0, 1.0)


def _summing_to_one(
    size: int,
    reads: Sequence[tuple[int, int]],
    firsts: Sequence[int],
    weights: Sequence[NDArray[np.floating]],
) -> tuple[Span, ...]:
    total = np.zeros(size)
    for first, weight in zip(firsts, weights, strict=True):
        total[first : first + len(weight)] += weight
    if total.min() <= 0:
        raise TilingError(f"no window counts at pixel {int(total.argmin())}")
    return tuple(
        Span(*read, first, (weight / total[first : first + len(weight)]).astype(np.float32))
        for read, first, weight in zip(reads, firsts, weights, strict=True)
    )
