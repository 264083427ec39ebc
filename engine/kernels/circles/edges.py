"""Edge points of a plane: where the smoothed gradient peaks, to a fraction of a pixel.

J. Canny, "A computational approach to edge detection", IEEE PAMI 8 (1986), for smoothing and
non-maximum suppression; F. Devernay, "A non-maxima suppression method for edge detection with
sub-pixel accuracy", INRIA RR-2724 (1995), for the parabola across the edge.

Rows go from the pixels to the edge points a few at a time, through rings of rows: what one step
writes the next one finds in the cache, and no whole plane of float32 is written.
"""

from __future__ import annotations

import numpy as np

from engine.kernels._jit import Bytes, Floats32, Plane, Whole32, compiled
from engine.kernels.circles.gradient import (
    WHOLE,
    convert,
    convert_rows,
    fill_bad,
    magnitude_rows,
    smooth_rows,
)

SEGMENT = 16
"""Pixels that are tested at once for any gradient above the threshold; a multiple of the SIMD
width, and short enough for most segments of a quiet image to be empty."""

COLUMN_BLOCK = 64
"""Width in pixels of the blocks in which a row's edge points can be looked up."""

FILL_PX = 4
"""How far a value that is not finite looks for others to be replaced by, pixels."""

LEAST_DROP = 0.2
"""Share by which the gradient must fall off, two widths of the smoothing to both sides (mean): an
edge blurred by up to 5 px does, the contour lines of a smooth shade don't."""

BATCH_ROWS = 16
"""Rows that each step takes at once, to spare calls."""

RING_ROWS = 32
"""Rows of each ring: a power of 2, at least a batch and what a kernel of 13 taps or two flanks of
4 px look at besides."""

RING = RING_ROWS - 1
"""Row y of a plane is row ``y & RING`` of its ring."""


@compiled
def list_steep(bits: Whole32, threshold: np.int32, columns: Whole32, ends: Whole32) -> None:
    """List a row's columns whose value exceeds a threshold, and where each block's list ends.

    Both as the bits of float32: from 0 upwards these are in the same order as the values. The row's
    length is a multiple of a block's.
    """
    count = 0
    for block in range(ends.size):
        # Indices without a sign: numba would test each for wrapping around, which stops LLVM from
        # taking 16 at once.
        first = block * COLUMN_BLOCK
        any_steep = np.int32(0)
        for x in range(COLUMN_BLOCK):
            any_steep |= np.int32(bits[np.uint64(first + x)] > threshold)
        if any_steep != 0:
            for segment in range(first, first + COLUMN_BLOCK, SEGMENT):
                any_steep = np.int32(0)
                for x in range(SEGMENT):
                    any_steep |= np.int32(bits[np.uint64(segment + x)] > threshold)
                if any_steep == 0:
                    continue
                for x in range(SEGMENT):
                    # Always written, seldom kept: no branch to guess wrong.
                    columns[np.uint64(count)] = segment + x
                    count += 1 if bits[np.uint64(segment + x)] > threshold else 0
        ends[block] = count


@compiled
def find_edges_rows(
    smoothed: Floats32,
    mag: Floats32,
    bits: Whole32,
    first: int,
    last: int,
    height: int,
    threshold: np.int32,
    relative: np.float32,
    noise: np.float32,
    flank: int,
    count: int,
    columns: Whole32,
    ends: Whole32,
    pixel: Whole32,
    value: Floats32,
    starts: Whole32,
) -> int:
    """Append the edge points of some rows; return how many there are then.

    Parameters
    ----------
    smoothed, mag, bits
        Rings of rows: the smoothed plane, (rows, width) float32, and its gradient's magnitude,
        whose rows end with zeros up to a multiple of 64 columns; the bits of this.
    first, last, height
        The first row, the one after the last, and the number of the plane's rows.
    threshold, relative, noise, flank
        See `find_edges`; the threshold's bits.
    count
        Number of points so far.
    columns, ends
        Buffers of int32 for one row, see `list_steep`; one column more than a row has.
    pixel, value, starts
        See `find_edges`.
    """
    room = pixel.shape[0]
    blocks = starts.shape[1] - 1
    width = smoothed.shape[1]
    one = np.float32(1.0)
    half = np.float32(0.5)
    for y in range(first, last):
        if y == 0 or y == height - 1:
            starts[y, :] = min(count, room)
            continue
        line = mag[y & RING]
        line_above = mag[(y - 1) & RING]
        line_below = mag[(y + 1) & RING]
        here_row = smoothed[y & RING]
        above_row = smoothed[(y - 1) & RING]
        below_row = smoothed[(y + 1) & RING]
        list_steep(bits[y & RING], threshold, columns, ends)
        for block in range(blocks):
            starts[y, block] = min(count, room)
            for i in range(ends[block - 1] if block > 0 else 0, ends[block]):
                # Indices without a sign: numba would test each for wrapping around.
                column = columns[np.uint64(i)]
                x = np.uint64(column)
                left = x - np.uint64(1)
                right = x + np.uint64(1)
                here = line[x]
                gy = (below_row[x] - above_row[x]) * half
                gx = (here_row[right] - here_row[left]) * half
                # Neighbours one pixel up and down the gradient along its larger component, between
                # two pixels of the next row or column.
                along = abs(gx) >= abs(gy)
                slope = (gy if along else gx) / (gx if along else gy)
                t = abs(slope)
                if slope >= 0:
                    after_aside, before_aside = line_below[right], line_above[left]
                elif along:
                    after_aside, before_aside = line_above[right], line_below[left]
                else:
                    after_aside, before_aside = line_below[left], line_above[right]
                after = (line[right] if along else line_below[x]) * (one - t) + after_aside * t
                before = (line[left] if along else line_above[x]) * (one - t) + before_aside * t
                if not ((here > before) & (here >= after)):
                    continue
                if here <= relative * abs(here_row[x]):
                    continue
                py = int(np.float64(flank * gy / here) + 1024.5) - 1024
                px = int(np.float64(flank * gx / here) + 1024.5) - 1024
                upper = mag[
                    min(height - 1, max(0, y + py)) & RING, min(width - 1, max(0, column + px))
                ]
                lower = mag[
                    min(height - 1, max(0, y - py)) & RING, min(width - 1, max(0, column - px))
                ]
                if half * (upper + lower) > np.float32(1.0 - LEAST_DROP) * here:
                    continue
                if count < room:
                    shift = half * (before - after) / (before - 2 * here + after)
                    value[count, 0] = shift * slope if along else shift
                    value[count, 1] = shift if along else shift * slope
                    value[count, 2] = gy / here
                    value[count, 3] = gx / here
                    value[count, 4] = here / noise
                    pixel[count, 0] = y
                    pixel[count, 1] = column
                count += 1
        starts[y, blocks] = min(count, room)
    return count


