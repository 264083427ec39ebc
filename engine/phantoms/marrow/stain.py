"""Appearance of a synthetic marrow slide: light-absorbing stains, and the camera."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from engine.kernels.segmentation.tissue import Tissue
from engine.phantoms.marrow.options import MarrowOptions, SlideTraits
from engine.phantoms.marrow.random_fields import Fields
from engine.phantoms.marrow.tissue import Anatomy

HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
"""Absorbance of the stains in red, green and blue, as unit vectors: A. C. Ruifrok, D. A. Johnston,
Quantification of histochemical staining by color deconvolution, Anal. Quant. Cytol. Histol. 23
(2001)."""

PINK = (0.12, 0.93, 0.36)
"""Eosin as photographed: it also absorbs a little red and blue, which makes bone salmon pink."""


def blur_reach(traits: SlideTraits) -> int:
    """Return the number of context rows on each side that affect the colours of a row."""
    return math.ceil(4 * traits.blur) + 5


def look(
    options: MarrowOptions, traits: SlideTraits, fields: Fields, rows: range, anatomy: Anatomy
) -> NDArray[np.uint8]:
    """Return the colours (3, rows, width) of some rows.

    The outer ``blur_reach`` rows on each side are correct only with more context beyond them.
    """
    from scipy.ndimage import gaussian_filter

    blue, pink = _stains(options, traits, fields, rows, anatomy)
    vectors = [_turned(HAEMATOXYLIN, traits.hue), _turned(PINK, -0.6 * traits.hue)]
    absorbed = np.stack([blue * vectors[0][c] + pink * vectors[1][c] for c in range(3)])
    absorbed += _debris(options, traits, fields, rows)[None] * np.reshape(
        (0.8, 0.9, 1.0), (3, 1, 1)
    )
    light = np.power(np.float32(10.0), -absorbed.astype(np.float32))
    for plane in light:
        gaussian_filter(plane, traits.blur, output=plane, mode="nearest", truncate=4.0)
    tint = np.reshape(np.asarray(traits.ground_tint, np.float32), (3, 1, 1))
    grey = light * tint * _light(options, traits, rows) * np.float32(traits.ground)
    grain = fields.grain(1, rows, 3) * np.float32(traits.noise / 255)
    return np.clip(np.rint((grey + grain) * 255), 0, 255).astype(np.uint8)


def _stains(
    options: MarrowOptions, traits: SlideTraits, fields: Fields, rows: range, anatomy: Anatomy
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the amounts of haematoxylin and eosin in each pixel."""
    labels, bone = anatomy.labels, anatomy.bone
    fine = fields.rough(21, rows, 5 * options.scale, 3)
    slow = fields.rough(22, rows, 90 * options.scale, 3)
    nuclei = _nuclei(options, traits, fields, rows, slow)
    # Cellular marrow: cytoplasm, nuclei on top, and lakes of red cells that are as pink as bone.
    red_cells = np.clip(3 * (fields.rough(23, rows, 45 * options.scale, 3) - 1.75), 0, 1)
    blue = 0.24 + 0.05 * fine + 0.05 * slow + nuclei * (1 - 0.75 * red_cells)
    pink = 0.27 + 0.06 * fine + 0.04 * slow + 0.26 * red_cells
    # Bone: lamellae along its surface, and a bluish seam where it is being formed.
    is_bone = labels == Tissue.BONE
    lamella = np.sin(bone * (0.75 / options.scale) + 1.5 * slow)
    seam = np.exp(-np.square(bone / (2.2 * options.scale))) * np.clip(slow, 0, 1)
    texture = fields.rough(24, rows, 26 * options.scale, 4)
    lacunae = _lacunae(options, fields, rows)
    bone_blue = 0.05 + 0.02 * texture + 0.10 * seam + 0.55 * lacunae
    bone_pink = 0.40 + 0.03 * lamella + 0.055 * texture + 0.015 * fine
    blue = np.where(is_bone, bone_blue, blue)
    pink = np.where(is_bone, bone_pink, pink)
    # Vacuoles are empty, with a trace of their former content; the background holds washed-off
    # debris.
    trace = 0.006 + 0.006 * np.clip(fields.noise(25, rows, 12 * options.scale), -1, 2)
    washed = 0.035 * np.exp(-np.abs(anatomy.inside) / (18 * options.scale))
    washed *= np.clip(0.2 + fields.rough(26, rows, 40 * options.scale, 4), 0, 2)
    empty = (labels == Tissue.FAT) | (labels == Tissue.BACKGROUND)
    outside = labels == Tissue.BACKGROUND
    blue = np.where(empty, 0.5 * trace + np.where(outside, 0.3 * washed, 0), blue)
    pink = np.where(empty, trace + np.where(outside, washed, 0), pink)
    # Membranes are thin and pale: less of everything than the marrow between.
    rim = (labels == Tissue.OTHER) & (anatomy.fat > -2.2)
    blue = np.where(rim, 0.55 * blue, blue)
    pink = np.where(rim, 0.9 * pink, pink)
    return (
        np.maximum(blue, 0).astype(np.float32) * np.float32(traits.haematoxylin),
        np.maximum(pink, 0).astype(np.float32) * np.float32(traits.eosin),
    )


