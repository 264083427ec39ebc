"""Split of images into training and held-out sets, by whole subjects."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from engine.errors import NothingFound, ParameterError


def split_subjects(subjects: Iterable[str], holdout: float, seed: int) -> frozenset[str]:
    """Return the held-out subjects; all others are trained on.

    The decision about a subject depends on its own name and the seed, so the order of files has no
    effect, and an additional subject changes the decision about few others: those near the border.

    Parameters
    ----------
    subjects
        Names, in any order, with or without repetitions.
    holdout
        Share of the subjects to hold out, in (0, 1); at least one is, and at least one is not.
    seed
        Seed; another one holds out other subjects.

    Raises
    ------
    ParameterError
        If the share is not inside (0, 1).
    NothingFound
        If there are fewer than two subjects.

    Examples
    --------
    >>> split_subjects(["s2", "s1", "s1"], 0.25, 0) == split_subjects(["s1", "s2"], 0.25, 0)
    True
    """
    if not 0 < holdout < 1:
        raise ParameterError("holdout", holdout, "a share between 0 and 1")
    names = sorted(set(subjects), key=lambda name: _place(name, seed))
    if len(names) < 2:
        raise NothingFound(
            f"Images with masks come from {len(names)} subject",
            "Training holds out whole subjects, so it needs two or more; subjects come from the "
            "layout of the folders (cohort ingest --layout '{subject}/{name}').",
        )
    count = min(max(1, round(holdout * len(names))), len(names) - 1)
    return frozenset(names[:count])


def _place(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogatepass")).hexdigest()
