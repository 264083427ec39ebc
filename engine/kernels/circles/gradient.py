"""Smoothed rows of a plane and their gradients, the input of `edges`."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import Bytes, Floats32, Plane, compiled

HUGE = np.float32(1e18)
"""Values beyond this are treated as not finite: their squares would overflow float32."""

WHOLE = (1 << 62) - 1
"""Row mask of a complete plane, see `smooth_rows`."""


@dataclass(frozen=True, slots=True)
class Smoothing:
    """Sampled Gaussian: ``taps`` from its centre outwards, and derived constants.

    ``noise_gain`` is the standard deviation of one gradient component in white noise of
    standard deviation 1 (units of value per pixel); ``variance_px2`` that of the whole edge filter,
    along the edge's normal; ``reach_px`` the radius of influence on a gradient.
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
    # A multiple of 3: `smooth_columns` processes three taps at once.
    radius = 3 * max(1, int(np.ceil(sigma_px)))
    offsets = np.arange(-radius, radius + 1, dtype=np.float64)
    kernel = np.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel /= kernel.sum()
    derivative = np.convolve(kernel, [0.5, 0.0, -0.5])
    noise_gain = float(np.sqrt((derivative**2).sum() * (kernel**2).sum()))
    # A central difference is a derivative averaged over a box 2 px wide, of variance 4 / 12.
    variance = float((kernel * offsets**2).sum()) + 4.0 / 12.0
    return Smoothing(kernel[radius:].astype(np.float32), noise_gain, variance, radius + 2)


@compiled
def convert(plane: Plane, scale: np.float32, out: Floats32, bad: Bytes) -> int:
    """Copy a plane as float32 times ``scale``; return the number of unusable values.

    ``bad`` (y, x) uint8 marks them; it is written only if there are any.
    """
    height, width = plane.shape
    count = 0
    for y in range(height):
        source = plane[y]
        target = out[y]
        for x in range(width):
            target[x] = np.float32(source[x]) * scale
        row = 0
        for x in range(width):
            # Also false for NaN.
            row += 0 if abs(target[x]) <= HUGE else 1
        count += row
    if count > 0:
        for y in range(height):
            for x in range(width):
                bad[y, x] = 0 if abs(out[y, x]) <= HUGE else 1
    return count


@compiled
def fill_bad(image: Floats32, bad: Bytes, reach: int) -> int:
    """Fill unusable pixels with the mean of the usable ones within ``reach`` px, else 0, in place.

    ``bad`` becomes 2 for pixels without usable neighbours; return their number.
    """
    height, width = image.shape
    deep = 0
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
            if count > 0:
                image[y, x] = np.float32(total / count)
            else:
                image[y, x] = np.float32(0.0)
                bad[y, x] = 2
                deep += 1
    return deep


@compiled
def smooth_columns(
    image: Floats32, mask: int, taps: Floats32, y: int, height: int, out: Floats32
) -> None:
    """Write the weighted sum of the rows around row ``y``; see `smooth_rows` for the parameters."""
    width = out.size
    here = image[y & mask]
    # Three taps at once: a third of the passes over the sums. LLVM does not vectorise more, as it
    # would have to check too many rows for overlaps.
    for k in range(1, taps.size, 3):
        above_1 = image[max(0, y - k) & mask]
        above_2 = image[max(0, y - k - 1) & mask]
        above_3 = image[max(0, y - k - 2) & mask]
        below_1 = image[min(height - 1, y + k) & mask]
        below_2 = image[min(height - 1, y + k + 1) & mask]
        below_3 = image[min(height - 1, y + k + 2) & mask]
        weight = taps[0]
        weight_1 = taps[k]
        weight_2 = taps[k + 1]
        weight_3 = taps[k + 2]
        if k == 1:
            for x in range(width):
                out[x] = weight * here[x] + (
                    weight_1 * (above_1[x] + below_1[x])
                    + weight_2 * (above_2[x] + below_2[x])
                    + weight_3 * (above_3[x] + below_3[x])
                )
        else:
            for x in range(width):
                out[x] += (
                    weight_1 * (above_1[x] + below_1[x])
                    + weight_2 * (above_2[x] + below_2[x])
                    + weight_3 * (above_3[x] + below_3[x])
                )


