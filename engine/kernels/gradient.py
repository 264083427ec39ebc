"""Edge points of a plane: where the smoothed gradient peaks, to a fraction of a pixel.

J. Canny, "A computational approach to edge detection", IEEE PAMI 8 (1986), for smoothing and
non-maximum suppression; F. Devernay, "A non-maxima suppression method for edge detection with
sub-pixel accuracy", INRIA RR-2724 (1995), for the parabola across the edge.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import Bytes, Floats32, Plane, Whole32, compiled

SEGMENT = 16
"""Pixels that are tested at once for any gradient above the threshold; a multiple of the SIMD
width, and short enough for most segments of a quiet image to be empty."""

COLUMN_BLOCK = 64
"""Width in pixels of the blocks in which a row's edge points can be looked up."""

HUGE = np.float32(1e18)
"""Values beyond this are treated as not finite: their squares would overflow float32."""

FILL_PX = 4
"""How far a value that is not finite looks for others to be replaced by, pixels."""

LEAST_DROP = 0.2
"""Share by which the gradient must fall off, two widths of the smoothing to both sides (mean): an
edge blurred by up to 5 px does, the contour lines of a smooth shade don't."""


@dataclass(frozen=True, slots=True)
class Smoothing:
    """A Gaussian, sampled: ``taps`` from its centre outwards, and what follows from them.

    ``noise_gain`` is the standard deviation of one gradient component in white noise of
    standard deviation 1 (units of value per pixel); ``variance_px2`` that of the whole edge filter,
    along the edge's normal; ``reach_px`` how far a gradient looks.
    """

    taps: NDArray[np.float32]
    noise_gain: float
    variance_px2: float
    reach_px: int


@functools.lru_cache(maxsize=64)
def make_smoothing(sigma_px: float) -> Smoothing:
    """Return the sampled Gaussian of a standard deviation in pixels, cut at 3 sigma or just beyond.

    Examples
    --------
    >>> smoothing = make_smoothing(2.0)
    >>> smoothing.taps.shape, round(smoothing.noise_gain, 3)
    ((7,), 0.047)
    """
    # A multiple of 3: `smooth` takes three taps at once.
    radius = 3 * max(1, int(np.ceil(sigma_px)))
    offsets = np.arange(-radius, radius + 1, dtype=np.float64)
    kernel = np.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel /= kernel.sum()
    derivative = np.convolve(kernel, [0.5, 0.0, -0.5])
    noise_gain = float(np.sqrt((derivative**2).sum() * (kernel**2).sum()))
    # A central difference is a derivative seen through a box 2 px wide, of variance 4 / 12.
    variance = float((kernel * offsets**2).sum()) + 4.0 / 12.0
    return Smoothing(kernel[radius:].astype(np.float32), noise_gain, variance, radius + 2)


@compiled
def convert(plane: Plane, scale: np.float32, out: Floats32, bad: Bytes) -> int:
    """Copy a plane as float32 times ``scale``; return how many values are not usable.

    ``bad`` (y, x) uint8 marks them; it is written only where there are some.
    """
    height, width = plane.shape
    count = 0
    for y in range(height):
        for x in range(width):
            out[y, x] = np.float32(plane[y, x]) * scale
        row = 0
        for x in range(width):
            # False for NaN as well.
            row += 0 if abs(out[y, x]) <= HUGE else 1
        count += row
    if count > 0:
        for y in range(height):
            for x in range(width):
                bad[y, x] = 0 if abs(out[y, x]) <= HUGE else 1
    return count


@compiled
def fill_bad(image: Floats32, bad: Bytes, reach: int) -> None:
    """Give unusable pixels the mean of the usable ones within ``reach`` px, else 0, in place."""
    height, width = image.shape
    for y in range(height):
        for x in range(width):
            if bad[y, x] == 0:
                continue
            total = 0.0
            count = 0
            for j in range(max(0, y - reach), min(height, y + reach + 1)):
                for i in range(max(0, x - reach), min(width, x + reach + 1)):
                    if bad[j, i] == 0:
                        total += image[j, i]
                        count += 1
            image[y, x] = np.float32(total / count) if count > 0 else np.float32(0.0)


@compiled
def smooth(image: Floats32, taps: Floats32, row: Floats32, out: Floats32) -> None:
    """Smooth a plane by a symmetric kernel in both axes; the border is repeated outwards.

    ``taps`` begin with the centre; their number is 1 plus a multiple of 3. ``row`` is a buffer of
    width + 2 * (taps - 1) float32.
    """
    height, width = image.shape
    radius = taps.size - 1
    for y in range(height):
        middle = row[radius : radius + width]
        here = image[y]
        weight = taps[0]
        for x in range(width):
            middle[x] = weight * here[x]
        # Three taps at once: a third of the passes over the sums.
        for k in range(1, radius + 1, 3):
            above_1 = image[max(0, y - k)]
            above_2 = image[max(0, y - k - 1)]
            above_3 = image[max(0, y - k - 2)]
            below_1 = image[min(height - 1, y + k)]
            below_2 = image[min(height - 1, y + k + 1)]
            below_3 = image[min(height - 1, y + k + 2)]
            weight_1 = taps[k]
            weight_2 = taps[k + 1]
            weight_3 = taps[k + 2]
            for x in range(width):
                middle[x] += (
                    weight_1 * (above_1[x] + below_1[x])
                    + weight_2 * (above_2[x] + below_2[x])
                    + weight_3 * (above_3[x] + below_3[x])
                )
        for k in range(radius):
            row[k] = row[radius]
            row[radius + width + k] = row[radius + width - 1]
        target = out[y]
        weight = taps[0]
        for x in range(width):
            target[x] = weight * middle[x]
        for k in range(1, radius + 1, 3):
            left_1 = row[radius - k : radius - k + width]
            left_2 = row[radius - k - 1 : radius - k - 1 + width]
            left_3 = row[radius - k - 2 : radius - k - 2 + width]
            right_1 = row[radius + k : radius + k + width]
            right_2 = row[radius + k + 1 : radius + k + 1 + width]
            right_3 = row[radius + k + 2 : radius + k + 2 + width]
            weight_1 = taps[k]
            weight_2 = taps[k + 1]
            weight_3 = taps[k + 2]
            for x in range(width):
                target[x] += (
                    weight_1 * (left_1[x] + right_1[x])
                    + weight_2 * (left_2[x] + right_2[x])
                    + weight_3 * (left_3[x] + right_3[x])
                )


