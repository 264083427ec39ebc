"""Pictures for quality control, as pure functions: pixels and outlines in, JPEG bytes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from imagecodecs import jpeg8_encode
from numpy.typing import NDArray
from PIL import Image as Pictures

from engine.kernels.outline_drawing import draw_line, grey_to_rgb, look_up
from engine.kernels.planes import as_plane
from engine.operations.outlines import Outline, circle_points
from engine.store.labels.images import LabelClass

DRAWING = 1
"""Version of the drawing; a new version renders all pictures again."""

OVERLAY_PX = 1024
"""Maximum of the longer side of an overlay, pixels: larger images are shown smaller."""

THUMB_PX = 320
"""Maximum of the longer side of a thumbnail, pixels."""

WINDOW_PERCENT = (0.1, 99.9)
"""Percentiles of the grey values that become black and white."""

SAMPLE_PX = 16_384
"""Number of evenly spaced pixels to compute percentiles from: 0.1 % are then 16 of them."""

QUALITY = 82
"""JPEG quality. Measured on 1024 x 1024 discs with noise: 2.2 ms and 115 KB; WebP took 13 ms and
PNG 50 ms and 900 KB. imagecodecs takes our array as it is, which saves Pillow's copy of it."""

PALETTE = (
    (240, 165, 0),
    (86, 180, 233),
    (204, 121, 167),
    (240, 228, 66),
    (0, 158, 115),
    (213, 94, 0),
)
"""Colours for kinds of outlines, distinguishable by colour-blind readers (Okabe and Ito 2008; the
first one slightly brighter)."""

MOST_OUTLINES = 20_000
"""Maximum outlines on one picture; more are indistinguishable."""

MARK_PX = 4.0
"""Radius of the ring that marks a point, pixels of the picture."""

TILE_PX = 96
"""Side of a crop in a montage, pixels."""

TILE_MARGIN = 0.25
"""Margin of a crop around its object, a share of the object's longer side."""

POINT_CROP_PX = 64.0
"""Side of the crop around a point object, pixels of the image."""

LEAST_CROP_PX = 8.0
"""Minimum side of a crop, pixels of the picture."""

MONTAGE_COLUMNS = 12

VEIL, BORDER = 0.3, 0.9
"""Opacity of a class's colour inside it and along its border, so that tissue stays visible."""