def _nuclei(
    options: MarrowOptions,
    traits: SlideTraits,
    fields: Fields,
    rows: range,
    slow: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the absorbance of nuclei: dots of two sizes, dense in cellular marrow."""
    from scipy.ndimage import gaussian_filter

    total = np.zeros(slow.shape, np.float32)
    for stream, pitch, sd, strength in ((2, 6.0, 1.15, 0.72), (3, 19.0, 2.3, 0.6)):
        size = options.scale
        centres, numbers = fields.places(stream, rows, pitch * size, 2)
        kept = numbers[:, 0] < traits.cellularity
        centres, numbers = centres[kept], numbers[kept]
        y = np.rint(centres[:, 0]).astype(int) - rows.start
        x = np.rint(centres[:, 1]).astype(int)
        seen = (y >= 0) & (y < slow.shape[0]) & (x >= 0) & (x < slow.shape[1])
        dots = np.zeros(slow.shape, np.float32)
        peak = 2 * np.pi * (sd * size) ** 2  # gives a dot's middle the required height
        heights = (peak * (0.6 + 0.9 * numbers[seen, 1])).astype(np.float32)
        np.add.at(dots, (y[seen], x[seen]), heights)
        soft = gaussian_filter(dots, sd * size, mode="constant", truncate=3.0)
        # Dots are flat inside and steep at their edge.
        total += np.float32(strength) * (1 / (1 + np.exp(-9 * (soft - 0.52))))
    return (total * np.clip(1 + 0.25 * slow, 0.2, 1.6)).astype(np.float32)


def _lacunae(options: MarrowOptions, fields: Fields, rows: range) -> NDArray[np.float32]:
    """Return the absorbance of bone cells: small dark specks, far apart."""
    from scipy.ndimage import gaussian_filter

    centres, numbers = fields.places(4, rows, 24 * options.scale, 1)
    centres = centres[numbers[:, 0] < 0.6]
    dots = np.zeros((len(rows), options.size[1]), np.float32)
    y = np.rint(centres[:, 0]).astype(int) - rows.start
    x = np.rint(centres[:, 1]).astype(int)
    seen = (y >= 0) & (y < dots.shape[0]) & (x >= 0) & (x < dots.shape[1])
    sd = 1.3 * options.scale
    np.add.at(dots, (y[seen], x[seen]), np.float32(2 * np.pi * sd**2))
    return np.clip(gaussian_filter(dots, sd, mode="constant", truncate=3.0), 0, 1)


def _debris(
    options: MarrowOptions, traits: SlideTraits, fields: Fields, rows: range
) -> NDArray[np.float32]:
    """Return the absorbance of dust on the glass: specks anywhere, on tissue or background."""
    pitch = 170.0
    total = np.zeros((len(rows), options.size[1]), np.float32)
    reach = 14
    around = range(rows.start - reach, rows.stop + reach)
    centres, numbers = fields.places(5, around, pitch, 4)
    for (y, x), (there, size, turn, dark) in zip(centres, numbers, strict=True):
        if there >= traits.debris:
            continue
        radius = 1.0 + 4.5 * size**3
        top, bottom = int(max(rows.start, y - reach)), int(min(rows.stop, y + reach))
        left, right = int(max(0, x - reach)), int(min(total.shape[1], x + reach))
        if top >= bottom or left >= right:
            continue
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
        dx = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(x)
        cos, sin = np.cos(np.pi * turn), np.sin(np.pi * turn)
        u, v = cos * dx + sin * dy, cos * dy - sin * dx
        part = np.clip(radius - np.hypot(u, v * (1 + 1.5 * dark)), 0, 1) * (0.2 + 0.6 * dark)
        total[top - rows.start : bottom - rows.start, left:right] += part
    return total


def _light(options: MarrowOptions, traits: SlideTraits, rows: range) -> NDArray[np.float32]:
    """Return the lamp's light, which falls off towards the corners of each field of view."""
    height, width = options.size
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) / height - 0.5)[:, None]
    x = (np.arange(width, dtype=np.float32) / width - 0.5)[None, :]
    return np.asarray(1 - traits.uneven * 2 * (y * y + x * x), np.float32)


def _turned(vector: tuple[float, float, float], angle: float) -> tuple[float, float, float]:
    """Return a stain's colour, rotated between red and blue around green."""
    red, green, blue = vector
    cos, sin = math.cos(angle), math.sin(angle)
    return max(0.0, cos * red - sin * blue), green, max(0.0, sin * red + cos * blue)
