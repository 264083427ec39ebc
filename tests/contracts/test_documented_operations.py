"""Code of docs/how-to/add-an-operation.md, run verbatim: in a notebook, installed, and built in."""

from __future__ import annotations

import gc
import inspect
import re
import subprocess
import sys
import types
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

import engine
from tests.contracts import test_operations as contract
from tests.contracts.cases import Case
from tests.support.images import LAYOUT, night, put
from tests.support.operations import register

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "add-an-operation.md").read_text()


def blocks(language: str, heading: str) -> list[str]:
    """Return the code of one language below a heading of the page."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.M | re.S)


@pytest.fixture
def cohort(tmp_path: Path, client: Client) -> engine.Cohort:
    night(tmp_path / "data", 4)
    put(tmp_path / "data" / "d1" / "s1" / "e1" / "small.png", np.zeros((4, 60), np.uint8))
    made = engine.create(tmp_path / "COHORT", layout=LAYOUT)
    made.ingest(tmp_path / "data", client=client)
    return made


def test_a_function_from_a_notebook(
    cohort: engine.Cohort,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On worker processes, which know nothing of the notebook."""
    (code,) = blocks("python", "A function from a notebook")
    monkeypatch.chdir(tmp_path)
    told: dict[str, Any] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        # Dask leaks a socket where another cluster has the dashboard's port already.
        warnings.simplefilter("ignore", ResourceWarning)
        exec(compile(code, "notebook", "exec"), told)
        gc.collect()
    report = told["report"]
    assert (report.published, dict(report.reasons)) == (5, {"smaller_than_a_cell": 1})
    table = cohort.table(report.tables[0])
    assert len(table) == 4
    first = cohort.images()[0]
    expected = told["texture"](first.values, cell_px=8)
    assert table.set_index("name").loc[first.name, "contrast"] == expected["contrast"]
    assert "brightness" in capsys.readouterr().out


def test_functions_that_find_objects_and_read_them(
    cohort: engine.Cohort,
    tmp_path: Path,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run = engine.Cohort.run
    monkeypatch.setattr(
        engine.Cohort,
        "run",
        lambda self, *given, **how: run(self, *given, **{**how, "client": client}),
    )
    told: dict[str, Any] = {"__name__": "__main__", "engine": engine, "cohort": cohort}
    for heading in ("A function that finds objects",
                    "A function that reads the results of another operation"):  # fmt: skip
        (code,) = blocks("python", heading)
        exec(compile(code, "notebook", "exec"), told)
    report = told["report"]
    assert (report.published, report.failed) == (5, 0)
    table = cohort.table(report.tables[0])
    assert (table["cells"] > 0).any()
    assert "covered" in capsys.readouterr().out


def test_a_function_of_a_module(
    cohort: engine.Cohort, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = blocks("python", "A function of a module")
    (settings,) = blocks("toml", "A function of a module")
    (tmp_path / "texture.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with Path(cohort.store.url, "cohort.toml").open("a") as file:
        file.write(settings)
    report = cohort.run("contrast", client=client)
    assert (report.published, report.failed, report.tables[0]) == (5, 0, "contrast")
    assert cohort.table("contrast")["contrast"].notna().sum() == 4  # one is smaller than a cell


def test_a_class_in_a_package(cohort: engine.Cohort, tmp_path: Path) -> None:
    (code,) = blocks("python", "A class in your own package")
    (project,) = blocks("toml", "A class in your own package")
    (commands,) = blocks("sh", "A class in your own package")
    package = tmp_path / "package"
    package.mkdir()
    (package / "sharpness.py").write_text(code)
    (package / "pyproject.toml").write_text(project)
    install, run = commands.splitlines()
    assert install == "pip install ."
    where = ["--no-deps", "--no-build-isolation", "--quiet", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", *install.split(), *where], cwd=package, check=True)
    cohort_command = str(Path(sys.executable).parent / "cohort")
    ended = subprocess.run(
        [cohort_command, *run.split()[1:], "--workers", "1", "--max-failed", "0"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert cohort.config.operations == {"sharpness": {"channel": 0}}
    table = cohort.table("sharpness_by_image")
    assert table["sharpness_mean"].notna().all()


def test_a_built_in_one(
    cohort: engine.Cohort, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, case = blocks("python", "A pull request")
    module = types.ModuleType("engine.operations.saturation")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "saturation.py", "exec"), module.__dict__)
    kind: Any = module.__dict__["Saturation"]
    register(monkeypatch, "saturation", kind)
    check_contract(eval(case.strip().rsplit("\n", 1)[-1], {"Case": Case, "Saturation": kind}))
    report = cohort.run("saturation", client=client)
    assert (report.published, report.failed, report.declared) == (5, 0, True)
    assert set(cohort.table("saturation")["share"]) == {0.0}
    assert kind()(np.full((4, 5), 255, np.uint8))["share"].tolist() == [1.0]


def check_contract(case: Case) -> None:
    """Run the contract suite's tests of a single operation."""
    for check in (
        contract.test_it_says_what_it_is,
        contract.test_its_key_holds_what_changes_the_answer,
        contract.test_its_parameters_are_checked_and_named,
        contract.test_the_answer_does_not_change,
        contract.test_its_outlines_are_finite_polygons_or_marks,
        *(
            partial(contract.test_a_blank_image_is_answered_for, dtype=dtype, value=0)
            for dtype in ("uint8", "uint16", "float32")
        ),
        partial(contract.test_odd_shapes_are_answered_for, shape=(3, 40, 50)),
    ):
        given = {"operation": case.make(**case.given), "case": case}
        takes = inspect.signature(check).parameters
        check(**{name: value for name, value in given.items() if name in takes})


def test_the_table_of_ways_names_what_there_is() -> None:
    assert callable(engine.Cohort.map)
    assert callable(engine.from_function)
    names = (
        "inputs",
        "resources",
        "non_key_parameters",
        "weights",
        "halo_px",
        "prepare",
        "outlines",
    )
    for name in names:
        assert f"`{name}`" in TEXT
        assert hasattr(engine.Operation, name)
