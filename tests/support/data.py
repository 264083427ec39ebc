"""Real data next to the repository: used if present, otherwise tests are skipped with a message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


def shared_data(name: str) -> Path:
    """Return a folder of ``COHORT_TEST_DATA``, or of ``../shared/data``; skip if it is missing."""
    base = Path(os.environ.get("COHORT_TEST_DATA", TOP.parent / "shared" / "data"))
    if not (base / name).is_dir():
        pytest.skip(f"{name} is not in {base}: set COHORT_TEST_DATA to the folder that holds it")
    return base / name
