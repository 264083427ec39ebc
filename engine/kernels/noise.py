"""Noise estimation of a plane, from second differences in small windows.

The operator is that of J. Immerkær, "Fast noise variance estimation", Computer Vision and Image
Understanding 64 (1996), on sums of 2 x 2 pixels: so noise that is correlated between neighbours
(demosaicing, JPEG, interpolation) counts with its strength at the scale of edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import Floats, Floats32, Plane, compiled
from engine.kernels.planes import as_plane

WINDOW_PX = 64
"""Side of a window, pixels. Blocks that begin at multiples of it have the windows of the whole."""

STEP_Y_PX = 12
STEP_X_PX = 12
PARTIAL_STEP_PX = 2
"""Steps between samples, in whole and in partial windows. 25 samples are enough for a whole window,
since an image has many of them; a small image may have only the partial windows at its edge."""

FOOTPRINT_PX = 6
"""A sample covers 3 x 3 sums of 2 x 2 pixels."""

LEAST_SAMPLES = 16
"""Least samples of a window; fewer give no estimate."""

SAMPLE_TO_SD = 1.0 / (0.6744897501960817 * 12.0)
"""Median absolute value of a normal variable over its standard deviation; and the sd of a sample
in white noise of standard deviation 1: 6 of the operator, times 2 of a sum of 4 pixels."""

LEAST_NOISY_SHARE = 0.1
"""If a smaller share of windows shows noise, they hold edges of an image without noise."""


@compiled
def sort_few(values: Floats) -> None:
    """Sort by insertion, in place: for 25 values three times as fast as numba's sort."""
    for i in range(1, values.size):
        value = values[i]
        # Unsigned indices: for signed ones numba tests wrap-around.
        j = i
        while j > 0 and values[np.uint64(j - 1)] > value:
            values[np.uint64(j)] = values[np.uint64(j - 1)]
            j -= 1
        values[np.uint64(j)] = value


@compiled
def measure_windows(plane: Plane, samples: Floats, out: Floats32) -> None:
    """Write each window's noise to ``out`` (rows, columns), NaN for windows with too few samples.

    ``samples`` is a buffer of float64, one for each sample of a window.
    """
    height, width = plane.shape
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            top = row * WINDOW_PX
            left = column * WINDOW_PX
            bottom = min(top + WINDOW_PX, height)
            right = min(left + WINDOW_PX, width)
            whole = bottom - top == WINDOW_PX and right - left == WINDOW_PX
            step_y = STEP_Y_PX if whole else PARTIAL_STEP_PX
            step_x = STEP_X_PX if whole else PARTIAL_STEP_PX
            count = 0
            for y in range(top, bottom - FOOTPRINT_PX + 1, step_y):
                for x in range(left, right - FOOTPRINT_PX + 1, step_x):
                    value = 0.0
                    for j in range(3):
                        for i in range(3):
                            v = y + 2 * j
                            u = x + 2 * i
                            total = (np.float64(plane[v, u]) + np.float64(plane[v, u + 1])) + (
                                np.float64(plane[v + 1, u]) + np.float64(plane[v + 1, u + 1])
                            )
                            # Second difference in both axes: 1, -2, 1.
                            value += (-2.0 if j == 1 else 1.0) * (-2.0 if i == 1 else 1.0) * total
                    value = abs(value)
                    if value < np.inf:
                        samples[count] = value
                        count += 1
            if count < LEAST_SAMPLES:
                out[row, column] = np.nan
                continue
            part = samples[:count]
            if whole:
                sort_few(part)
            else:
                part.sort()
            median = 0.5 * (part[(count - 1) // 2] + part[count // 2])
            out[row, column] = median * SAMPLE_TO_SD


@compiled
def merge_windows(windows: Floats32) -> float:
    """Return the median of the windows that show noise, 0 if hardly any does; see `merge_noise`.

    ``windows`` (n,) float32 is not modified.
    """
    noisy = np.empty(windows.size)
    count = 0
    known = 0
    for i in range(windows.size):
        if windows[i] < np.inf:
            known += 1
            if windows[i] > 0.0:
                noisy[count] = windows[i]
                count += 1
    if count == 0 or count < LEAST_NOISY_SHARE * known:
        return 0.0
    part = noisy[:count]
    part.sort()
    # The lower of the two middle values: their mean could round differently in float32 and float64.
    return part[(count - 1) // 2]


def estimate_noise_windows(plane: NDArray[Any]) -> NDArray[np.float32]:
    """Return the noise of each window of 64 x 64 pixels, counted from the plane's first pixel.

    Parameters
    ----------
    plane
        Grey values (y, x); an image, or a block of it that begins at multiples of 64 pixels and
        ends at one or at the image's end.

    Returns
    -------
    Array (ceil(height / 64), ceil(width / 64)) float32: standard deviation, grey levels; NaN for
    windows with too few usable pixels. A block's windows are those of the whole image.

    Raises
    ------
    ParameterError
        If the plane is not two-dimensional or not real.

    Examples
    --------
    >>> estimate_noise_windows(np.zeros((130, 64), np.uint8)).shape
    (3, 1)
    """
    image = as_plane(plane)
    shape = tuple(-(-size // WINDOW_PX) for size in image.shape)
    windows: NDArray[np.float32] = np.empty(shape, np.float32)
    most = ((WINDOW_PX - FOOTPRINT_PX) // PARTIAL_STEP_PX + 1) ** 2
    measure_windows(image, np.empty(most), windows)
    return windows


def merge_noise(*windows: NDArray[np.float32]) -> float:
    """Return the noise of an image from its windows, split and ordered in any way.

    It is the median of the windows that show noise: blank borders and masked regions do not
    count.

    Parameters
    ----------
    windows
        Arrays of any shapes from `estimate_noise_windows`, which together cover one image.

    Returns
    -------
    Standard deviation, grey levels; 0 if hardly any window shows noise.

    Examples
    --------
    >>> merge_noise(np.float32([3, np.nan]), np.float32([[5], [4]]))
    4.0
    """
    if not windows:
        return 0.0
    values = np.concatenate([np.ravel(part) for part in windows])
    return float(merge_windows(values.astype(np.float32, copy=False)))


def noise_sd(plane: NDArray[Any]) -> float:
    """Return the standard deviation of a plane's noise, grey levels.

    Parameters
    ----------
    plane
        Grey values (y, x): bool, integers or floats.

    Returns
    -------
    The merged noise of its windows; within about 10 % for white noise in 512 x 512 pixels.

    Raises
    ------
    ParameterError
        If the plane is not two-dimensional or not real.

    Examples
    --------
    >>> plane = np.random.default_rng(0).normal(100, 5, (512, 512))
    >>> abs(noise_sd(plane) - 5) < 0.5
    True
    """
    return float(merge_windows(estimate_noise_windows(plane).ravel()))