@compiled
def magnitude(smoothed: Floats32, out: Floats32) -> None:
    """Write the gradient's magnitude, value per pixel; 0 on the outermost pixels."""
    height, width = smoothed.shape
    half = np.float32(0.5)
    for y in range(height):
        target = out[y]
        if y == 0 or y == height - 1 or width < 3:
            target[:] = 0.0
            continue
        above = smoothed[y - 1]
        below = smoothed[y + 1]
        left = smoothed[y, : width - 2]
        right = smoothed[y, 2:]
        inner = target[1 : width - 1]
        above_inner = above[1 : width - 1]
        below_inner = below[1 : width - 1]
        for x in range(width - 2):
            gy = (below_inner[x] - above_inner[x]) * half
            gx = (right[x] - left[x]) * half
            inner[x] = np.sqrt(gy * gy + gx * gx)
        target[0] = 0.0
        target[width - 1] = 0.0


@compiled
def find_edges(
    smoothed: Floats32,
    mag: Floats32,
    threshold: np.float32,
    relative: np.float32,
    noise: np.float32,
    flank: int,
    pixel: Whole32,
    value: Floats32,
    starts: Whole32,
) -> int:
    """List the points where the gradient peaks along its own direction, in raster order.

    Parameters
    ----------
    smoothed, mag
        Planes (y, x) float32: the smoothed image and its gradient's magnitude.
    threshold
        Least magnitude, value per pixel.
    relative
        Least magnitude as a share of the smoothed value: rounding of float32 is no edge.
    noise
        Standard deviation of a gradient component, value per pixel, for the signal-to-noise ratio.
    flank
        Distance at which the gradient must have fallen off, pixels.
    pixel
        (n, 2) int32, written: y, x of the pixel.
    value
        (n, 5) float32, written: offset y, offset x (pixels), unit direction y, x of the gradient,
        signal-to-noise ratio.
    starts
        (y, blocks + 1) int32, written: first point of each row's blocks of 64 columns.

    Returns
    -------
    The number of points; more than fit into ``pixel`` means that those beyond were dropped.
    """
    height, width = mag.shape
    room = pixel.shape[0]
    blocks = starts.shape[1] - 1
    count = 0
    for y in range(height):
        line = mag[y]
        for block in range(blocks):
            starts[y, block] = min(count, room)
            if y == 0 or y == height - 1:
                continue
            first = block * COLUMN_BLOCK
            last = min(width, first + COLUMN_BLOCK)
            for segment in range(first, last, SEGMENT):
                end = min(last, segment + SEGMENT)
                above = 0
                part = line[segment:end]
                for x in range(end - segment):
                    above += 1 if part[x] > threshold else 0
                if above == 0:
                    continue
                for x in range(segment, end):
                    here = line[x]
                    if not here > threshold or x == 0 or x == width - 1:
                        continue
                    gy = (smoothed[y + 1, x] - smoothed[y - 1, x]) * np.float32(0.5)
                    gx = (smoothed[y, x + 1] - smoothed[y, x - 1]) * np.float32(0.5)
                    # Neighbours one pixel up and down the gradient along its larger component,
                    # between two pixels of the next row or column.
                    if abs(gx) >= abs(gy):
                        slope = gy / gx
                        t = abs(slope)
                        step = 1 if slope >= 0 else -1
                        after = line[x + 1] * (np.float32(1.0) - t) + mag[y + step, x + 1] * t
                        before = line[x - 1] * (np.float32(1.0) - t) + mag[y - step, x - 1] * t
                    else:
                        slope = gx / gy
                        t = abs(slope)
                        step = 1 if slope >= 0 else -1
                        after = mag[y + 1, x] * (np.float32(1.0) - t) + mag[y + 1, x + step] * t
                        before = mag[y - 1, x] * (np.float32(1.0) - t) + mag[y - 1, x - step] * t
                    if not (here > before and here >= after):
                        continue
                    if here <= relative * abs(smoothed[y, x]):
                        continue
                    py = int(np.float64(flank * gy / here) + 1024.5) - 1024
                    px = int(np.float64(flank * gx / here) + 1024.5) - 1024
                    up = mag[min(height - 1, max(0, y + py)), min(width - 1, max(0, x + px))]
                    down = mag[min(height - 1, max(0, y - py)), min(width - 1, max(0, x - px))]
                    if np.float32(0.5) * (up + down) > np.float32(1.0 - LEAST_DROP) * here:
                        continue
                    if count < room:
                        shift = np.float32(0.5) * (before - after) / (before - 2 * here + after)
                        if abs(gx) >= abs(gy):
                            value[count, 0] = shift * slope
                            value[count, 1] = shift
                        else:
                            value[count, 0] = shift
                            value[count, 1] = shift * slope
                        value[count, 2] = gy / here
                        value[count, 3] = gx / here
                        value[count, 4] = here / noise
                        pixel[count, 0] = y
                        pixel[count, 1] = x
                    count += 1
        starts[y, blocks] = min(count, room)
    return count
