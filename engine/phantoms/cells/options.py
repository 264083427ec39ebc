"""Parameters of a set of synthetic fields of cells, and the place of each field."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ParameterError
from engine.geometry import YX

SMALLEST_PX, LARGEST_PX = 64, 100_000


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject: when it was imaged, its group, and its share of positive cells."""

    date: str
    name: str
    group: str
    positive: float


SUBJECTS = (
    Subject("2026-03-02", "s1", "control", 0.22),
    Subject("2026-03-03", "s4", "treated", 0.43),
    Subject("2026-03-02", "s2", "control", 0.27),
    Subject("2026-03-03", "s5", "treated", 0.50),
    Subject("2026-03-02", "s3", "control", 0.25),
    Subject("2026-03-03", "s6", "treated", 0.46),
)
"""Field i is of subject i modulo 6, so a larger set contains the smaller one unchanged. The groups
differ by more than the subjects of a group do, so that a plot by group shows a difference."""

EXPERIMENT = "exp1"


@dataclass(frozen=True, slots=True)
class CellOptions:
    """Parameters of a set.

    Attributes
    ----------
    images
        Number of fields, distributed over the six subjects of `SUBJECTS` in turn.
    size
        Height and width, pixels.
    channels
        Names of the channel with nuclei and of that with the marker.
    spacing_um
        Pixel size, micrometres; cells keep their size in micrometres.
    seed
        Seed; equal options give equal bytes.

    Raises
    ------
    ParameterError
        If a value is out of its range.
    """

    images: int = 12
    size: YX = (1024, 1024)
    channels: tuple[str, str] = ("DAPI", "CD3")
    spacing_um: float = 0.325
    seed: int = 0

    def __post_init__(self) -> None:
        sides = f"{SMALLEST_PX} to {LARGEST_PX} px a side"
        named = len(self.channels) == 2 and all(
            name == name.strip() and name.isprintable() and name for name in self.channels
        )
        checks = (
            ("images", self.images, self.images >= 1, "at least 1"),
            ("size", self.size, all(SMALLEST_PX <= n <= LARGEST_PX for n in self.size), sides),
            ("channels", self.channels, named, "two names, e.g. DAPI,CD3"),
            ("channels", self.channels, len(set(self.channels)) == 2, "two different names"),
            ("spacing_um", self.spacing_um, 0.1 <= self.spacing_um <= 1, "from 0.1 to 1"),
            ("seed", self.seed, 0 <= self.seed < 2**64, "at least 0 and less than 2**64"),
        )
        for parameter, value, holds, expected in checks:
            if not holds:
                raise ParameterError(parameter, value, expected)


def subject_of(number: int) -> Subject:
    """Return the subject of a field."""
    return SUBJECTS[number % len(SUBJECTS)]


def field_path(number: int) -> str:
    """Return ``<date>/<subject>/<experiment>/<name>`` of a field, to which ``.tif`` is added.

    The name ends in ``.ome``, as in the catalog of a cohort.

    Examples
    --------
    >>> field_path(7)
    '2026-03-03/s4/exp1/field-002.ome'
    """
    subject = subject_of(number)
    name = f"field-{number // len(SUBJECTS) + 1:03d}.ome"
    return f"{subject.date}/{subject.name}/{EXPERIMENT}/{name}"
