"""Cohorts that training would learn from, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed import Client

import engine
from engine.phantoms.cine import CineOptions
from engine.phantoms.cine_files import write_cine

CINE = CineOptions(patients=3, slices=3, phases=4, size_px=128, spacing_mm=1.4)


@pytest.fixture(scope="session")
def hearts(tmp_path_factory: pytest.TempPathFactory, client: Client) -> engine.Cohort:
    """Return a cohort of made cines and their contours: only to be read."""
    base: Path = tmp_path_factory.mktemp("hearts")
    write_cine(base / "cine", CINE)
    cohort = engine.create(base / "cohort")
    toml = base / "cohort" / "cohort.toml"
    drawn = f'[annotations.manual]\npath = "{base / "cine"}"\nformat = "sunnybrook"\norigin = 0\n'
    toml.write_text(f"{toml.read_text()}\n{drawn}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COHORT_PSEUDONYM_KEY", "0123456789abcdef0123456789abcdef")
        cohort.ingest(base / "cine" / "dicoms", client=client)
    return cohort
