"""Circle search from edge points to circles in one compiled call.

Calling eight kernels a band from Python costs more than some of the kernels themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.kernels._jit import Floats, Whole, Whole32, compiled
from engine.kernels.circles.candidates import (
    C_CORRECTED,
    C_SUPPORT,
    C_X,
    C_Y,
    I_ALIVE,
    I_ANCHOR_X,
    I_ANCHOR_Y,
    Candidates,
    FitBuffers,
    Limits,
    fit_candidates,
)
from engine.kernels.circles.edges import Edges
from engine.kernels.circles.peaks import Peaks, find_peaks
from engine.kernels.circles.rims import NO_RIMS, pair_rims
from engine.kernels.circles.suppression import Claims, suppress_candidates
from engine.kernels.circles.votes import (
    MARGIN_CELLS,
    Bands,
    Frame,
    cast_votes,
    make_grid,
    outside_cells,
    sum_windows,
)

ROUNDS = 2
"""Rounds of non-maximum suppression; each adds its reach to the halo."""


class Buffers(NamedTuple):
    """Buffers of a search, written by each step."""

    accumulator: Whole32
    """Votes, flat: room for the cells of the largest band."""
    windows: Whole32
    """Their sums over windows, flat."""
    line: Whole32
    """One row of the accumulator."""
    peaks: Peaks
    """Room for the peaks of the largest band."""
    fit: FitBuffers
    """See `candidates.FitBuffers`."""
    claims: Claims
    """``owner`` has room for all edge points."""


@compiled
def vote_and_fit(
    edges: Edges,
    frame: Frame,
    signs: Whole,
    bands: Bands,
    limits: Limits,
    buffers: Buffers,
    candidates: Candidates,
) -> int:
    """Cast votes in every band and polarity, and fit circles at all peaks.

    Parameters
    ----------
    edges, frame
        All edge points, and the plane.
    signs
        Polarities: +1 bright, -1 dark.
    bands
        Bands of radii.
    limits
        Requirements of a circle.
    buffers
        Written.
    candidates
        Updated.

    Returns
    -------
    The number of peaks.
    """
    total = 0
    for b in range(bands.low.size):
        for sign in signs:
            grid = make_grid(bands, b, sign, frame)
            cell = 1 << grid.cell_log2
            more = outside_cells(grid.high, grid.cell_log2) + 2 * MARGIN_CELLS
            rows = (grid.phase_y + frame.height + cell - 1) // cell + more
            columns = (grid.phase_x + frame.width + cell - 1) // cell + more
            votes = buffers.accumulator[: rows * columns].reshape((rows, columns))
            windows = buffers.windows[: rows * columns].reshape((rows, columns))
            cast_votes(edges, grid, votes)
            sum_windows(votes, buffers.line[:columns], windows)
            found = find_peaks(votes, windows, frame, grid, buffers.peaks)
            total += found
            fit_candidates(
                edges, frame, grid, buffers.peaks, found, limits, buffers.fit, candidates
            )
    return total


@compiled
def list_circles(candidates: Candidates, order: Whole, frame: Frame, out: Floats) -> int:
    """Write the live candidates: y, x, radius, support; sorted by the first three.

    ``order`` (n,) int64 sorts the candidates by y, up to the last bit.
    """
    table, numbers = candidates.table, candidates.numbers
    count = 0
    for i in range(order.size):
        c = order[i]
        if numbers[c, I_ALIVE] == 0:
            continue
        y = (numbers[c, I_ANCHOR_Y] + frame.origin_y) + table[c, C_Y]
        x = (numbers[c, I_ANCHOR_X] + frame.origin_x) + table[c, C_X]
        radius = table[c, C_CORRECTED]
        # Adding the origin may round y, so that two values become equal only now.
        place = count
        while place > 0 and (
            out[place - 1, 0] > y
            or (
                out[place - 1, 0] == y
                and (
                    out[place - 1, 1] > x or (out[place - 1, 1] == x and out[place - 1, 2] > radius)
                )
            )
        ):
            for k in range(4):
                out[place, k] = out[place - 1, k]
            place -= 1
        out[place, 0] = y
        out[place, 1] = x
        out[place, 2] = radius
        out[place, 3] = table[c, C_SUPPORT]
        count += 1
    return count


@compiled
def find_circles(
    edges: Edges,
    frame: Frame,
    signs: Whole,
    bands: Bands,
    limits: Limits,
    buffers: Buffers,
    candidates: Candidates,
    out: Floats,
) -> int:
    """Search all bands, suppress weaker candidates, and list the circles.

    Parameters
    ----------
    edges, frame, signs, bands, limits
        See `vote_and_fit`.
    buffers, candidates
        Written, from the start.
    out
        (n, 4) float64, written: see `list_circles`.

    Returns
    -------
    The number of circles, or -1 if the buffers are too small for all candidates.
    """
    table, numbers = candidates.table, candidates.numbers
    filled = candidates.filled
    filled[:] = 0
    vote_and_fit(edges, frame, signs, bands, limits, buffers, candidates)
    found = filled[0]
    if found > table.shape[0] or filled[1] > candidates.members.size:
        return -1
    ys = np.empty(found)
    for c in range(found):
        ys[c] = numbers[c, I_ANCHOR_Y] + table[c, C_Y]
    order = np.argsort(ys, kind="mergesort")
    owner, seen, verdict = buffers.claims
    claims = Claims(owner[: edges.pixel.shape[0]], seen, verdict)
    merged_px = limits.rim_px if limits.rims != NO_RIMS else 0.0
    suppress_candidates(candidates, order, limits, ROUNDS, merged_px, claims)
    if limits.rims != NO_RIMS:
        pair_rims(candidates, order, limits, verdict)
        # Drop edges that did not compete and found no partner.
        suppress_candidates(candidates, order, limits, 1, 0.0, claims)
        for c in range(found):
            if table[c, C_CORRECTED] < limits.smallest_px:
                numbers[c, I_ALIVE] = 0
    return list_circles(candidates, order, frame, out)
