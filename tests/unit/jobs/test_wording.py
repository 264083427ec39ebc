"""What failed is named so that a person finds it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
from distributed import Client

import engine
from engine.errors import MissingExtra
from engine.ingest.report import NAMED
from jobs.messages.core import ingest_lines, status_lines
from tests.support.images import grey, put

TOP = Path(__file__).parents[3]


def test_each_reason_names_files_however_many_another_has(tmp_path: Path, client: Client) -> None:
    whole = put(tmp_path / "in/a.png", grey(0)).read_bytes()
    for n in range(NAMED + 2):
        (tmp_path / "in" / f"cut-{n}.png").write_bytes(whole[: -30 - n])
    (tmp_path / "in/none.tif").touch()
    told = ingest_lines(engine.create(tmp_path / "c").ingest(tmp_path / "in", client=client))
    (empty,) = (line for line in told if line.startswith("  1 empty: "))
    assert "1 empty: in/none.tif." in empty
    (cut,) = (line for line in told if " truncated: " in line)
    assert "in/cut-0.png" in cut
    assert "and 2 more" in cut


def test_a_plane_that_failed_is_named_and_not_its_file_alone(
    tmp_path: Path, client: Client
) -> None:
    shape = (2, 3, 40, 48)
    put(tmp_path / "in/z.tif", grey(1, shape), imagej=True, metadata={"axes": "ZCYX"})
    put(tmp_path / "in/one.tif", np.full((40, 48), np.nan, np.float32))
    put(tmp_path / "in/fine.png", grey(2))
    cohort = engine.create(tmp_path / "c")
    cohort.ingest(tmp_path / "in", client=client)
    cohort.run(engine.circles(radius_px=(5, 14)), client=client)
    told = "\n".join(status_lines(cohort.status()))
    for name in ("in/z.tif#0", "in/z.tif#1"):
        assert f"  {name}: circles, channel_needed" in told
    trial = cohort.run(engine.circles(radius_px=(5, 15)), client=client)
    told = "\n".join(status_lines(cohort.status()))
    for of in ("circles", f"circles@{trial.key[:8]}"):
        assert told.count(f"  in/z.tif#1: {of}, channel_needed") == 1
    assert "  in/one.tif: circles, " in told


def test_the_command_that_installs_an_extra_is_true_for_packages_and_clones() -> None:
    named = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    for extra in named["optional-dependencies"]:
        told = str(MissingExtra("a package", extra, "for this"))
        assert f"pip install '{named['name']}[{extra}]'" in told
        assert f"clone of the repository: pip install '.[{extra}]'" in told
    modules = [p for top in ("engine", "jobs") for p in (TOP / top).rglob("*.py")]
    assert [p.name for p in modules if "pip install" in p.read_text()] == ["errors.py"]
    pages = [p for end in ("md", "ipynb") for p in TOP.glob(f"[dn]o*/**/*.{end}")]
    shown = [p for p in pages if "pip install '.[" in p.read_text()]
    assert len(shown) > 5
    assert [p for p in shown if "clone of the repository" not in p.read_text()] == []
