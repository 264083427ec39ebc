"""What every reader of drawn contours gives: which image, which structure, which rings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError, SourceUnreadable

DRAWING_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "empty": "The file has no bytes, or nothing in it is drawn.",
        "not_numbers": "There is text where coordinates should be.",
        "odd_count": "A coordinate lacks its partner: the count of numbers is odd.",
        "not_finite": "A coordinate is infinite, or not a number.",
        "too_few_points": "A ring has fewer than three points.",
        "unclosed": "The format asks for closed outlines, and this one is open.",
        "corrupt": "The file contradicts its format.",
        "unsupported": "The format allows this variant, but it is not read here.",
        "too_large": "The file is larger than any drawing.",
        "no_link": "The folder's list does not say whose contours these are.",
        "no_reference": "The file does not say which image it was drawn on.",
        "off_plane": "Points lie off the plane of the image that they are said to be on.",
        "no_geometry": "Where the image lies in the patient is not known.",
        "fractional": "A fractional segmentation holds shares; nothing says where outlines are.",
        "other_grid": "It is drawn on a grid of another size than its image, at an unknown place.",
        "no_scale": "Its slide was taken in at another resolution before it was kept which: "
        "cohort ingest COHORT --rehash",
        "twice": "The same structure of the same image is drawn in another file, too.",
        "unreadable": "The file can't be read: permission, or an error of the disk or network.",
        "vanished": "The file was listed, but is gone.",
        "outside_root": "A symbolic link leads out of the folder; it is not followed.",
        "link_loop": "A symbolic link leads to a folder that holds it, or to itself.",
        "not_a_file": "A pipe, socket or device.",
    }
)
"""Why a drawing is not taken."""

SUFFIXES = (".txt", ".geojson", ".dcm")
"""What is kept of a confidential file's name."""

UNTAKEN = (
    ".geojson.gz", ".json", ".json.gz", ".geojsonl", ".ndjson", ".qpdata", ".xml", ".ndpa", ".roi",
    ".zip", ".geojson", ".txt", ".csv", ".svg", ".dcm", ".nii", ".nii.gz", ".nrrd", ".mha", ".gz",
)  # fmt: skip
"""Suffixes under which drawings are kept that a set of another format does not take."""

MOST_BYTES = 256 * 1024**2
"""A larger file is no drawing: 16 million points as text."""

OFF_PLANE_MM = 0.5
"""How far points may lie off their image, millimetres: writers round to a few decimals."""


