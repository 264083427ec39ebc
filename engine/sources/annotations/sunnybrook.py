"""Contours of the Sunnybrook Cardiac Data: text files, one ``x y`` per line.

P. Radau et al., "Evaluation Framework for Algorithms Segmenting Short Axis Cardiac MRI", The MIDAS
Journal (2009), hdl 10380/3070. ``IM-0001-<instance>-{i,o}contour-manual.txt`` is the inner or outer
contour of a slice; ``link.csv`` maps each folder of contours to its patient.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.errors import NoSource, ParameterError, SourceUnreadable
from engine.sources.annotations.base import Drawing, Target, checked_ring, number_option

NAME = re.compile(r"IM-(\d{4})-(\d{4})-([a-z])(\d*)contour-(?:manual|auto)\.txt", re.IGNORECASE)

STRUCTURES = {"i": "inner", "o": "outer", "p": "papillary"}
"""Endocardium, epicardium, papillary muscles (``p1``, ``p2``)."""

LINK_COLUMNS = ("patient_id", "original_id")


@dataclass(frozen=True)
class SunnybrookReader:
    """Reader of text contours.

    Parameters
    ----------
    patients
        Patients of the folders of contours: original_id to patient_id. Empty if both have the same
        name.
    origin
        Coordinate of the first pixel's centre, 0 or 1; see `fill_contour`.
    """

    patients: Mapping[str, str] = field(default_factory=dict)
    origin: float = 0.0

    @property
    def context(self) -> str:
        """Options and list, as text."""
        return repr((self.origin, sorted(self.patients.items())))

    def claims(self, path: str) -> bool:
        """Return True for files named like contours."""
        return NAME.fullmatch(path.rsplit("/", 1)[-1]) is not None

    def read(self, path: str, data: bytes) -> list[Drawing]:
        """Read a contour.

        Raises
        ------
        SourceUnreadable
        """
        *folders, name = path.split("/")
        match = NAME.fullmatch(name)
        if match is None:
            raise SourceUnreadable("no_reference", "the name is not that of a contour")
        patients = [self.patients[f] for f in reversed(folders) if f in self.patients]
        if self.patients and not patients:
            raise SourceUnreadable("no_link", "no folder of the path is in the list")
        # Without a list, a folder above the contour has the name of one above the image.
        owners = patients[:1] or [*reversed(folders[:-1]), *folders[-1:]] or [""]
        series, number = match[1], match[2]
        files = (f"{int(number)}.dcm", f"IM-{series}-{number}.dcm", f"{number}.dcm")
        target = Target(tuple(f"{owner}/{file}".lstrip("/") for owner in owners for file in files))
        letter = match[3].lower()
        structure = STRUCTURES.get(letter, letter) + match[4]
        ring = checked_ring(read_points(data) - self.origin)
        return [Drawing(target, structure, (ring,))]


def read_points(data: bytes) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    r"""Return the points (n, 2) y, x from a text of ``x y`` lines.

    Raises
    ------
    SourceUnreadable
        ``empty``, ``not_numbers`` or ``odd_count``.

    Examples
    --------
    >>> read_points(b"1.5 2\n3 4\n").tolist()
    [[2.0, 1.5], [4.0, 3.0]]
    """
    words = data.split()
    if not words:
        raise SourceUnreadable("empty", "the file contains no number")
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        raise SourceUnreadable("not_numbers", "there is text where numbers should be") from None
    if len(numbers) % 2:
        raise SourceUnreadable("odd_count", f"{len(numbers)} numbers are not pairs")
    return numbers.reshape(-1, 2)[:, ::-1]


def create(folder: Path, options: Mapping[str, object]) -> SunnybrookReader:
    """Return a reader for a folder.

    Parameters
    ----------
    options
        ``origin``, a number; ``link``, the list's path, below the folder or absolute (``link.csv``
        by default, if it exists).

    Raises
    ------
    NoSource, ParameterError
    """
    unknown = set(options) - {"origin", "link"}
    if unknown:
        raise ParameterError(min(unknown), options[min(unknown)], "origin or link")
    link = folder / str(options.get("link", "link.csv"))
    if link.is_file():
        patients = read_link(link.read_bytes())
    elif "link" in options:
        raise NoSource(str(link))
    else:
        patients = {}
    return SunnybrookReader(patients, number_option(options, "origin", 0.0))


def read_link(data: bytes) -> dict[str, str]:
    """Return the patient_id of each original_id.

    Raises
    ------
    ParameterError
        If it is not a table with these two columns.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
        return {row[LINK_COLUMNS[1]].strip(): row[LINK_COLUMNS[0]].strip() for row in rows}
    except (UnicodeDecodeError, csv.Error, KeyError, AttributeError, TypeError):
        raise ParameterError(
            "link", "this file", f"a CSV with the columns {' and '.join(LINK_COLUMNS)}"
        ) from None