@compiled
def drop_masked(bad: Bytes, reach: int, pixel: Whole32, value: Floats32, starts: Whole32) -> int:
    """Drop the points that saw what is masked, and not an edge; return how many are left.

    Parameters
    ----------
    bad
        (y, x): 2 for pixels that have nothing in common with the image, see `gradient.fill_bad`.
    reach
        How far a point sees, pixels.
    pixel, value, starts
        See `find_edges`; written.
    """
    height, width = bad.shape
    kept = 0
    n = 0
    for y in range(height):
        for block in range(starts.shape[1]):
            while n < starts[y, block]:
                top, left = pixel[n, 0] - reach, pixel[n, 1] - reach
                masked = False
                for j in range(max(0, top), min(height, top + 2 * reach + 1)):
                    for i in range(max(0, left), min(width, left + 2 * reach + 1)):
                        masked |= bad[j, i] == 2
                if not masked:
                    pixel[kept] = pixel[n]
                    value[kept] = value[n]
                    kept += 1
                n += 1
            starts[y, block] = kept
    return kept


@compiled
def find_edges(
    image: Plane,
    is_finite: bool,
    scale: np.float32,
    taps: Floats32,
    threshold: np.int32,
    relative: np.float32,
    noise: np.float32,
    flank: int,
    plane: Floats32,
    bad: Bytes,
    row: Floats32,
    smoothed: Floats32,
    mag: Floats32,
    columns: Whole32,
    ends: Whole32,
    pixel: Whole32,
    value: Floats32,
    starts: Whole32,
) -> int:
    """List the points where the gradient peaks along its own direction, in raster order.

    Parameters
    ----------
    image
        Plane (y, x), 3 x 3 or more.
    is_finite
        Whether all its values are usable, as whole numbers are: then ``plane`` is a ring of rows,
        otherwise it holds all, and ``bad`` as well, so that what is not usable can be filled first.
    scale
        Factor of the values, a power of 2.
    taps
        Half the smoothing kernel, see `gradient.smooth_rows`.
    threshold
        Least magnitude, value per pixel: the bits of this float32.
    relative
        Least magnitude as a share of the smoothed value: rounding of float32 is no edge.
    noise
        Standard deviation of a gradient component, value per pixel, for the signal-to-noise ratio.
    flank
        Distance at which the gradient must have fallen off, pixels.
    plane, bad, row, smoothed, mag, columns, ends
        Buffers: see above, `gradient.smooth_rows` and `find_edges_rows`.
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
    height = image.shape[0]
    radius = taps.size - 1
    mask = RING if is_finite else WHOLE
    converted = 0
    deep = 0
    if not is_finite and convert(image, scale, plane, bad) > 0:
        deep = fill_bad(plane, bad, FILL_PX)
    bits = mag.view(np.int32)
    count = 0
    # Magnitudes need one row more of the smoothed plane, edge points a flank more of magnitudes.
    for first in range(0, height + 1 + flank, BATCH_ROWS):
        last = first + BATCH_ROWS
        if is_finite:
            needed = min(height, last + radius)
            convert_rows(image, scale, converted, needed, plane)
            converted = max(converted, needed)
        smooth_rows(plane, mask, taps, first, min(height, last), height, row, smoothed)
        magnitude_rows(smoothed, max(0, first - 1), min(height, last - 1), height, mag)
        count = find_edges_rows(
            smoothed,
            mag,
            bits,
            max(0, first - 1 - flank),
            min(height, last - 1 - flank),
            height,
            threshold,
            relative,
            noise,
            flank,
            count,
            columns,
            ends,
            pixel,
            value,
            starts,
        )
    if deep > 0 and count <= pixel.shape[0]:
        count = drop_masked(bad, taps.size + 1, pixel, value, starts)
    return count