GRID_DECIMALS = 4
"""Decimals of a pixel that points from the patient are rounded to."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which image a drawing is of, in the words of its file.

    Attributes
    ----------
    paths
        Possible ends of the path of the image's file, most likely first.
    instance
        DICOM's SOP Instance UID, instead of a path.
    frame
        Number of the frame in it, from 1, where it has several.
    among
        UIDs of instances of which it may be, where the file names no single one, or one in whose
        plane the drawing does not lie: the image is the one in whose plane it does.
    place
        (t, z) of the image in its file, where that is a series.
    frame_of_reference
        UID of the space in which it lies: without any of ``among``, all images of it may be meant.
    """

    paths: tuple[str, ...] = ()
    instance: str | None = None
    frame: int | None = None
    among: tuple[str, ...] = ()
    frame_of_reference: str | None = None
    place: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class PlaneGeometry:
    """Where an image lies in the patient (DICOM PS3.3, C.7.6.2.1.1).

    Attributes
    ----------
    position_mm
        Image Position (Patient): x, y, z of the centre of the first pixel, millimetres.
    orientation
        Image Orientation (Patient): direction cosines of a row, then of a column.
    spacing_mm
        Pixel Spacing: distance of rows and of columns, millimetres.
    """

    position_mm: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    spacing_mm: tuple[float, float]

    def to_patient(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (n, 2) y, x in pixels as (n, 3) x, y, z in millimetres."""
        row, column = np.array(self.orientation).reshape(2, 3)
        y, x = (np.asarray(points, np.float64) * self.spacing_mm).T
        return np.array(self.position_mm) + np.outer(x, row) + np.outer(y, column)

    def to_pixels(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (n, 3) x, y, z in millimetres as (n, 2) y, x in pixels, rounded.

        Files hold millimetres with a few digits less than a number has, so a point that was on a
        pixel's centre would come back beside it, and the pixel could change sides. Points are
        therefore rounded to `GRID_DECIMALS`: off by half of that at most.

        Raises
        ------
        SourceUnreadable
            ``off_plane`` if one lies further than `OFF_PLANE_MM` from the image.

        Examples
        --------
        >>> plane = PlaneGeometry((10.0, 0.0, 5.0), (1, 0, 0, 0, 1, 0), (2.0, 0.5))
        >>> plane.to_pixels(plane.to_patient(np.array([[3.0, 4.0]]))).tolist()
        [[3.0, 4.0]]
        """
        row, column = axes = np.array(self.orientation).reshape(2, 3)
        away = np.asarray(points_mm, np.float64) - np.array(self.position_mm)
        if np.abs(away @ np.cross(row, column)).max(initial=0.0) > OFF_PLANE_MM:
            raise SourceUnreadable("off_plane", "points lie off the plane of their image")
        # Written with six decimals, the axes are not quite at right angles, nor of length one.
        points = (away @ np.linalg.pinv(axes))[:, ::-1] / self.spacing_mm
        return np.round(points, GRID_DECIMALS) + 0.0  # no negative zeros


@dataclass(frozen=True, slots=True)
class Drawing:
    """One polygon of a structure as drawn on one image; the structure is the union of all of its.

    Attributes
    ----------
    target
        Which image.
    structure
        What it outlines, e.g. "inner".
    rings
        Arrays (n, 2) of y, x, pixels, the first pixel's centre at (0, 0); or, where ``in_patient``,
        (n, 3) of x, y, z in the patient, millimetres. Even-odd: a ring in a ring is a hole.
    grid
        Size (y, x) of the image that pixels are counted on, where the file says so.
    reason
        Code of what is wrong with it; there are no rings then. It costs the structure on its
        image, of which a part would be missing.
    encloses
        Whether it would enclose anything: what does not (a point, a line) costs only itself.
    """

    target: Target
    structure: str
    rings: tuple[NDArray[np.float64], ...]
    in_patient: bool = False
    grid: tuple[int, int] | None = None
    reason: str | None = None
    encloses: bool = True

    @property
    def points_mm(self) -> NDArray[np.float64] | None:
        """All points (n, 3) in the patient, or None where it is drawn on pixels."""
        return np.concatenate(self.rings) if self.in_patient and self.rings else None

    def on(self, geometry: PlaneGeometry | None) -> tuple[NDArray[np.float64], ...]:
        """Return the rings in pixels of an image.

        Raises
        ------
        SourceUnreadable
            ``no_geometry`` or ``off_plane``.
        """
        if not self.in_patient:
            return self.rings
        if geometry is None:
            raise SourceUnreadable("no_geometry", "where the image lies is not known")
        return tuple(geometry.to_pixels(ring) for ring in self.rings)


class DrawingReader(Protocol):
    """Reads the files of one set of annotations."""

    @property
    def context(self) -> str:
        """What the answer depends on beside the file: options, and lists that it looks into."""

    def claims(self, path: str) -> bool:
        """Tell by its path below the set's folder whether a file is of the format."""

    def read(self, path: str, data: bytes) -> list[Drawing]:
        """Read one file. Raises nothing but `SourceUnreadable`."""


def checked_ring(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a ring if it can be one, without a written closing point.

    Raises
    ------
    SourceUnreadable
        ``not_finite`` or ``too_few_points``.
    """
    if not np.isfinite(points).all():
        raise SourceUnreadable("not_finite", "a coordinate is not a finite number")
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    if len(points) < 3:
        raise SourceUnreadable("too_few_points", f"a ring has {len(points)} points")
    return np.ascontiguousarray(points, np.float64)


def usable(drawings: Sequence[Drawing]) -> list[Drawing]:
    """Return the drawings of a file, of which at least one must be of use.

    Raises
    ------
    SourceUnreadable
        What is wrong with the first one, if all are; ``empty`` if there is none.
    """
    if not drawings:
        raise SourceUnreadable("empty", "nothing is drawn in it")
    reasons = [drawing.reason for drawing in drawings]
    if reasons[0] is not None and None not in reasons:
        raise SourceUnreadable(reasons[0], "no drawing in it can be used")
    return list(drawings)


def number_option(options: Mapping[str, object], name: str, default: float) -> float:
    """Return an option that is a number.

    Raises
    ------
    ParameterError
    """
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ParameterError(name, value, "a number")
    return float(value)
