"""Circle detection in a plane: centres, radii and support.

Edge points (`edges`) vote for centres (`votes`); a circle is fitted at each peak (`fit`); of the
circles with enough of their circumference on edges (`support`, `candidates`), non-maximum
suppression keeps the better ones (`suppression`). Every decision depends only on a bounded
neighbourhood and on numbers anchored at the image's origin, so a tile with its halo gives the same
circles as the whole image.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.kernels.circles import candidates, edges, gradient, votes
from engine.kernels.circles.buffers import BufferPool, thread_buffers
from engine.kernels.circles.fit import GATHERED_COLUMNS, Points
from engine.kernels.circles.peaks import Peaks
from engine.kernels.circles.rims import NO_RIMS, SIGNS, Polarity, Rims, make_rims
from engine.kernels.circles.search import ROUNDS, Buffers, find_circles
from engine.kernels.circles.support import MOST_BINS
from engine.kernels.circles.suppression import RIM_CENTRE_SHARE, SHADOW_PX, Claims
from engine.kernels.noise import noise_sd as estimate_noise_sd
from engine.kernels.planes import as_plane

DEFAULT_SUPPORT = 0.2
"""Default least support. A disc with 30 % of its edge visible reaches it: at each end of a visible
arc, smoothing mixes the edge with the occluding one."""

_LARGEST_SIGMA_PX = 2.0
_SMALLEST_SIGMA_PX = 0.8
_RADII_PER_SIGMA = 4.0
"""Smoothing: 2 px suit a contrast of 1.3 times the noise, the lowest contrast specified
(signal-to-noise ratio 4.7 an edge point), but would remove discs below a radius of 8 px."""

_THRESHOLD_SD = 4.0
"""Threshold of the gradient in standard deviations of its noise: chance exceeds it in
exp(-8) = 0.03 % of the pixels."""

_QUANTUM_SD = 1.5
"""Least noise assumed for integers, grey levels: contour lines of a smooth shade, one grey level
high, then stay below the threshold, and steps of 2 grey levels exceed it."""

_ROUNDING = 1e-5
"""Gradients below this share of the value are float32 rounding errors, not edges."""

_BLUR_VARIANCE_PX2 = 0.6
"""Optical blur assumed in the radius correction for smoothing, square pixels (a pixel's own width,
1/12, and an optical spread of 0.7 px)."""

_LEAST_EVIDENCE = 20.0
"""Least exponent of the binomial tail of the arcs found against chance, nats: an image has about
e^7 peaks, each tested in e^8 distinguishable ways (three parameters), which leaves one false circle
in e^5 images."""

_MOST_TURNING = 0.5
"""See `support.drop_touching`: circles that touch another one of up to twice their size are left to
non-maximum suppression; the rest is rejected here."""

_REACH_SHARE = 0.6
"""Circles of one polarity share arcs if their radii differ by less than half of the larger one
(`_MOST_TURNING`), so their centres are less than about 0.6 largest radii apart."""

LARGEST_PX = 1e6
"""Largest radius, pixels: no image is wider, and tables that grow with the radius stay small."""


def halo_px(
    radius_px: tuple[float, float], polarity: Polarity = "any", rim_width_px: float | None = None
) -> int:
    """Return the halo, pixels, with which a tile's circles equal those of the whole image.

    Parameters
    ----------
    radius_px, polarity, rim_width_px
        As in `detect_circles`; radii and width in pixels.

    Returns
    -------
    Pixels: the longest distance at which anything influences a circle, measured from the
    circle's centre, or from the nearest pixel if the centre lies outside the image.

    Raises
    ------
    ParameterError
        If the range is empty, begins below 1 or ends above a million, or the rim's width does not
        fit the polarity.

    Examples
    --------
    >>> halo_px((15, 65))
    224
    """
    low, high = _check_radii(radius_px)
    rims = make_rims(polarity, rim_width_px)
    smoothing = gradient.make_smoothing(_sigma(low))
    own = 0.0
    for band in votes.make_bands(rims.innermost_px(low), high):
        # From a final centre to its cell, and on to the cells that decide about that cell's peak.
        walk = (candidates.WALK_CELLS + 1.5) * band.cell_px
        peak = band.high_px + 5.0 * band.cell_px
        fit = band.high_px + candidates.GATHER_CELLS * band.cell_px + 3.0
        own = max(own, walk + max(peak, fit))
    rounds = ROUNDS * _reach(high)
    if rims.kind != NO_RIMS:
        # One more round, and from an edge to its nearest edge and to the nearest edge of that.
        rounds += _reach(high) + 2.0 * max(SHADOW_PX, RIM_CENTRE_SHARE * high)
    return math.ceil(own + smoothing.reach_px + edges.FILL_PX + rounds) + 1


def detect_circles(
    plane: NDArray[Any],
    *,
    radius_px: tuple[float, float],
    noise_sd: float | None = None,
    polarity: Polarity = "any",
    rim_width_px: float | None = None,
    min_support: float = DEFAULT_SUPPORT,
    origin: tuple[int, int] = (0, 0),
) -> NDArray[np.float64]:
    """Find all circles in a plane; the same pixels always give the same rows.

    Circles cut by the plane's border are found too: those with their centre inside, and those with
    it outside if a third of the circumference is visible (slightly more for radii below 10 px) and
    half of the visible part shows an edge.

    Parameters
    ----------
    plane
        Grey values (y, x): bool, any integers or floats. Values that are not finite (or beyond
        1e18) are filled from their neighbours within 4 px; deeper in, and within the reach of
        smoothing, no edges are found.
    radius_px
        Smallest and largest radius, pixels. A disc at an end of the range may be reported up to
        0.5 px outside it.
    noise_sd
        Standard deviation of the image's noise, grey levels, as from `noise.noise_sd`; estimated by
        default. For a crop, pass that of the whole image.
    polarity
        "bright" circles are brighter inside than outside; "dark" ones darker; "any" finds both.
        "rim" finds rings, such as bubbles: one circle, the outer edge, for two concentric edges of
        opposite polarity, and no other circles.
    rim_width_px
        Greatest width of a rim, pixels. For "rim" by default two fifths of its outer radius. If
        given for "any", the two edges of a rim count as one circle, the outer edge, alongside all
        other circles; by default each edge is a circle.
    min_support
        Least share of the visible circumference that must show an edge, over 0 and up to 1.
    origin
        Position (y, x) of the crop's first pixel in its image, pixels. See `halo_px`.

    Returns
    -------
    Array (n, 4) float64, sorted by y, then x: centre y and x in the image (pixel centres at whole
    numbers, ``origin`` added) and radius, pixels; support, the share of the circumference inside
    the image that shows an edge.

    Raises
    ------
    ParameterError
        If the plane is not two-dimensional or not real, or another parameter is out of range.

    Notes
    -----
    Edges as in Canny (1986), votes along gradients as in Kimme, Ballard and Sklansky (1975),
    geometric fit as in Gander, Golub and Strebel (1994); see the modules. The gradient of a disc
    smoothed with variance v peaks v / (2 r) inside its edge; this is added to the radius.

    Examples
    --------
    >>> y, x = np.mgrid[:64, :96]
    >>> plane = np.where((y - 30) ** 2 + (x - 50) ** 2 <= 12**2, 200, 50).astype(np.uint8)
    >>> detect_circles(plane, radius_px=(8, 20)).round(1)
    array([[30. , 50. , 11.9,  1. ]])
    """
    image = as_plane(plane)
    low, high = _check_radii(radius_px)
    rims = make_rims(polarity, rim_width_px)
    if not 0.0 < min_support <= 1.0:
        raise ParameterError("min_support", min_support, "over 0 and up to 1")
    if noise_sd is None:
        noise_sd = estimate_noise_sd(image)
    elif not (noise_sd >= 0.0 and math.isfinite(noise_sd)):
        raise ParameterError("noise_sd", noise_sd, "a finite number, 0 or more")
    if min(origin) < 0:
        raise ParameterError("origin", origin, "two whole numbers, 0 or more")
    if min(image.shape) < 3:
        return np.empty((0, 4))
    work = thread_buffers()
    plan = _make_plan(image.shape, low, high, polarity, rims, min_support)
    points = _find_edges(image, noise_sd, plan.smoothing, work)
    room = _FIRST_ROOM
    while True:
        found = _search(points, plan, origin, room, work)
        if found is not None:
            work.release_large()
            return found
        room *= 4


def is_compiled() -> bool:
    """Return whether the disk cache holds the compiled search; if not, the first image waits."""
    stats = getattr(find_circles, "stats", None)  # a plain function without JIT
    return stats is None or any(Path(stats.cache_path).glob("search.find_circles-*.nbi"))


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Constants derived from a plane's size and the parameters, shared by most images."""

    shape: tuple[int, int]
    smoothing: gradient.Smoothing
    signs: NDArray[np.int64]
    bands: votes.Bands
    limits: candidates.Limits
    cells: tuple[int, int]
    most_peaks: int
    histogram_bins: int


