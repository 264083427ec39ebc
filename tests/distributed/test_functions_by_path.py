"""Functions that cohort.toml declares by their path, as a lab writes and runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from distributed import Client

import engine
from engine.errors import ConfigError, UsageError
from engine.operations.registry import BrokenOperation
from tests.support.images import night

MODULE = '''
"""Functions of a lab."""

import numpy as np
import xarray as xr


def bright(image: xr.DataArray, above: int = 100) -> dict:
    """Share of bright pixels.

    Parameters
    ----------
    above
        Least value of a bright pixel.
    """
    return {"share": float((image > above).mean()), "subject_seen": image.attrs["subject"]}


def halves(image, at: int = 8):
    labels = np.zeros(image.shape[1:], int)
    labels[:, :at], labels[:, at:] = 1, 2
    return labels


def sums(image, labels, objects):
    return {"sum": [int(image[0][labels["halves"] == n].sum()) for n in objects["halves"]["half"]]}


def over(image, level: int):
    return {"share": float((image > level).mean())}


no_function = 3
loads = __import__("pickle").loads
'''

DECLARED = """
[operations.sums]
function = "lab.images:sums"
schema = { sum = "int64" }
upstream = ["halves"]

[operations.bright]
function = "lab.images:bright"   # of lab-images 2.1
version = 2
schema = { share = "float", subject_seen = "str" }
above = 90

[operations.halves]
function = "lab.images:halves"
labels = "instances"
object_name = "half"
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a cohort ``c`` of four images, and a package on the path."""
    (tmp_path / "code/lab").mkdir(parents=True)
    (tmp_path / "code/lab/__init__.py").write_text("")
    (tmp_path / "code/lab/images.py").write_text(MODULE)
    (tmp_path / "code/lab/broken.py").write_text("import math\n\nmath.nothing\n")
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    for name in ("lab", "lab.images", "lab.broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    night(tmp_path / "in", 4)
    engine.create(tmp_path / "c")
    return tmp_path


def command(lab: Path, *words: str, code: int = 0) -> str:
    path = os.pathsep.join([str(lab / "code"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "jobs.start", *words], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "160"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def declare(lab: Path, text: str) -> engine.Cohort:
    config = lab / "c/cohort.toml"
    config.write_text((config.read_text() if config.exists() else "") + text)
    return engine.open(lab / "c")


def test_a_night_runs_functions_in_order_and_draws_them(lab: Path, client: Client) -> None:
    cohort = declare(lab, "")
    cohort.ingest(lab / "in", client=client)
    declare(lab, DECLARED)
    assert '"complete": true' in command(lab, "nightly", str(lab / "c"), "--workers", "1")
    for name in ("halves", "sums", "bright"):
        assert name in cohort.tables(), "the current table, without a key in its name"
        assert (lab / f"c/qc/{name}/index.html").exists()
    images = {image.attrs["image_id"]: image.to_numpy() for image in cohort.images(stored=True)}
    bright = cohort.table("bright")
    assert len(bright) == len(images) == 4
    assert [*bright["subject_seen"]] == [*bright["subject"]]
    for _, row in bright.iterrows():
        assert row["share"] == (images[row["image_id"]] > 90).mean()
    for image_id, rows in cohort.table("sums").groupby("image_id"):
        assert rows["sum"].sum() == images[image_id].sum()
    assert {*cohort.table("halves").columns} >= {"half", "area_px"}
    assert cohort.plan("sums").to_compute == 0


def test_other_parameters_are_a_trial_until_declared(lab: Path, client: Client) -> None:
    cohort = declare(lab, DECLARED)
    cohort.ingest(lab / "in", client=client)
    for name in ("halves", "sums", "bright"):
        cohort.run(name, client=client)
    other = cohort.operation("bright", above=95)
    assert cohort.run(other, client=client).tables[0] == f"bright@{other.key[:8]}"
    assert cohort.run(other, client=client, declare=True).tables[0] == "bright"
    text = (lab / "c/cohort.toml").read_text()
    assert "above = 95" in text
    assert 'function = "lab.images:bright"   # of lab-images 2.1\nversion = 2' in text
    cohort.run(cohort.operation("halves", at=4), client=client, declare=True)
    assert cohort.plan("sums").changes == {"halves at": (8, 4)}
    status = cohort.status()
    assert not status.notes
    assert {key.operation for key in status.keys} == {"bright", "halves", "sums"}


def test_help_lists_the_parameters_of_a_function(lab: Path) -> None:
    declare(lab, DECLARED)
    printed = command(lab, "run", str(lab / "c"), "bright", "--help")
    assert "--above INTEGER  Least value of a bright pixel. [default: 100]" in printed
    assert "No operation is called 'brigth'" in command(
        lab, "run", str(lab / "c"), "brigth", "--help", code=2
    )


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("lab.imagse:bright", "No module named 'lab.imagse'. Install its package"),
        ("lab.images:brigth", "lab.images has no brigth"),
        ("lab.broken:bright", "AttributeError: module 'math' has no attribute 'nothing'"),
        ("lab.images:no_function", "not a function of that module"),
        ("lab.images:loads", "not a function of that module"),
        ("pickle:loads", "Python's own modules"),
        ("os.path:exists", "Python's own modules"),
    ],
)
def test_a_function_that_is_none_is_named(lab: Path, path: str, problem: str) -> None:
    cohort = declare(lab, f'[operations.one]\nfunction = "{path}"\nschema = {{ a = "int" }}\n')
    with pytest.raises(BrokenOperation, match=problem):
        cohort.operation("one")
    (message,) = cohort.status().notes
    assert problem in message


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ('function = "lab.images"', "module:function"),
        ("function = 3", "module:function"),
        ('function = "lab.images:bright"', "at least one column"),
        ('function = "lab.images:bright"\nschema = { share = "flaot" }', "a dtype"),
        ('function = "lab.images:bright"\nschema = { share = "float" }\nabvoe = 3', "above"),
        ('function = "lab.images:bright"\nschema = { share = "float" }\nabove = "much"', "above"),
        ('function = "lab.images:over"\nschema = { share = "float" }', "needs a value .* 'level'"),
        ('function = "lab.images:halves"\nlabels = "objects"', '"instances"'),
        ('function = "lab.images:halves"\nlabels = "instances"\nversion = 0', "at least 1"),
    ],
)
def test_a_wrong_entry_is_named(lab: Path, entries: str, problem: str) -> None:
    cohort = declare(lab, f"[operations.one]\n{entries}\n")
    with pytest.raises(ConfigError, match=problem) as raised:
        cohort.operation("one")
    assert "cohort.toml, operations.one" in str(raised.value)


def test_built_in_names_are_taken(lab: Path) -> None:
    cohort = declare(
        lab, '[operations.circles]\nfunction = "lab.images:bright"\nschema = { share = "float" }\n'
    )
    with pytest.raises(UsageError, match="another one: an installed operation is called so"):
        cohort.operation("circles")


def test_a_notebook_and_a_module_share_results(lab: Path, client: Client) -> None:
    cohort = declare(lab, DECLARED)
    cohort.ingest(lab / "in", client=client)
    from lab.images import halves  # type: ignore[import-not-found]

    report = cohort.map(
        halves, name="halves", labels="instances", object_name="half", client=client
    )
    assert "halves" in report.tables
    assert cohort.run("halves", client=client).planned == 0