@compiled
def smooth_along(row: Floats32, taps: Floats32, target: Floats32) -> None:
    """Write the weighted sum along a row padded by ``taps.size - 1`` values on both sides."""
    width = target.size
    radius = taps.size - 1
    weight = taps[0]
    if radius == 6:
        # Known distances: one pass. This is the usual case, radii from 8 px upwards.
        w_1, w_2, w_3, w_4, w_5, w_6 = taps[1], taps[2], taps[3], taps[4], taps[5], taps[6]
        # Unsigned indices: for signed ones numba tests wrap-around.
        for x in range(width):
            target[x] = (
                weight * row[np.uint64(x + 6)]
                + (
                    w_1 * (row[np.uint64(x + 5)] + row[np.uint64(x + 7)])
                    + w_2 * (row[np.uint64(x + 4)] + row[np.uint64(x + 8)])
                    + w_3 * (row[np.uint64(x + 3)] + row[np.uint64(x + 9)])
                )
            ) + (
                w_4 * (row[np.uint64(x + 2)] + row[np.uint64(x + 10)])
                + w_5 * (row[np.uint64(x + 1)] + row[np.uint64(x + 11)])
                + w_6 * (row[np.uint64(x)] + row[np.uint64(x + 12)])
            )
        return
    middle = row[radius : radius + width]
    for x in range(width):
        target[x] = weight * middle[x]
    for k in range(1, radius + 1, 3):
        left_1 = row[radius - k : radius - k + width]
        left_2 = row[radius - k - 1 : radius - k - 1 + width]
        left_3 = row[radius - k - 2 : radius - k - 2 + width]
        right_1 = row[radius + k : radius + k + width]
        right_2 = row[radius + k + 1 : radius + k + 1 + width]
        right_3 = row[radius + k + 2 : radius + k + 2 + width]
        w_1 = taps[k]
        w_2 = taps[k + 1]
        w_3 = taps[k + 2]
        for x in range(width):
            target[x] += (
                w_1 * (left_1[x] + right_1[x])
                + w_2 * (left_2[x] + right_2[x])
                + w_3 * (left_3[x] + right_3[x])
            )


@compiled
def smooth_rows(
    image: Floats32,
    mask: int,
    taps: Floats32,
    first: int,
    last: int,
    height: int,
    row: Floats32,
    out: Floats32,
) -> None:
    """Smooth some rows of a plane in both axes; the border is repeated outwards.

    Parameters
    ----------
    image
        (rows, width) float32; row y of the plane is row ``y & mask`` of it, so it may be a ring
        buffer of rows or a whole plane.
    mask
        `WHOLE`, or the number of rows of the ring buffer (a power of 2) minus 1.
    taps
        Half a symmetric kernel, from its centre outwards; 1 plus a multiple of 3.
    first, last, height
        The first row, the one after the last, and the number of the plane's rows.
    row
        Buffer of width + 2 * (taps - 1) float32 or more.
    out
        (rows, width) float32, written; a ring buffer or the whole plane.
    """
    width = out.shape[1]
    radius = taps.size - 1
    middle = row[radius : radius + width]
    for y in range(first, last):
        smooth_columns(image, mask, taps, y, height, middle)
        for k in range(radius):
            row[k] = row[radius]
            row[radius + width + k] = row[radius + width - 1]
        smooth_along(row, taps, out[y % out.shape[0]])


@compiled
def smooth(image: Floats32, taps: Floats32, row: Floats32, out: Floats32) -> None:
    """Smooth a plane; see `smooth_rows`."""
    height = image.shape[0]
    smooth_rows(image, WHOLE, taps, 0, height, height, row, out)


@compiled
def magnitude_rows(smoothed: Floats32, first: int, last: int, height: int, out: Floats32) -> None:
    """Write some rows of the gradient's magnitude, value per pixel, between ring buffers.

    It is 0 on the outermost pixels of the plane, and in the ring buffer's columns beyond it.
    """
    rows, width = smoothed.shape
    inner = width - 2
    half = np.float32(0.5)
    for y in range(first, last):
        line = out[y % rows]
        if y == 0 or y == height - 1:
            line[:] = np.float32(0.0)
            continue
        here = smoothed[y % rows]
        target = line[1 : inner + 1]
        up = smoothed[(y - 1) % rows, 1 : inner + 1]
        down = smoothed[(y + 1) % rows, 1 : inner + 1]
        left = here[:inner]
        right = here[2 : inner + 2]
        for x in range(inner):
            gy = (down[x] - up[x]) * half
            gx = (right[x] - left[x]) * half
            target[x] = np.sqrt(gy * gy + gx * gx)
        line[0] = np.float32(0.0)
        line[inner + 1 :] = np.float32(0.0)


@compiled
def convert_rows(plane: Plane, scale: np.float32, first: int, last: int, out: Floats32) -> None:
    """Copy some rows of integers to a ring buffer, as float32 times ``scale``."""
    for y in range(first, last):
        source = plane[y]
        target = out[y % out.shape[0]]
        for x in range(target.size):
            target[x] = np.float32(source[x]) * scale
