"""Edge points: subpixel maxima of the smoothed gradient of a plane.

J. Canny, "A computational approach to edge detection", IEEE PAMI 8 (1986), for smoothing and
non-maximum suppression; F. Devernay, "A non-maxima suppression method for edge detection with
sub-pixel accuracy", INRIA RR-2724 (1995), for the parabola across the edge.

Rows pass from the pixels to the edge points a few at a time, through ring buffers of rows: each
step reads the previous step's output from the cache, and no whole float32 plane is written.
"""

from __future__ import annotations

from typing import NamedTuple

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
"""Pixels that are tested together for any gradient above the threshold; a multiple of the SIMD
width, and short enough that most segments of a quiet image are empty."""

COLUMN_BLOCK = 64
"""Width in pixels of the blocks by which a row's edge points are indexed."""

FILL_PX = 4
"""Distance within which a value that is not finite is filled from finite ones, pixels."""

LEAST_DROP = 0.2
"""Share by which the gradient must fall off, two widths of the smoothing to both sides (mean):
edges blurred by up to 5 px do, contour lines of a smooth shade do not."""

BATCH_ROWS = 16
"""Rows that each step processes per call, to save call overhead."""

RING_ROWS = 32
"""Rows of each ring buffer: a power of 2, at least one batch plus the context of a kernel of 13
taps or two flanks of 4 px."""

RING = RING_ROWS - 1
"""Mask of the ring buffer: row y of a plane is row ``y & RING``."""


class Edges(NamedTuple):
    """Edge points of a plane, in raster order."""

    pixel: Whole32
    """(n, 2) int32: y, x of the pixel."""
    value: Floats32
    """(n, 5) float32: offset y, offset x (pixels), unit direction y, x of the gradient,
    signal-to-noise ratio."""
    starts: Whole32
    """(y, blocks + 1) int32: first point of each row's blocks of 64 columns."""


class EdgeLimits(NamedTuple):
    """Requirements of an edge point."""

    threshold: np.int32
    """Least magnitude of the gradient, value per pixel, as the bits of a float32."""
    relative: np.float32
    """Least magnitude as a share of the smoothed value, against rounding errors of float32."""
    noise: np.float32
    """Standard deviation of a gradient component, value per pixel, for the signal-to-noise
    ratio."""
    flank: int
    """Distance within which the gradient must fall off, pixels."""


class RowBuffers(NamedTuple):
    """Buffers from the pixels to the edge points.

    Rings of rows, unless the plane has values that are not finite: then ``plane`` and ``bad`` hold
    all rows, so that values can be filled first.
    """

    plane: Floats32
    """(rows, width) float32: pixels."""
    bad: Bytes
    """(rows, width) uint8: marks of pixels that are not finite, see `gradient.fill_bad`."""
    row: Floats32
    """One padded row, see `gradient.smooth_rows`."""
    smoothed: Floats32
    """(rows, width) float32: the smoothed plane."""
    mag: Floats32
    """(rows, columns) float32: magnitude of the gradient, with rows padded by zeros to a multiple
    of 64 columns."""
    columns: Whole32
    """Steep columns of a row, see `list_steep`; one column longer than a row."""
    ends: Whole32
    """End of each block's steep columns, see `list_steep`."""


@compiled
def list_steep(bits: Whole32, threshold: np.int32, columns: Whole32, ends: Whole32) -> None:
    """List a row's columns above a threshold, and the end of each block's list.

    Values and threshold are the bits of float32, which sort in the same order as the values from 0
    upwards. The row's length is a multiple of a block's.
    """
    count = 0
    for block in range(ends.size):
        # Unsigned indices: for signed ones numba tests wrap-around, and LLVM then does not
        # vectorise by 16.
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
                    # Always written, seldom kept: avoids an unpredictable branch.
                    columns[np.uint64(count)] = segment + x
                    count += 1 if bits[np.uint64(segment + x)] > threshold else 0
        ends[block] = count


