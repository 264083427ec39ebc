"""Real data beside the repository: used where it is, skipped aloud where it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


def shared_data(name: str) -> Path:
    """Return a folder of ``COHORT_TEST_DATA``, or of ``../shared/data``; skip where it is not."""
    base = Path(os.environ.get("COHORT_TEST_DATA", TOP.parent / "shared" / "data"))
    if not (base / name).is_dir():
        pytest.skip(f"{name} is not in {base}: set COHORT_TEST_DATA to the folder that holds it")
    return base / name
