"""Rims: pairs of concentric edges of opposite polarity that bound one ring, such as a bubble's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.errors import ParameterError
from engine.kernels._jit import Whole, compiled
from engine.kernels.circles.candidates import C_CORRECTED, I_ALIVE, Candidates, Limits
from engine.kernels.circles.suppression import RIM_WIDTH_SHARE, is_rim, offset, ranks_before

Polarity = Literal["bright", "dark", "any", "rim"]

SIGNS: dict[str, tuple[int, ...]] = {"bright": (1,), "dark": (-1,), "any": (1, -1), "rim": (1, -1)}

NO_RIMS, MERGE_RIMS, ONLY_RIMS = range(3)
"""Treatment of a rim: two circles, one for each edge; one circle; one circle, and only rims."""


@dataclass(frozen=True, slots=True)
class Rims:
    """Treatment and greatest width of rims, pixels; infinite: a share of the radius."""

    kind: int
    width_px: float

    def innermost_px(self, low_px: float) -> float:
        """Return the least radius of an edge to detect: the smallest rim's inner edge, pixels."""
        if self.kind == NO_RIMS:
            return low_px
        width = self.width_px if self.width_px < math.inf else RIM_WIDTH_SHARE * low_px
        return max(1.0, low_px - width)


def make_rims(polarity: str, rim_width_px: float | None) -> Rims:
    """Check the polarity and the width of rims, see `detect.detect_circles`.

    Raises
    ------
    ParameterError
        If the polarity is unknown, or the width is not over 0 or does not fit the polarity.
    """
    if polarity not in SIGNS:
        raise ParameterError("polarity", polarity, "one of 'bright', 'dark', 'any', 'rim'")
    kind = ONLY_RIMS if polarity == "rim" else MERGE_RIMS
    if rim_width_px is None:
        return Rims(kind, math.inf) if kind == ONLY_RIMS else Rims(NO_RIMS, 0.0)
    if not (rim_width_px > 0.0 and math.isfinite(rim_width_px)):
        raise ParameterError("rim_width_px", rim_width_px, "a number of pixels over 0")
    if polarity not in ("any", "rim"):
        raise ParameterError("rim_width_px", rim_width_px, "left out for 'bright' and 'dark'")
    return Rims(kind, float(rim_width_px))


@compiled
def outer_radius(outer: float, inner: float, variance: float) -> float:
    """Return the outer radius of a rim from the radii of its two detected edges, pixels.

    A rim of width w, smoothed by s, shows its edges 2 x apart, where x = w / 2 coth(x w / 2 s^2):
    the extremes of the difference of two Gaussians. For thin rims this approaches 2 s.
    """
    middle = 0.5 * (outer + inner)
    ratio = max(1.0, (outer - middle) ** 2 / variance)
    # Solves u coth(u) = ratio within 0.02; exact for thin and for wide rims.
    square = (ratio - 1.0) * (ratio + 1.0 + 1.0 / (1.0 + 0.4 * (ratio - 1.0)))
    return middle + (outer - middle) * min(1.0, np.sqrt(square) / ratio)


@compiled
def nearest_edge(candidates: Candidates, order: Whole, i: int, limits: Limits) -> int:
    """Return the candidate that forms the narrowest rim with ``order[i]``, or -1."""
    table, numbers = candidates.table, candidates.numbers
    a = order[i]
    best = -1
    width = 0.0
    for way in (-1, 1):
        j = i + way
        while 0 <= j < order.size:
            b = order[j]
            j += way
            if abs(offset(table, numbers, a, b)[0]) > limits.reach_px:
                break
            if numbers[b, I_ALIVE] == 0 or not is_rim(table, numbers, a, b, limits.rim_px):
                continue
            apart = abs(table[a, C_CORRECTED] - table[b, C_CORRECTED])
            if (
                best < 0
                or apart < width
                or (apart == width and ranks_before(table, numbers, b, best))
            ):
                best = b
                width = apart
    return best


@compiled
def pair_rims(candidates: Candidates, order: Whole, limits: Limits, partner: Whole) -> None:
    """Merge the two edges of each rim into one circle: the outer edge, corrected for smoothing.

    Two candidates form a rim if each is the nearest edge of the other, so the decision depends only
    on candidates within twice the distance of two concentric centres.

    Parameters
    ----------
    candidates
        I_ALIVE and C_CORRECTED are updated.
    order
        (n,) int64: candidates by ascending y.
    limits
        ``rims`` is `MERGE_RIMS`, or `ONLY_RIMS`, which also drops candidates without a partner.
    partner
        Buffer of int64, one element a candidate.
    """
    table, numbers = candidates.table, candidates.numbers
    for i in range(order.size):
        partner[order[i]] = -1
        if numbers[order[i], I_ALIVE] != 0:
            partner[order[i]] = nearest_edge(candidates, order, i, limits)
    for a in range(order.size):
        b = partner[a]
        if b >= 0 and partner[b] == a:
            # One of the two, once: the outer edge, or the better one if both are equal.
            outer, inner = table[a, C_CORRECTED], table[b, C_CORRECTED]
            if outer > inner or (outer == inner and ranks_before(table, numbers, a, b)):
                numbers[b, I_ALIVE] = 0
                table[a, C_CORRECTED] = outer_radius(outer, inner, limits.variance_px2)
        elif limits.rims == ONLY_RIMS:
            numbers[a, I_ALIVE] = 0
