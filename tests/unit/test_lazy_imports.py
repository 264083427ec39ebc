"""What is not imported until it is needed, and that the public names are there all the same."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import engine

SLOW = {"dask", "distributed", "pandas", "numba", "torch", "zarr", "xarray", "scipy", "skimage",
        "jinja2"}  # fmt: skip
"""Packages that cost time to import: jinja2 some hundredths of a second, the others more."""


def imported(statement: str) -> set[str]:
    """Return the slow packages that a fresh process has after a statement."""
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return SLOW & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import engine; dir(engine)", set()),
        ("import engine; engine.EngineError; engine.ProgressListener", set()),
        ("import engine; engine.cluster", set()),
        ("import engine.pages.rendering, engine.execution.notebook_progress", set()),
        ("import engine; engine.Cohort; engine.open; engine.create", {"pandas"}),
        ("import engine; engine.circles(radius_px=(10, 60)).key", {"pandas"}),
    ],
)
def test_a_name_imports_no_more_than_it_needs(statement: str, allowed: set[str]) -> None:
    assert imported(statement) <= allowed


def test_all_public_names_are_there() -> None:
    assert set(engine.__all__) <= set(dir(engine))
    for name in engine.__all__:
        assert getattr(engine, name) is getattr(engine, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        engine.no_such_name  # noqa: B018 - it is what raises


def test_an_earlier_name_still_works() -> None:
    with pytest.warns(DeprecationWarning, match="engine.ProgressListener"):
        assert engine.Events is engine.ProgressListener


def test_a_class_travels_under_its_own_name() -> None:
    assert pickle.loads(pickle.dumps(engine.circles)) is engine.circles
