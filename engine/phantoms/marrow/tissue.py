"""Anatomy of a synthetic marrow slide: the strip of tissue, trabeculae, vacuoles and holes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.kernels.segmentation.tissue import Tissue
from engine.phantoms.marrow.options import MarrowOptions, SlideTraits
from engine.phantoms.marrow.random_fields import Fields

RIM_PX = 1.5
"""Width of the membrane of a vacuole, pixels; it is tissue."""


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """Anatomy of some rows of a slide. All arrays (rows, width).

    ``labels`` is uint8, values of `Tissue`. ``inside`` is the depth below the tissue's edge,
    ``bone`` that below a trabecula's surface, ``fat`` that below a vacuole's, float32, pixels,
    negative outside.
    """

    labels: NDArray[np.uint8]
    inside: NDArray[np.float32]
    bone: NDArray[np.float32]
    fat: NDArray[np.float32]


TEARS = 12
TEAR_CELL_PX = 75.0
"""Cell of the field that places tears and sets their width, pixels at scale 1."""

MARGIN_PX = 3
"""Additional rows on each side for computing slopes."""


def lay_out(options: MarrowOptions, traits: SlideTraits, fields: Fields, rows: range) -> Anatomy:
    """Return the anatomy of some rows of a slide, independently of the other rows requested.

    A core of tissue lies along the plane's longer side, torn at its edge and broken at some
    positions. Trabeculae follow the zeros of a smooth field, so they branch and close as bone does;
    vacuoles lie between them, packed in fatty marrow.
    """
    wide = range(rows.start - MARGIN_PX, rows.stop + MARGIN_PX)
    inside = _strip(options, fields, wide)
    bone = _trabeculae(options, traits, fields, wide, inside)
    fat = _vacuoles(options, traits, fields, wide, inside, bone)
    holes = _holes(options, traits, fields, wide, bone, inside)
    labels = np.full(inside.shape, Tissue.OTHER, np.uint8)
    labels[fat > 0] = Tissue.FAT
    labels[bone > 0] = Tissue.BONE
    labels[(inside <= 0) | ((holes > 0) & (bone <= 0) & (fat <= -RIM_PX))] = Tissue.BACKGROUND
    core = slice(MARGIN_PX, -MARGIN_PX)
    return Anatomy(labels[core], inside[core], bone[core], fat[core])


def _strip(options: MarrowOptions, fields: Fields, rows: range) -> NDArray[np.float32]:
    """Return the depth below the edge of a torn core along the longer side."""
    height, width = options.size
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    along, across, length, breadth = (
        (y, x, height, width) if height >= width else (x, y, width, height)
    )
    # Slow fields bend and thin the core; they are sampled on the plane itself, where the middle
    # line varies little across.
    bend = fields.noise(1, rows, 0.8 * breadth) * 0.045 * breadth
    thin = fields.noise(2, rows, 0.6 * breadth) * 0.05 * breadth
    torn = fields.rough(3, rows, 60 * options.scale, 5) * 7 * options.scale
    side = 0.33 * breadth + thin - np.abs(across - 0.5 * breadth - bend)
    end = 0.47 * length - np.abs(along - 0.5 * length) + 2 * bend
    # The core breaks across: where a field that is slow along it and slower across is low.
    fracture = (fields.noise(4, rows, 0.9 * breadth) + 1.9) * 0.16 * breadth
    return np.minimum(np.minimum(side, end), fracture) + torn


def _trabeculae(
    options: MarrowOptions,
    traits: SlideTraits,
    fields: Fields,
    rows: range,
    inside: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the depth below the surface of bone: about the zeros of a field, some left out."""
    field = fields.rough(5, rows, traits.bone_cell, 2)
    slope_y, slope_x = np.gradient(field)
    slope = np.hypot(slope_y, slope_x) + np.float32(0.35 / traits.bone_cell)
    distance = np.abs(field) / slope
    # Ends taper where the slow field falls below the reach.
    reach = traits.bone_reach - fields.noise(6, rows, 1.6 * traits.bone_cell)
    taper = np.clip(reach * 1.6, -1.0, 1.0)
    knobbly = 1 + 0.22 * fields.noise(7, rows, 0.35 * traits.bone_cell)
    rough = 1.2 * options.scale * fields.rough(8, rows, 9 * options.scale, 2)
    depth = traits.bone_width * knobbly * taper - distance + rough
    return np.minimum(depth, inside).astype(np.float32)