@functools.lru_cache(maxsize=64)
def _make_plan(
    shape: tuple[int, int],
    low: float,
    high: float,
    polarity: str,
    rims: Rims,
    min_support: float,
) -> _Plan:
    smoothing = gradient.make_smoothing(_sigma(low))
    innermost = rims.innermost_px(low)
    bands = votes.make_bands(innermost, high)
    rows, columns = votes.most_cells(shape, bands)
    return _Plan(
        shape=shape,
        smoothing=smoothing,
        signs=np.array(SIGNS[polarity], np.int64),
        bands=votes.tabulate_bands(bands, min_support),
        limits=candidates.Limits(
            innermost_px=innermost,
            largest_px=high,
            smallest_px=low - candidates.RADIUS_SLACK_PX,
            variance_px2=smoothing.variance_px2 + _BLUR_VARIANCE_PX2,
            spread_px=math.sqrt(smoothing.variance_px2),
            min_support=min_support,
            least_evidence=_LEAST_EVIDENCE,
            most_turning=_MOST_TURNING,
            reach_px=_reach(high),
            rims=rims.kind,
            rim_px=rims.width_px,
        ),
        cells=(rows, columns),
        # Of two neighbouring cells in an axis, at most one is a peak.
        most_peaks=(rows // 2 + 1) * (columns // 2 + 1),
        histogram_bins=math.ceil(high) + 3 * bands[-1].cell_px + 16,
    )


_FIRST_ROOM = 1 << 17
"""Initial capacity for the edge points of all candidates: a few hundred circles."""


def _find_edges(
    image: NDArray[Any], noise_sd: float, smoothing: gradient.Smoothing, work: BufferPool
) -> tuple[edges.Edges, int]:
    """Return the edge points, and the number of points that their buffers have room for."""
    height, width = image.shape
    is_float = image.dtype.kind == "f"
    # Powers of two keep every bit; without them, squares of tiny or huge noise overflow float32.
    exponent = round(math.log2(noise_sd)) if is_float and noise_sd > 0.0 else 0
    scale = math.ldexp(1.0, -exponent)
    least_sd = _QUANTUM_SD if image.dtype.kind in "ui" else 0.0
    noise = max(noise_sd * scale, least_sd) * smoothing.noise_gain
    limits = edges.EdgeLimits(
        threshold=np.float32(_THRESHOLD_SD * noise).view(np.int32),
        relative=np.float32(_ROUNDING),
        # Without noise every edge is significant.
        noise=np.float32(max(noise, 1e-30)),
        flank=round(2.0 * math.sqrt(smoothing.variance_px2)),
    )
    rows = height if is_float else edges.RING_ROWS
    blocks = -(-width // edges.COLUMN_BLOCK)
    padded = blocks * edges.COLUMN_BLOCK
    buffers = edges.RowBuffers(
        plane=work.get("plane", (rows, width), np.float32),
        bad=work.get("bad", (rows, width), np.uint8),
        row=work.get("row", (width + 2 * smoothing.taps.size,), np.float32),
        smoothed=work.get("smoothed", (edges.RING_ROWS, width), np.float32),
        mag=work.get("mag", (edges.RING_ROWS, padded), np.float32),
        columns=work.get("columns", (padded + 1,), np.int32),
        ends=work.get("ends", (blocks,), np.int32),
    )
    starts = work.get("starts", (height, blocks + 1), np.int32)
    room = height * width // 8 + 1024
    while True:
        pixel = work.get("pixel", (room, 2), np.int32)
        value = work.get("value", (room, 5), np.float32)
        count = edges.find_edges(
            image,
            not is_float,
            np.float32(scale),
            smoothing.taps,
            limits,
            buffers,
            edges.Edges(pixel, value, starts),
        )
        if count <= room:
            return edges.Edges(pixel[:count], value[:count], starts), room
        room = count


def _search(
    found_edges: tuple[edges.Edges, int],
    plan: _Plan,
    origin: tuple[int, int],
    room: int,
    work: BufferPool,
) -> NDArray[np.float64] | None:
    """Return the circles, or None if the buffers are too small for all candidates' points."""
    # Buffers with room for as many points as there may be are the same for most images.
    points, point_room = found_edges
    most = room // 16
    rows, columns = plan.cells
    circles = work.get("circles", (most, 4), np.float64)
    buffers = Buffers(
        accumulator=work.get("accumulator", (rows * columns,), np.int32),
        windows=work.get("windows", (rows * columns,), np.int32),
        line=work.get("line", (columns,), np.int32),
        peaks=Peaks(
            anchors=work.get("anchors", (plan.most_peaks, 3), np.int64),
            shifts=work.get("shifts", (plan.most_peaks, 2), np.float64),
        ),
        fit=candidates.FitBuffers(
            points=Points(
                table=work.get("points", (point_room, GATHERED_COLUMNS), np.float64),
                edge=work.get("edge", (point_room,), np.int64),
            ),
            histogram=work.get("histogram", (plan.histogram_bins,), np.float64),
            sums=work.get("sums", (MOST_BINS, 3), np.float64),
            cosines=COSINES,
        ),
        claims=Claims(
            owner=work.get("owner", (point_room,), np.int64),
            seen=work.get("seen", (MOST_BINS,), np.int64),
            verdict=work.get("verdict", (most,), np.int64),
        ),
    )
    listed = candidates.Candidates(
        table=work.get("table", (most, candidates.CANDIDATE_COLUMNS), np.float64),
        numbers=work.get("numbers", (most, candidates.CANDIDATE_INTEGERS), np.int64),
        members=work.get("members", (room,), np.int64),
        member_bins=work.get("member_bins", (room,), np.int64),
        filled=work.get("filled", (2,), np.int64),
    )
    found = find_circles(
        points,
        votes.Frame(*plan.shape, *origin),
        plan.signs,
        plan.bands,
        plan.limits,
        buffers,
        listed,
        circles,
    )
    return None if found < 0 else circles[:found].copy()


COSINES: NDArray[np.float64] = np.cos(np.arange(4 * MOST_BINS) * (2.0 * np.pi / (4 * MOST_BINS)))
"""One turn in steps of a quarter of the finest arc."""


def _sigma(low_px: float) -> float:
    return min(_LARGEST_SIGMA_PX, max(_SMALLEST_SIGMA_PX, low_px / _RADII_PER_SIGMA))


def _reach(high_px: float) -> float:
    return _REACH_SHARE * high_px


def _check_radii(radius_px: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in radius_px)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not 1.0 <= low <= high <= LARGEST_PX:
        raise ParameterError(
            "radius_px", radius_px, "two numbers of pixels, (smallest, largest), from 1 to 1e6"
        )
    return low, high