@dataclass(frozen=True)
class Shown:
    """An image prepared for display: 8 bits, possibly downsampled.

    Attributes
    ----------
    pixels
        (y, x) grey or (y, x, 3) RGB, uint8.
    scale
        Pixels of the image per pixel of the picture.
    low, high
        Grey values shown as black and white; None for 8-bit RGB, which is shown unchanged.
    """

    pixels: NDArray[np.uint8]
    scale: float = 1.0
    low: float | None = None
    high: float | None = None

    def place(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert points of the image, (n, 2), to pixels of the picture.

        The centre of the first pixel is (0, 0) in both.
        """
        return (points + 0.5) / self.scale - 0.5


def grey_window(values: NDArray[Any]) -> tuple[float, float]:
    """Return the grey values at `WINDOW_PERCENT`; for a blank image, a window that shows it black.

    Examples
    --------
    >>> low, high = grey_window(np.arange(1001.0)[None])
    >>> round(low), round(high)
    (1, 999)
    """
    step = max(1, int(np.ceil(np.sqrt(values.size / SAMPLE_PX))))
    sample = values[..., ::step, ::step].ravel()
    if sample.dtype.kind == "f":
        sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(sample, WINDOW_PERCENT))
    # One grey level is less than the distance between neighbouring floats of 2**53 and more.
    return (low, high) if high > low else (low, low + max(1.0, 1e-6 * abs(low)))


def to_bytes(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Scale grey values to 8 bits, low to 0 and high to 255; non-finite values become black."""
    gain = 255.0 / (high - low)
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:  # a lookup table is faster
        grey = np.arange(2 ** (8 * values.dtype.itemsize), dtype=np.float64)
        table = np.clip((grey - low) * gain + 0.5, 0, 255).astype(np.uint8)
        planes = values if values.ndim == 3 else values[None]
        found = [look_up(as_plane(plane), table) for plane in planes]
        return np.stack(found) if values.ndim == 3 else found[0]
    scaled = (values.astype(np.float64) - low) * gain + 0.5
    scaled[~np.isfinite(scaled)] = 0.0
    return np.clip(scaled, 0, 255).astype(np.uint8)


def show(pixels: NDArray[Any], channel: int | None = None, scale: float = 1.0) -> Shown:
    """Convert pixels for display, no larger than `OVERLAY_PX`.

    Parameters
    ----------
    pixels
        (c, y, x): 3 or 4 channels are RGB (and alpha, ignored); otherwise one channel is shown.
    channel
        Channel to show; by default the first.
    scale
        Pixels of the image per pixel of the picture: 2**level of a pyramid.
    """
    if pixels.dtype == np.bool_:
        pixels = pixels.view(np.uint8)
    if channel is None and pixels.shape[0] in (3, 4):
        colours = pixels[:3]
        if pixels.dtype == np.uint8:
            low = high = None
            plain = colours
        else:
            low, high = grey_window(colours)
            plain = to_bytes(colours, low, high)
        flat = np.ascontiguousarray(np.moveaxis(plain, 0, 2), np.uint8)
    else:
        plane = pixels[min(channel or 0, pixels.shape[0] - 1)]
        low, high = grey_window(plane)
        flat = to_bytes(plane, low, high)
    return shrink(Shown(flat, scale, low, high), OVERLAY_PX)


def shrink(shown: Shown, side_px: int) -> Shown:
    """Downsample a picture to a maximum side length by means of whole blocks."""
    factor = -(-max(shown.pixels.shape[:2]) // side_px)
    if factor <= 1:
        return shown
    small = np.asarray(Pictures.fromarray(shown.pixels).reduce(factor))
    return Shown(small, shown.scale * factor, shown.low, shown.high)


def paint(
    shown: Shown, outlines: Sequence[Outline], *, thin: bool = False, kinds: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """Return a copy in RGB (y, x, 3) with outlines drawn over it, each kind in its colour."""
    flat = shown.pixels
    canvas = grey_to_rgb(np.ascontiguousarray(flat)) if flat.ndim == 2 else flat.copy()
    kinds = list(kinds) or labels_of(outlines)
    scratch = np.empty(canvas.shape[:2], np.float32)
    width, casing = (1.0, 2.4) if thin else (1.8, 4.0)
    for outline in outlines[:MOST_OUTLINES]:
        points = shown.place(np.asarray(outline.points, np.float64))
        if len(points) == 1:
            points = circle_points(float(points[0, 0]), float(points[0, 1]), MARK_PX)
        colour = PALETTE[kinds.index(outline.label) % len(PALETTE)]
        draw_line(canvas, points, colour, width_px=width, casing_px=casing, scratch=scratch)
    return canvas


def tint(
    shown: Shown, labels: NDArray[np.uint8], classes: Sequence[LabelClass]
) -> tuple[Shown, list[str]]:
    """Overlay the classes of pixels on a picture: translucent colours, and borders.

    Parameters
    ----------
    labels
        (y, x) of the image, or of the level that is shown; 0 is transparent.
    classes
        Meaning of the label values.

    Returns
    -------
    The picture, and the names of its classes.
    """
    height, width = shown.pixels.shape[:2]
    step = max(1, -(-labels.shape[0] // height), -(-labels.shape[1] // width))
    small = labels[step // 2 :: step, step // 2 :: step][:height, :width]
    # Pad with the last row and column if the picture is larger than whole steps.
    lacking = (height - small.shape[0], width - small.shape[1])
    small = np.pad(small, ((0, lacking[0]), (0, lacking[1])), mode="edge")
    table = np.zeros((256, 3), np.float32)
    for each in classes:
        table[each.value] = each.rgba[:3]
    canvas = shown.pixels if shown.pixels.ndim == 3 else grey_to_rgb(shown.pixels)
    border = np.zeros(small.shape, bool)
    border[1:] |= small[1:] != small[:-1]
    border[:, 1:] |= small[:, 1:] != small[:, :-1]
    share = np.where(border, BORDER, VEIL).astype(np.float32) * (small > 0)
    mixed = canvas + share[..., None] * (table[small] - canvas)
    there = set(np.unique(small).tolist()) - {0}
    names = [each.name for each in classes if each.value in there]
    return replace(shown, pixels=(mixed + 0.5).astype(np.uint8)), names


def labels_of(outlines: Sequence[Outline]) -> list[str]:
    """Return the kinds of outlines in order of first appearance."""
    return list(dict.fromkeys(outline.label for outline in outlines))


def encode(canvas: NDArray[np.uint8], quality: int = QUALITY) -> bytes:
    """Return RGB pixels as JPEG, colour at half the resolution of brightness."""
    return bytes(jpeg8_encode(canvas, level=quality, subsampling="420"))


def crop(
    shown: Shown, around: Outline, outlines: Sequence[Outline], kinds: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """Return a tile (`TILE_PX`, `TILE_PX`, 3) that shows one object with a margin.

    Parameters
    ----------
    around
        Outline of the object.
    outlines
        Outlines to draw.
    kinds
        Labels in the order of their colours; by default their order in ``outlines``.
    """
    points = shown.place(np.asarray(around.points, np.float64))
    low, high = points.min(axis=0), points.max(axis=0)
    side = max(float((high - low).max()) * (1 + 2 * TILE_MARGIN), LEAST_CROP_PX)
    if len(points) == 1:
        side = max(POINT_CROP_PX / shown.scale, LEAST_CROP_PX)
    corner = (low + high) / 2 - side / 2 + 0.5  # of the tile, relative to a pixel's edge
    box = (corner[1], corner[0], corner[1] + side, corner[0] + side)
    picture = Pictures.fromarray(shown.pixels).transform(
        (TILE_PX, TILE_PX),
        Pictures.Transform.EXTENT,  # areas outside of the picture are black
        box,
        resample=Pictures.Resampling.BILINEAR,
    )
    zoom = TILE_PX / side
    moved = [
        Outline((shown.place(outline.points) + 0.5 - corner) * zoom - 0.5, outline.label)
        for outline in outlines
    ]
    return paint(Shown(np.asarray(picture)), moved, thin=True, kinds=kinds)


def montage(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Arrange tiles in rows of `MONTAGE_COLUMNS`, with dark lines between them."""
    step = TILE_PX + 2
    columns = min(MONTAGE_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * step - 2, columns * step - 2, 3), 24, np.uint8)
    for n, tile in enumerate(tiles):
        y, x = (side * step for side in divmod(n, columns))
        sheet[y : y + TILE_PX, x : x + TILE_PX] = tile
    return sheet
