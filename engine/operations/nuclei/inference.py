"""Depths in nuclei by a network, the same in blocks of an image as in the whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.geometry import YX, Region
from engine.kernels.segmentation.grid import interpolate
from engine.kernels.segmentation.local_contrast import REACH_PX, local_contrast
from engine.learning.models.bundle import Predictor
from engine.learning.models.card import Card

WHOLE_PX = 1024
"""Largest side of an image that the network sees at once; such an image has no blocks. Others are
cut into windows of a grid that begins at the image's first pixel, whatever its blocks are: sums of
floats depend on a window's size."""

LARGEST_WINDOW_PX = 2048
"""Largest side of an image that the network sees at once, at the network's scale."""

PREFILTER = 0.5
"""Standard deviation of the smoothing before an image is made smaller, new pixels."""


def reach_px(card: Card) -> int:
    """Return the largest distance between a pixel and one that its depth depends on."""
    return REACH_PX + card.tile_px + card.halo_px


def rescale(
    plane: NDArray[np.float32], origin: YX, shape: YX, factor: float
) -> tuple[NDArray[np.float32], YX, YX]:
    """Return a part of an image at another scale, its position, and the size of the whole there."""
    if factor == 1:
        return plane, origin, shape
    if factor < 1:
        plane = ndimage.gaussian_filter(plane, PREFILTER / factor)
    start = [int(np.ceil(first * factor - 0.5)) for first in origin]
    stop = [
        max(int(np.ceil((first + length) * factor - 0.5)), begin + 1)
        for first, length, begin in zip(origin, plane.shape, start, strict=True)
    ]
    at = [
        (np.arange(a, b, dtype=np.float64) + 0.5) / factor - 0.5
        for a, b in zip(start, stop, strict=True)
    ]
    whole = [max(int(np.ceil(length * factor - 0.5)), 1) for length in shape]
    return interpolate(plane, at, origin), (start[0], start[1]), (whole[0], whole[1])


def predict_depths(
    plane: NDArray[np.float32],
    noise_sd: float | None,
    origin: YX,
    shape: YX,
    factor: float,
    card: Card,
    predictor: Predictor,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the probability of nuclei, and the depth from 0 to 1, at each pixel of a part.

    Parameters
    ----------
    plane
        (y, x), in which nuclei are bright.
    noise_sd
        Standard deviation of the whole image's noise, grey levels.
    origin, shape
        Position of the first pixel in the whole image, and the size of the whole image.
    factor
        Scale at which the network sees the image: below 1, smaller.
    card, predictor
        The model.
    """
    scaled, start, whole = rescale(plane, origin, shape, factor)
    contrast = local_contrast(scaled, noise_sd, start)
    inside, depth = np.zeros_like(contrast), np.zeros_like(contrast)
    share = np.linspace(0, 1, len(card.classes), dtype=np.float32)
    at_once = max(shape) <= WHOLE_PX and max(whole) <= LARGEST_WINDOW_PX
    for read, core in _windows(start, scaled.shape, whole, card, at_once=at_once):
        planes = predictor(contrast[_within(read, start)][None, None])[0]
        place = (slice(None), *_within(core, read.start))
        inside[_within(core, start)] = 1 - planes[place][0]
        depth[_within(core, start)] = np.tensordot(share, planes[place], 1)
    if factor == 1:
        return inside, depth
    at = [
        (first + np.arange(length) + 0.5) * factor - 0.5
        for first, length in zip(origin, plane.shape, strict=True)
    ]
    return interpolate(inside, at, start), interpolate(depth, at, start)


def _within(region: Region, start: YX) -> tuple[slice, slice]:
    y, x = (
        slice(a - first, b - first)
        for a, b, first in zip(region.start, region.stop, start, strict=True)
    )
    return y, x


def _windows(
    start: YX, shape: YX, whole: YX, card: Card, *, at_once: bool
) -> Iterator[tuple[Region, Region]]:
    """Yield windows that cover a part of an image: the region to read, and that which counts."""
    spans: list[list[tuple[int, int, int, int]]] = []
    for first, length, total in zip(start, shape, whole, strict=True):
        side = total if at_once else card.tile_px
        last = min(first + length, total)
        spans.append(
            [
                (max(n * side - card.halo_px, first), min((n + 1) * side + card.halo_px, last),
                 max(n * side, first), min((n + 1) * side, last))
                for n in range(first // side, (last - 1) // side + 1)
            ]
        )  # fmt: skip
    for y, x in product(*spans):
        yield Region((y[0], x[0]), (y[1], x[1])), Region((y[2], x[2]), (y[3], x[3]))


def has_depths(card: Card, names: tuple[str, ...]) -> bool:
    """Return whether a model predicts depths in nuclei from one channel."""
    return tuple(each.name for each in card.classes) == names and len(card.channels) == 1
