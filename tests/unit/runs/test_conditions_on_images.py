"""One language for ``--where``: of images, the subjects' CSV and tables, in Python and outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from typer.testing import CliRunner

import engine
from engine.conditions.tree import ConditionError
from engine.errors import ConfigError, NothingFound
from jobs.cli import app
from tests.support.images import Counting, grey, put

SUBJECTS = """subject,dose,site,born,height,note (free)
s0,1.5,007,2001-05-01,170,=1+1
s1,,012,1999-12-31,182,
s2,4,007,2010-01-01,165,Doe
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, client: Client) -> engine.Cohort:
    """Return a cohort of eight images of four subjects, the last of whom is not in the CSV."""
    tmp_path = tmp_path_factory.mktemp("conditions")
    for n in range(8):
        put(tmp_path / "in" / "d1" / f"s{n % 4}" / "e1" / f"i{n}.png", grey(n))
    made = engine.create(tmp_path / "c")
    made.ingest(tmp_path / "in", client=client)
    toml = tmp_path / "c/cohort.toml"
    toml.write_text('subjects = "subjects.csv"\n' + toml.read_text())
    (tmp_path / "c/subjects.csv").write_text(SUBJECTS)
    return made


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("dose > 1", ["i0", "i2", "i4", "i6"]),
        ("not dose > 1", ["i1", "i3", "i5", "i7"]),
        ("dose is null and subject != 's3'", ["i1", "i5"]),
        ("site == '007' and born < '2005-01-01'", ["i0", "i4"]),
        ("site in ['012']", ["i1", "i5"]),
        ("site not in ['012'] and site is not null", ["i0", "i2", "i4", "i6"]),
        ("height == 40 and height_of_subject > 165", ["i0", "i1", "i4", "i5"]),
        ("`note (free)` == 'Doe'", ["i2", "i6"]),
        ("subject == 's2' and source != 'in/d1/s2/e1/i2.png'", ["i6"]),
    ],
)
def test_the_subjects_columns_are_part_of_the_language(
    cohort: engine.Cohort, where: str, kept: list[str]
) -> None:
    assert sorted(cohort.images(where).frame["name"]) == kept
    assert cohort.plan(engine.circles(radius_px=(3, 6)), where=where).selected == len(kept)
    taken = [name for batch in cohort.batches(where).numpy() for name in batch["image_id"]]
    assert sorted(Path(name).stem for name in taken) == kept
    cohort.require_images(where=where)


def test_a_run_takes_what_the_condition_says(
    cohort: engine.Cohort, client: Client, tmp_path: Path
) -> None:
    operation = Counting(log=str(tmp_path / "log"))
    report = cohort.run(operation, client=client, where="dose > 2")
    assert report.published == 2
    table = cohort.table(report.tables[1], "status == 'done'")
    assert table["subject"].unique().tolist() == ["s2"]
    assert len(cohort.table(report.tables[1], "dose > 2 and born >= '2010-01-01'")) == 2


def test_errors_of_images_name_columns_and_say_no_value_of_the_csv(cohort: engine.Cohort) -> None:
    with pytest.raises(ConditionError, match=r"did you mean 'dose'\?") as caught:
        cohort.images("dosis > 1")
    assert "Columns: date, subject, experiment, name, dose, site, born" in str(caught.value)
    with pytest.raises(ConditionError, match=r"holds text.*write '7'"):
        cohort.images("site == 7")
    with pytest.raises(NothingFound, match="has 2 values") as nothing:
        cohort.require_images(where="dose > 100 and subject == 's9'")
    assert "'s0', 's1', 's2', 's3'" in str(nothing.value)
    assert "4.0" not in str(nothing.value)
    csv = Path(cohort.store.url, "subjects.csv")
    csv.write_bytes(b"\xff")
    try:
        assert len(cohort.images("subject == 's1'")) == 2, "the CSV is not asked for"
        with pytest.raises(ConfigError, match="not UTF-8"):
            cohort.images("dose > 1")
    finally:
        csv.write_text(SUBJECTS)


def test_the_same_on_the_command_line(
    cohort: engine.Cohort, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort.run(engine.circles(radius_px=(3, 6)), client=client)
    monkeypatch.chdir(tmp_path)
    place = cohort.store.url
    call = CliRunner().invoke
    where = ["--where", "subject in ['s0', 's1'] and dose is not null"]
    done = call(app, ["plan", place, "circles", *where])
    assert done.exit_code == 0, done.output
    assert "2 images" in done.output
    done = call(app, ["export", place, "circles_by_image", "t.csv", *where])
    assert done.exit_code == 0, done.output
    found = pd.read_csv("t.csv", dtype={"site": str})
    assert found[["name", "site"]].to_numpy().tolist() == [["i0", "007"], ["i4", "007"]]
    assert {*found["note (free)"]} == {"'=1+1"}, "no formula for a spreadsheet"
    done = call(app, ["export", place, "circles_by_image", "t.csv", "--raw", *where])
    assert {*pd.read_csv("t.csv")["note (free)"]} == {"=1+1"}
    for table, refused in (
        ("circles_by_image", "subject.to_csv('marker')"),
        ("circles", "__import__('os').system('touch marker') == 0"),
        ("circles_by_image", "cuont > 1"),
    ):
        done = call(app, ["export", place, table, "u.csv", "--where", refused])
        assert done.exit_code == 2, done.output
        assert "^" in done.output
        assert not Path("marker").exists()
        assert not Path("u.csv").exists()
    assert "did you mean 'count'?" in done.output
    assert np.isfinite(found["count"]).all()
