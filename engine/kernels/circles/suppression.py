"""Non-maximum suppression of circles: better candidates take edges away from the others.

The same piece of edge can't support two circles. A candidate keeps only the arcs that no better
candidate nearby explains; without enough arcs of its own, it is dropped. Suppression takes a fixed
number of rounds over neighbours within a fixed distance instead of one greedy pass, so every
decision depends only on candidates within a bounded halo.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.kernels._jit import Floats, Whole, compiled
from engine.kernels.circles.candidates import (
    C_CORRECTED,
    C_RADIUS,
    C_RESIDUAL,
    C_SUPPORT,
    C_X,
    C_Y,
    I_ALIVE,
    I_ANCHOR_X,
    I_ANCHOR_Y,
    I_BINS,
    I_COUNT,
    I_FIRST,
    I_SIGN,
    I_VISIBLE,
    Candidates,
    Limits,
)

LEAST_OWN_SHARE = 0.5
"""Least share of own arcs: below it, a candidate is an artefact of the edges of better ones."""

SHADOW_PX = 3.0
TWICE_SHARE = 0.1
"""Circles whose centres and radii differ by less than this (3 px, or a tenth of the radius) are one
edge detected twice: on its two sides, or bright on one side and dark on the other."""

RIM_CENTRE_SHARE = 0.15
RIM_WIDTH_SHARE = 0.4
RIM_SUPPORT_SHARE = 0.75
"""A concentric circle, up to 0.4 radii smaller or larger, is a rim or relief of the same object,
unless it has at least three quarters of the other circle's support, as a ring's two edges have."""

PAIR_SHARE = 0.5
PAIR_SUPPORT = 0.65
"""Of two discs of similar size less than half a radius apart, one occludes the other and shows
nearly all of its edge; if neither does, one uneven edge was fitted twice."""


@compiled
def offset(table: Floats, numbers: Whole, a: int, b: int) -> tuple[float, float]:
    """Return the offset (y, x) from candidate ``b`` to ``a``, pixels; the same in every crop."""
    dy = (numbers[a, I_ANCHOR_Y] - numbers[b, I_ANCHOR_Y]) + (table[a, C_Y] - table[b, C_Y])
    dx = (numbers[a, I_ANCHOR_X] - numbers[b, I_ANCHOR_X]) + (table[a, C_X] - table[b, C_X])
    return dy, dx


@compiled
def ranks_before(table: Floats, numbers: Whole, a: int, b: int) -> bool:
    """Return whether candidate ``a`` ranks before ``b``: a total order, the same in every crop."""
    if table[a, C_SUPPORT] != table[b, C_SUPPORT]:
        return table[a, C_SUPPORT] > table[b, C_SUPPORT]
    if table[a, C_RESIDUAL] != table[b, C_RESIDUAL]:
        return table[a, C_RESIDUAL] < table[b, C_RESIDUAL]
    dy, dx = offset(table, numbers, a, b)
    if dy != 0.0:
        return dy < 0.0
    if dx != 0.0:
        return dx < 0.0
    return a < b


@compiled
def is_duplicate(table: Floats, a: int, b: int, distance: float) -> bool:
    """Return whether ``a`` is a duplicate of the better ``b``, or a rim of the same object."""
    radius = min(table[a, C_RADIUS], table[b, C_RADIUS])
    difference = abs(table[a, C_RADIUS] - table[b, C_RADIUS])
    twice = max(SHADOW_PX, TWICE_SHARE * radius)
    if distance <= twice and difference <= twice:
        return True
    if (
        distance <= max(SHADOW_PX, RIM_CENTRE_SHARE * radius)
        and difference <= RIM_WIDTH_SHARE * radius
        and table[a, C_SUPPORT] < RIM_SUPPORT_SHARE * table[b, C_SUPPORT]
    ):
        return True
    return (
        distance <= PAIR_SHARE * radius
        and difference <= PAIR_SHARE * radius
        and table[b, C_SUPPORT] < PAIR_SUPPORT
    )


@compiled
def is_rim(table: Floats, numbers: Whole, a: int, b: int, rim_px: float) -> bool:
    """Return whether two candidates are the edges of a rim, ``rim_px`` wide at most.

    Infinite ``rim_px``: at most `RIM_WIDTH_SHARE` of its outer radius.
    """
    outer = max(table[a, C_CORRECTED], table[b, C_CORRECTED])
    inner = min(table[a, C_CORRECTED], table[b, C_CORRECTED])
    widest = rim_px if rim_px < np.inf else RIM_WIDTH_SHARE * outer
    if numbers[a, I_SIGN] == numbers[b, I_SIGN] or outer - inner > widest:
        return False
    dy, dx = offset(table, numbers, a, b)
    farthest = max(SHADOW_PX, RIM_CENTRE_SHARE * inner)
    return dy * dy + dx * dx <= farthest * farthest


class Claims(NamedTuple):
    """Buffers of non-maximum suppression, of int64."""

    owner: Whole
    """One element an edge point: the candidate that it was taken from last, or -1."""
    seen: Whole
    """One element an arc: 1 if a point of it is the candidate's own."""
    verdict: Whole
    """One element a candidate: 1 if it survives the round."""


