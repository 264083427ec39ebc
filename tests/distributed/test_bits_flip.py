"""Faults 12 and 13, repeated: a flipped bit in, or the loss of, every kind of file."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from engine.errors import NoCohort
from tests.distributed.fault_report import Trial
from tests.unit.conftest import Small, made, small
from tests.unit.store.test_verify import (
    CAN_BE_MADE_AGAIN,
    CHANGED_BY_LOSS,
    KINDS,
    files_of,
    flip,
    names,
    raises_or_equals,
    truth,
    verify,
)

__all__ = ["made", "small", "truth"]  # fixtures

FLIPS = int(os.environ.get("COHORT_TEST_FLIPS", "60"))
"""Number of trials for each kind of file."""


def _unseen(small: Small, truth: dict[str, object], path: Path, what: str) -> int:
    """Return 1 if damage was not reported, or was read as valid data."""
    if not names(verify(small.path), path, small.path):
        print(f"not named: {what}")
        return 1
    try:
        raises_or_equals(small, truth, what)
    except NoCohort:  # without its identity it is none
        return 0
    except AssertionError as error:
        print(error)
        return 1
    return 0


@pytest.mark.faults
@pytest.mark.fault(12, "a bit flipped in each kind of file")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_bits_flip(
    kind: str, small: Small, truth: dict[str, object], rng: random.Random, trial: Trial
) -> None:
    for _ in range(FLIPS):
        path = rng.choice(files_of(small, kind))
        whole = path.read_bytes()
        bit = flip(path, rng)
        trial.trials += 1
        trial.silent += _unseen(small, truth, path, f"bit {bit} of {path}")
        path.write_bytes(whole)
    assert verify(small.path).ok
    assert not trial.silent


@pytest.mark.faults
@pytest.mark.fault(13, "a file of each kind deleted")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in CAN_BE_MADE_AGAIN])
def test_files_vanish(
    kind: str, small: Small, truth: dict[str, object], rng: random.Random, trial: Trial
) -> None:
    changed = CHANGED_BY_LOSS.get(kind, ())
    known = {name: value for name, value in truth.items() if name not in changed}
    files = files_of(small, kind)
    for path in rng.sample(files, min(len(files), 12)):
        whole = path.read_bytes()
        path.unlink()
        trial.trials += 1
        trial.silent += _unseen(small, known, path, str(path))
        path.write_bytes(whole)
    assert verify(small.path).ok
    assert not trial.silent