def _holes(
    options: MarrowOptions,
    traits: SlideTraits,
    fields: Fields,
    rows: range,
    bone: NDArray[np.float32],
    inside: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the depth into holes: tears, and gaps where marrow shrank away from bone."""
    slow = fields.noise(TEARS, rows, TEAR_CELL_PX * options.scale)
    ragged = fields.rough(9, rows, 0.4 * TEAR_CELL_PX * options.scale, 3)
    tears = slow + 0.18 * ragged - traits.hole_level
    # A field sets the width of the gap, which is absent along long parts of the bone.
    shrunk = 2.4 * options.scale * (fields.noise(10, rows, 70 * options.scale) - 0.9)
    gap = shrunk + bone
    return np.maximum(tears * 30 * options.scale, gap).astype(np.float32)


def _vacuoles(
    options: MarrowOptions,
    traits: SlideTraits,
    fields: Fields,
    rows: range,
    inside: NDArray[np.float32],
    bone: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the depth below the nearest vacuole's membrane; none overlap, some touch."""
    pitch = 2.05 * traits.fat_radius
    largest = 0.75 * pitch
    reach = int(2 * pitch)
    around = range(rows.start - reach, rows.stop + reach)
    centres, numbers = fields.places(1, around, pitch, 5)
    fatty = _sampled(fields, 11, centres, 130 * options.scale, rows, reach)
    wanted = numbers[:, 0] < traits.fat_share + 0.28 * fatty
    # Tears remove their vacuoles; those at the brim are whole.
    torn = _sampled(fields, TEARS, centres, TEAR_CELL_PX * options.scale, rows, reach)
    wanted &= torn < traits.hole_level - 0.25
    centres, numbers = centres[wanted], numbers[wanted]
    radii = _radii(traits, centres, numbers, largest)
    depth = np.full(inside.shape, -largest, np.float32)
    for (y, x), radius, (_, _, stretch, turn, dent) in zip(centres, radii, numbers, strict=True):
        _add_vacuole(depth, rows, (y, x), radius, stretch, turn, dent)
    # A vacuole is whole or cut by bone (it yields, and keeps its membrane); at the torn edge of
    # the tissue it is open.
    return np.minimum(np.minimum(depth, -bone - RIM_PX), inside - RIM_PX).astype(np.float32)


def _sampled(
    fields: Fields, stream: int, centres: NDArray[np.float64], cell: float, rows: range, reach: int
) -> NDArray[np.float32]:
    """Return a slow field at some positions, clamped to the plane's edge."""
    around = range(rows.start - 2 * reach, rows.stop + 2 * reach)
    field = fields.noise(stream, around, cell)
    y = np.clip(np.rint(centres[:, 0]).astype(int) - around.start, 0, len(around) - 1)
    x = np.clip(np.rint(centres[:, 1]).astype(int), 0, field.shape[1] - 1)
    return field[y, x]


def _radii(
    traits: SlideTraits,
    centres: NDArray[np.float64],
    numbers: NDArray[np.float64],
    largest: float,
) -> NDArray[np.float64]:
    """Return radii, log-normal except where neighbours limit them."""
    from scipy.spatial import cKDTree

    if len(centres) < 2:
        return np.full(len(centres), traits.fat_radius)
    # Two uniform numbers make a normal one (G. Box, M. Muller, 1958).
    normal = np.sqrt(-2 * np.log(1 - numbers[:, 1])) * np.cos(2 * np.pi * numbers[:, 4])
    drawn = traits.fat_radius * np.exp(traits.fat_spread * np.clip(normal, -2.2, 2.2))
    nearest = cKDTree(centres).query(centres, k=2)[0][:, 1]
    room = 0.5 * nearest * (0.93 + 0.05 * numbers[:, 2]) - 0.3
    return np.minimum(np.minimum(drawn, room), largest)


def _add_vacuole(
    depth: NDArray[np.float32],
    rows: range,
    centre: tuple[float, float],
    radius: float,
    stretch: float,
    turn: float,
    dent: float,
) -> None:
    """Raise the depth within one vacuole: a circle, slightly elongated and dented."""
    y, x = centre
    reach = 1.2 * radius + 2
    top, bottom = int(max(rows.start, y - reach)), int(min(rows.stop, y + reach + 1))
    left, right = int(max(0, x - reach)), int(min(depth.shape[1], x + reach + 1))
    if top >= bottom or left >= right or radius < 2:
        return
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
    dx = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(x)
    angle = np.arctan2(dy, dx)
    edge = radius * (
        1
        - 0.03
        + 0.07 * stretch * np.cos(2 * (angle - np.pi * turn))
        + 0.03 * np.cos(3 * angle + 6.3 * dent)
    )
    here = depth[top - rows.start : bottom - rows.start, left:right]
    np.maximum(here, edge - np.hypot(dy, dx), out=here)