@compiled
def assign_edges(candidates: Candidates, a: int, b: int, owner: Whole) -> None:
    """Mark the edge points of candidate ``b`` as taken away from candidate ``a``."""
    numbers = candidates.numbers
    for m in range(numbers[b, I_FIRST], numbers[b, I_FIRST] + numbers[b, I_COUNT]):
        owner[candidates.members[m]] = a


@compiled
def own_share(candidates: Candidates, a: int, claims: Claims) -> float:
    """Return the share of the visible arcs with an edge point that no better candidate explains."""
    numbers = candidates.numbers
    owner, seen = claims.owner, claims.seen
    for s in range(numbers[a, I_BINS]):
        seen[s] = 0
    for m in range(numbers[a, I_FIRST], numbers[a, I_FIRST] + numbers[a, I_COUNT]):
        if owner[candidates.members[m]] != a:
            seen[candidates.member_bins[m]] = 1
    own = 0
    for s in range(numbers[a, I_BINS]):
        own += seen[s]
    return own / max(numbers[a, I_VISIBLE], 1)


@compiled
def yield_edges(
    candidates: Candidates, order: Whole, i: int, reach: float, rim_px: float, owner: Whole
) -> bool:
    """Take the edge points of better candidates from ``order[i]``; return whether it is unique.

    It is not if it is a duplicate of a better one.
    """
    table, numbers = candidates.table, candidates.numbers
    a = order[i]
    # Candidates are sorted by y: scan up and down to the reach.
    for way in (-1, 1):
        j = i + way
        while 0 <= j < order.size:
            b = order[j]
            j += way
            dy, dx = offset(table, numbers, a, b)
            if abs(dy) > reach:
                break
            square = dy * dy + dx * dx
            if (
                numbers[b, I_ALIVE] == 0
                or square > reach * reach
                or not ranks_before(table, numbers, b, a)
            ):
                continue
            if rim_px > 0.0 and is_rim(table, numbers, a, b, rim_px):
                continue
            if is_duplicate(table, a, b, np.sqrt(square)):
                return False
            if numbers[b, I_SIGN] == numbers[a, I_SIGN]:
                assign_edges(candidates, a, b, owner)
    return True


@compiled
def suppress_candidates(
    candidates: Candidates,
    order: Whole,
    limits: Limits,
    rounds: int,
    rim_px: float,
    claims: Claims,
) -> None:
    """Take from each candidate the arcs that better ones within reach explain.

    Candidates that keep too few arcs of their own, or are duplicates, are marked as dead. Every
    round compares all candidates with those alive before it.

    Parameters
    ----------
    candidates
        I_ALIVE is updated.
    order
        (n,) int64: candidates by ascending y.
    limits
        ``min_support``, which a candidate must have of its own, and ``reach_px``.
    rounds
        Number of rounds for the survivors; each adds the reach to the halo.
    rim_px
        Greatest width of a rim, pixels, whose two edges do not compete; 0 if all edges compete.
    claims
        Buffers.
    """
    table, numbers = candidates.table, candidates.numbers
    owner, verdict = claims.owner, claims.verdict
    for _ in range(rounds):
        owner[:] = -1
        for i in range(order.size):
            a = order[i]
            verdict[a] = 0
            if numbers[a, I_ALIVE] == 0:
                continue
            if not yield_edges(candidates, order, i, limits.reach_px, rim_px, owner):
                continue
            share = own_share(candidates, a, claims)
            if share >= max(limits.min_support, LEAST_OWN_SHARE * table[a, C_SUPPORT]):
                verdict[a] = 1
        # Only now, so that the whole round compares with the candidates alive before it.
        for a in range(order.size):
            numbers[a, I_ALIVE] = verdict[a]
