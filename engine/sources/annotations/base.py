"""Interface of readers of annotations: the annotated image, structure and rings."""

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
        "no_geometry": "The image's position in the patient is unknown.",
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
"""Reasons to reject a drawing."""

SUFFIXES = (".txt", ".geojson", ".dcm")
"""Suffixes kept from a confidential file's name."""

UNSUPPORTED_SUFFIXES = (
    ".geojson.gz", ".json", ".json.gz", ".geojsonl", ".ndjson", ".qpdata", ".xml", ".ndpa", ".roi",
    ".zip", ".geojson", ".txt", ".csv", ".svg", ".dcm", ".nii", ".nii.gz", ".nrrd", ".mha", ".gz",
)  # fmt: skip
"""Suffixes of common annotation files, reported if a set of another format ignores them."""

MOST_BYTES = 256 * 1024**2
"""Maximum size of a drawing's file, bytes: 16 million points as text."""

OFF_PLANE_MM = 0.5
"""Maximum distance of points from their image plane, millimetres: writers round to a few
decimals."""


GRID_DECIMALS = 4
"""Decimals of a pixel to which points from patient coordinates are rounded."""


@dataclass(frozen=True, slots=True)
class Target:
    """Reference of a drawing to its image, as in the file.

    Attributes
    ----------
    paths
        Possible ends of the image file's path, most likely first.
    instance
        DICOM's SOP Instance UID, instead of a path.
    frame
        Number of the frame in the instance, from 1, if it has several.
    among
        UIDs of candidate instances, if the file names no single one, or one with another plane than
        the drawing's: the image is the candidate in the drawing's plane.
    place
        (t, z) of the image in its file, if that is a series.
    frame_of_reference
        UID of the image's frame of reference: without ``among``, all images in it are candidates.
    """

    paths: tuple[str, ...] = ()
    instance: str | None = None
    frame: int | None = None
    among: tuple[str, ...] = ()
    frame_of_reference: str | None = None
    place: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class PlaneGeometry:
    """Position and orientation of an image in the patient (DICOM PS3.3, C.7.6.2.1.1).

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

        Files hold millimetres with fewer digits than floats, so a point on a pixel's centre would
        come back slightly off, and the pixel could change sides. Points are therefore rounded to
        `GRID_DECIMALS`: by at most half of that.

        Raises
        ------
        SourceUnreadable
            ``off_plane`` if a point is farther than `OFF_PLANE_MM` from the image.

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
        # Written with six decimals, the axes are not quite orthogonal, nor of unit length.
        points = (away @ np.linalg.pinv(axes))[:, ::-1] / self.spacing_mm
        return np.round(points, GRID_DECIMALS) + 0.0  # without negative zeros


@dataclass(frozen=True, slots=True)
class Drawing:
    """One polygon of a structure on one image; the structure is the union of all its polygons.

    Attributes
    ----------
    target
        Reference to the image.
    structure
        Name of the outlined structure, e.g. "inner".
    rings
        Arrays (n, 2) of y, x, pixels, the first pixel's centre at (0, 0); or, if ``in_patient``,
        (n, 3) of x, y, z in the patient, millimetres. Even-odd: a ring in a ring is a hole.
    grid
        Size (y, x) of the image that defines the pixels, if the file states it.
    reason
        Code of its defect; it has no rings then. The structure is rejected on this image, since a
        part would be missing.
    encloses
        True if it would enclose an area: a defective point or line is rejected alone.
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
        """All points (n, 3) in the patient, or None for pixel coordinates."""
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
            raise SourceUnreadable("no_geometry", "the image's position in the patient is unknown")
        return tuple(geometry.to_pixels(ring) for ring in self.rings)


class DrawingReader(Protocol):
    """Reader of one set of annotations."""

    @property
    def context(self) -> str:
        """Inputs of the result besides the file: options, and lists that the reader consults."""

    def claims(self, path: str) -> bool:
        """Return True if a file is of the format, by its path below the set's folder."""

    def read(self, path: str, data: bytes) -> list[Drawing]:
        """Read one file. Raises only `SourceUnreadable`."""


def checked_ring(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a valid ring, without an explicit closing point.

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
    """Return the drawings of a file, at least one of them usable.

    Raises
    ------
    SourceUnreadable
        With the reason of the first drawing, if none is usable; ``empty`` if there are none.
    """
    if not drawings:
        raise SourceUnreadable("empty", "nothing is drawn in it")
    reasons = [drawing.reason for drawing in drawings]
    if reasons[0] is not None and None not in reasons:
        raise SourceUnreadable(reasons[0], "no drawing in it can be used")
    return list(drawings)


def number_option(options: Mapping[str, object], name: str, default: float) -> float:
    """Return a numeric option.

    Raises
    ------
    ParameterError
    """
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ParameterError(name, value, "a number")
    return float(value)