@compiled
def find_edges_rows(
    first: int,
    last: int,
    height: int,
    limits: EdgeLimits,
    buffers: RowBuffers,
    count: int,
    edges: Edges,
) -> int:
    """Append the edge points of some rows; return the new number of points.

    Parameters
    ----------
    first, last, height
        The first row, the one after the last, and the number of the plane's rows.
    limits
        Requirements of an edge point.
    buffers
        Smoothed rows and magnitudes, read; the others are written.
    count
        Number of points so far.
    edges
        Written.
    """
    pixel, value, starts = edges
    smoothed, mag = buffers.smoothed, buffers.mag
    columns, ends = buffers.columns, buffers.ends
    bits = mag.view(np.int32)
    relative, noise, flank = limits.relative, limits.noise, limits.flank
    room = pixel.shape[0]
    blocks = starts.shape[1] - 1
    width = smoothed.shape[1]
    one, half = np.float32(1.0), np.float32(0.5)
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
        list_steep(bits[y & RING], limits.threshold, columns, ends)
        for block in range(blocks):
            starts[y, block] = min(count, room)
            for i in range(ends[block - 1] if block > 0 else 0, ends[block]):
                # Unsigned indices: for signed ones numba tests wrap-around.
                column = columns[np.uint64(i)]
                x = np.uint64(column)
                left = x - np.uint64(1)
                right = x + np.uint64(1)
                here = line[x]
                gy = (below_row[x] - above_row[x]) * half
                gx = (here_row[right] - here_row[left]) * half
                # Neighbours one pixel up and down the gradient along its larger component,
                # interpolated between two pixels of the next row or column.
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
def drop_masked(bad: Bytes, reach: int, edges: Edges) -> int:
    """Drop the points within reach of masked pixels; return the number of points left.

    Parameters
    ----------
    bad
        (y, x): 2 for pixels that are unrelated to the image, see `gradient.fill_bad`.
    reach
        Radius of influence of a pixel on a point, pixels.
    edges
        Written.
    """
    pixel, value, starts = edges
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
    limits: EdgeLimits,
    buffers: RowBuffers,
    edges: Edges,
) -> int:
    """List the points of maximal gradient along the gradient's direction, in raster order.

    Parameters
    ----------
    image
        Plane (y, x), 3 x 3 or more.
    is_finite
        Whether all values are finite, as integers are: then all buffers are rings of rows.
    scale
        Factor of the values, a power of 2.
    taps
        Half the smoothing kernel, see `gradient.smooth_rows`.
    limits, buffers
        Requirements of an edge point, and buffers.
    edges
        Written.

    Returns
    -------
    The number of points; if it exceeds the room in ``edges``, the rest was dropped.
    """
    height = image.shape[0]
    radius = taps.size - 1
    mask = RING if is_finite else WHOLE
    plane, bad, smoothed = buffers.plane, buffers.bad, buffers.smoothed
    converted = 0
    deep = 0
    if not is_finite and convert(image, scale, plane, bad) > 0:
        deep = fill_bad(plane, bad, FILL_PX)
    count = 0
    # Magnitudes need one more row of the smoothed plane, edge points a flank more of magnitudes.
    for first in range(0, height + 1 + limits.flank, BATCH_ROWS):
        last = first + BATCH_ROWS
        if is_finite:
            needed = min(height, last + radius)
            convert_rows(image, scale, converted, needed, plane)
            converted = max(converted, needed)
        smooth_rows(plane, mask, taps, first, min(height, last), height, buffers.row, smoothed)
        magnitude_rows(smoothed, max(0, first - 1), min(height, last - 1), height, buffers.mag)
        count = find_edges_rows(
            max(0, first - 1 - limits.flank),
            min(height, last - 1 - limits.flank),
            height,
            limits,
            buffers,
            count,
            edges,
        )
    if deep > 0 and count <= edges.pixel.shape[0]:
        count = drop_masked(bad, taps.size + 1, edges)
    return count
