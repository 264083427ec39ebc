"""What a plan says, what a run does of it, and what becomes of the tables."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from distributed import Client

import engine
from engine.errors import ConfigError, NoTable, NothingFound, ParameterError, UsageError
from engine.operations import registry
from engine.store.results import read_key
from engine.store.tables import read_provenance, write_table
from tests.support.images import Counting, Second, computed, discs, grey, night, put
from tests.support.operations import install_below, register


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def cohort(tmp_path: Path, data: Path, client: Client) -> engine.Cohort:
    night(data, 6)
    made = engine.create(tmp_path / "cohort")
    made.ingest(data, client=client)
    return made


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer the counting operation by name, as a package would."""
    register(monkeypatch, "counting", Counting)


def test_a_second_run_computes_nothing(cohort: engine.Cohort, client: Client, log: str) -> None:
    operation = Counting(log=log)
    assert cohort.plan(operation).causes == {"new": 6}
    report = cohort.run(operation, client=client)
    assert (report.published, report.failed, report.up_to_date) == (6, 0, 0)
    assert len(computed(log)) == 6
    report = cohort.run(operation, client=client)
    assert (report.planned, report.published, report.up_to_date) == (0, 0, 6)
    assert computed(log) == []
    assert cohort.plan(operation).settled == {"done": 6}


def test_each_cause_recomputes_exactly_what_it_affects(
    cohort: engine.Cohort, client: Client, log: str, data: Path, tmp_path: Path
) -> None:
    """Fault 23: one parameter, weights, version, image, annotation or spacing changed."""
    notes, model = tmp_path / "notes", tmp_path / "model.bin"
    notes.mkdir()
    model.write_bytes(b"one")
    given: dict[str, Any] = {"log": log, "annotations": str(notes), "model": str(model)}
    sources = [f"data/d1/s{n % 2}/e1/i{n}.png" for n in range(6)]

    def change(operation: engine.Operation, causes: dict[str, int], due: list[str]) -> Any:
        plan = cohort.plan(operation)
        assert plan.causes == causes
        report = cohort.run(operation, client=client)
        assert report.published == len(due)
        assert computed(log) == sorted(due)
        assert cohort.plan(operation).to_compute == 0
        return plan

    change(Counting(**given), {"new": 6}, sources)
    plan = change(Counting(**given, copies=2), {"parameters": 6}, sources)
    assert plan.changes == {"copies": (1, 2)}
    change(Counting(**given), {}, [])  # both keys stay
    change(Counting(**given, batch=64), {}, [])  # a neutral parameter is no other key
    model.write_bytes(b"two")
    plan = change(Counting(**given), {"weights": 6}, sources)
    assert set(plan.changes) == {"weights"}
    plan = change(Second(**given), {"version": 6}, sources)
    assert plan.changes == {"version": (1, 2)}
    (notes / "data-d1-s1-e1-i1.png.txt").write_text("a contour")
    change(Second(**given), {"inputs": 1}, [sources[1]])
    (notes / "data-d1-s1-e1-i1.png.txt").write_text("an edited contour")
    change(Second(**given), {"inputs": 1}, [sources[1]])
    put(data / "d1" / "s0" / "e1" / "i2.png", grey(88))
    cohort.ingest(client=client)
    change(Second(**given), {"inputs": 1}, [sources[2]])
    iio_options = {"dpi": (25400, 25400)}  # 1000 pixels a millimetre, not a screen's
    put(data / "d1" / "s0" / "e1" / "i4.png", grey(4), **iio_options)
    assert cohort.ingest(client=client).touched == 1
    change(Second(**given), {"inputs": 1}, [sources[4]])
    report = cohort.run(Second(**given), client=client)
    table = cohort.table(report.tables[1])
    assert len(table) == 6  # one current row for each image, whatever it was before
    assert table["status"].eq("done").all()


def test_keys_say_what_they_were_made_of(cohort: engine.Cohort, client: Client, log: str) -> None:
    operation = Counting(log=log, copies=3)
    cohort.run(operation, client=client)
    assert read_key(cohort.store, "counting", 1, operation.key) == operation.identity
    assert read_key(cohort.store, "counting", 1, "f" * 32) is None
    (Path(cohort.store.url) / f"results/counting/v1/_keys/{operation.key}.json").write_text("{")
    with pytest.raises(engine.errors.CorruptStore):
        read_key(cohort.store, "counting", 1, operation.key)


def test_failures_stay_until_they_are_asked_for(
    cohort: engine.Cohort, client: Client, log: str, data: Path
) -> None:
    fails = ("i1", "i4")
    operation = Counting(log=log, fails=fails)
    report = cohort.run(operation, client=client)
    assert (report.published, report.failed, dict(report.reasons)) == (6, 2, {"asked_to": 2})
    assert len(computed(log)) == 6
    report = cohort.run(operation, client=client)
    assert (report.planned, report.failed_before, report.up_to_date) == (0, 2, 4)
    plan = cohort.plan(operation, retry_failed=True)
    assert plan.causes == {"retry": 2}
    report = cohort.run(operation, client=client, retry_failed=True)
    assert (report.published, report.failed) == (2, 2)
    assert [Path(source).stem for source in computed(log)] == ["i4", "i1"]
    by_image = cohort.table(report.tables[1])
    assert by_image["status"].value_counts().to_dict() == {"done": 4, "failed": 2}
    put(data / "d1" / "s0" / "e1" / "copy.png", grey(1))  # pixels of a failed one, another name
    cohort.ingest(client=client)
    assert cohort.plan(operation).causes == {"copy": 1}
    assert cohort.plan(operation, retry_failed=True).causes == {"retry": 3}
    report = cohort.run(operation, client=client)
    assert (report.published, report.failed, report.copied) == (1, 1, 1)
    computed(log)
    report = cohort.run(operation, client=client, retry_failed=True)
    assert report.published == 3
    assert len(computed(log)) == 2  # once for each content


def test_where_and_limit_select(cohort: engine.Cohort, client: Client, log: str) -> None:
    operation = Counting(log=log)
    report = cohort.run(operation, client=client, where="subject == 's1'")
    assert (report.selected, report.published) == (3, 3)
    assert {source.split("/")[2] for source in computed(log)} == {"s1"}
    report = cohort.run(operation, client=client, limit=2)
    assert [Path(source).stem for source in computed(log)] == ["i0", "i2"]
    table = cohort.table(report.tables[1])
    assert table["status"].value_counts().to_dict() == {"done": 5, "missing": 1}
    where = "width > 1000"
    assert cohort.plan(operation, where=where).selected == 0
    report = cohort.run(operation, client=client, where=where)
    assert report.selected == 0
    assert cohort.plan(operation, where="subject == 's1'", limit=1).selected == 1


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("subjct == 's1'", "subjct"),
        ("subject = 's1'", "not a condition"),
        ("subject ==", "not a condition"),
        ("height + 1", "not a condition"),
        ("height", "not a condition"),
        ("@pd.compat", "names of Python are not read"),
        ("__import__('os').system('true')", "not a condition"),
        ("", "not a condition"),
    ],
)
def test_a_condition_that_is_none(cohort: engine.Cohort, log: str, where: str, named: str) -> None:
    with pytest.raises(NothingFound, match="Example: --where") as error:
        cohort.plan(Counting(log=log), where=where)
    assert named in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one(cohort: engine.Cohort, log: str, limit: int) -> None:
    with pytest.raises(ParameterError, match="--limit"):
        cohort.plan(Counting(log=log), limit=limit)


@pytest.mark.usefixtures("installed")
def test_the_first_complete_run_declares_itself(
    cohort: engine.Cohort, client: Client, log: str
) -> None:
    first = Counting(log=log, copies=2)
    report = cohort.run(first, client=client, limit=2)
    assert (report.declared, report.trial) == (False, True)
    report = cohort.run(first, client=client, where="subject == 's0'")
    assert (report.declared, report.trial) == (False, True)
    assert report.tables[0] == f"counting@{first.key[:8]}"
    report = cohort.run(first, client=client)
    assert (report.declared, report.trial) == (True, False)
    assert report.tables == ["counting", "counting_by_image", "counting_by_experiment"]
    assert cohort.config.operations["counting"]["copies"] == 2
    assert len(cohort.table("counting")) == 12


def test_a_run_in_which_all_fail_declares_nothing(cohort: engine.Cohort, client: Client) -> None:
    report = cohort.run(engine.circles(channel=7), client=client)
    assert (report.failed, report.declared, report.trial) == (6, False, True)
    report = cohort.run(engine.circles(channel=7), client=client)
    assert (report.failed_before, report.declared) == (6, False)
    report = cohort.run(engine.circles(), client=client)
    assert (report.failed, report.declared) == (0, True)


@pytest.mark.usefixtures("installed")
def test_other_parameters_are_a_trial_until_declared(
    cohort: engine.Cohort, client: Client, log: str
) -> None:
    cohort.run(Counting(log=log), client=client)
    before = cohort.table("counting")
    other = Counting(log=log, copies=3)
    report = cohort.run(other, client=client)
    assert (report.trial, report.declared) == (True, False)
    suffix = f"@{other.key[:8]}"
    assert report.tables == [
        f"counting{suffix}",
        f"counting_by_image{suffix}",
        f"counting_by_experiment{suffix}",
    ]
    pd.testing.assert_frame_equal(cohort.table("counting"), before)
    assert len(cohort.table(f"counting{suffix}")) == 18
    assert sorted(cohort.tables()) == sorted(
        [*report.tables, "counting", "counting_by_image", "counting_by_experiment"]
    )
    computed(log)
    report = cohort.run(other, client=client, declare=True)
    assert (report.trial, report.declared, report.planned) == (False, True, 0)
    assert len(cohort.table("counting")) == 18
    assert sorted(cohort.tables()) == sorted(report.tables)  # those of the trial are gone
    assert cohort.verify().ok
    (report,) = cohort.run(client=client)  # all that is declared
    assert (report.planned, report.tables[0]) == (0, "counting")
    report = cohort.run("counting", client=client)  # parameters not given are the declared
    assert (report.key, report.planned) == (other.key, 0)
    assert cohort.operation("counting", copies=1).key == Counting(log=log).key
    report = cohort.run(Counting(log=log), client=client, declare=True)
    assert computed(log) == []
    pd.testing.assert_frame_equal(cohort.table("counting"), before)


def test_an_operation_of_a_notebook_is_never_declared(
    cohort: engine.Cohort, client: Client, log: str
) -> None:
    report = cohort.run(Counting(log=log), client=client)
    assert (report.declared, report.trial) == (False, True)
    assert cohort.config.operations == {}
    with pytest.raises(UsageError, match="counting can't be declared"):
        cohort.run(Counting(log=log), client=client, declare=True)
    with pytest.raises(NothingFound, match="declares no operation"):
        cohort.run(client=client)
    with pytest.raises(registry.NoOperation, match="circles"):
        cohort.run("counting", client=client)


def test_operations_of_packages_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offered = {"counting": f"{Counting.__module__}:{Counting.__name__}"}
    monkeypatch.syspath_prepend(install_below(tmp_path, offered))
    built_in = {name: registry.find_operation(name) for name in registry.BUILT_IN}
    assert registry.operations() == {"counting": Counting, **built_in}
    assert registry.find_operation("counting") is Counting
    assert registry.is_registered(Counting(log="x"))
    assert not registry.is_registered(Second(log="x"))


def test_tables_are_left_alone_when_nothing_changed(
    cohort: engine.Cohort, client: Client, log: str, data: Path
) -> None:
    report = cohort.run(Counting(log=log), client=client)
    folder = Path(cohort.store.url) / "tables"

    def stamps() -> dict[str, int]:
        return {name: (folder / f"{name}.parquet").stat().st_mtime_ns for name in report.tables}

    before = stamps()
    cohort.run(Counting(log=log), client=client)
    assert stamps() == before
    cohort.ingest(client=client)  # nothing new: no new version of the catalog
    cohort.run(Counting(log=log), client=client)
    assert stamps() == before
    cohort.run(Counting(log=log, copies=2), client=client)  # another key of the same ledger
    cohort.run(Counting(log=log), client=client)
    assert stamps() == before
    put(data / "d1" / "s0" / "e1" / "new.png", grey(50))
    cohort.ingest(client=client)
    cohort.run(Counting(log=log), client=client)
    assert not set(stamps().values()) & set(before.values())
    (folder / f"{report.tables[0]}.parquet").unlink()
    with pytest.raises((NoTable, engine.errors.MissingObject)):
        cohort.table(report.tables[0])
    cohort.run(Counting(log=log), client=client)
    assert len(cohort.table(report.tables[0])) == 7
    # Only the trial's own fragments were in the way, and they are gone.
    assert not [p for p in (folder / ".fragments").rglob("*") if p.is_file()]


def test_a_table_is_never_replaced_by_an_older_one(cohort: engine.Cohort) -> None:
    def write(n: int, **origin: Any) -> bool:
        return write_table(cohort.store, "t", iter([pa.table({"n": [n]})]), origin)

    assert write(1, key="k", catalog=3, results=5)
    assert not write(2, key="k", catalog=3, results=4)
    assert not write(3, key="k", catalog=2, results=9)
    assert cohort.table("t")["n"].to_list() == [1]
    assert read_provenance(cohort.store, "t") == {"key": "k", "catalog": 3, "results": 5}
    assert write(4, key="k", catalog=3, results=6)
    assert write(5, key="other", catalog=1, results=1)  # another question: declared just now
    assert cohort.table("t")["n"].to_list() == [5]


def test_a_cohort_without_images(tmp_path: Path, client: Client, log: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("nothing to see")
    cohort = engine.create(tmp_path / "cohort")
    report = cohort.ingest(tmp_path / "data", client=client)
    assert (report.listed, report.ignored, report.new) == (1, 1, 0)
    run = cohort.run(Counting(log=log), client=client)
    assert (run.selected, run.published) == (0, 0)
    for name in run.tables:
        assert len(cohort.table(name)) == 0
    assert {"status", "count", "mean_mean", "image_id"} <= set(cohort.table(run.tables[1]).columns)
    assert len(cohort.images()) == 0
    assert list(cohort.stacks().children) == []


def test_images_without_objects(cohort: engine.Cohort, client: Client, log: str) -> None:
    run = cohort.run(Counting(log=log, copies=0), client=client)
    assert (run.published, run.failed) == (6, 0)
    assert len(cohort.table(run.tables[0])) == 0
    by_image = cohort.table(run.tables[1])
    assert by_image["count"].to_list() == [0] * 6
    assert by_image["mean_mean"].isna().all()
    experiments = cohort.table(run.tables[2])
    assert experiments["images"].to_list() == [3, 3]
    assert experiments["count"].to_list() == [0, 0]
    assert experiments[["mean_mean", "mean_sd"]].isna().all(axis=None)


def test_what_the_tables_say(tmp_path: Path, client: Client, log: str) -> None:
    data = tmp_path / "data"
    seeds = {"s1": {"e1": [1, 2], "e2": [3]}, "s2": {"e1": [4, 5, 6]}}
    for subject, experiments in seeds.items():
        for experiment, numbers in experiments.items():
            for n in numbers:
                put(data / "d1" / subject / experiment / f"i{n}.png", grey(n))
    (data / "d1" / "s2" / "e1" / "bad.png").write_bytes(b"")
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(data, client=client)
    (tmp_path / "cohort" / "subjects.csv").write_text("subject,sex,count\ns1,f,7\ns3,m,9\n")
    toml = tmp_path / "cohort" / "cohort.toml"
    toml.write_text('subjects = "subjects.csv"\n' + toml.read_text())
    run = cohort.run(Counting(log=log, copies=2, fails=("i5",)), client=client)
    objects, by_image, experiments = (cohort.table(name) for name in run.tables)
    means = {n: float(grey(n).mean()) for n in range(1, 7)}

    assert list(objects.columns) == [
        "date", "subject", "experiment", "name", "sex", "count_of_subject",
        "object", "mean", "n", "source", "orphaned", "image_id",
    ]  # fmt: skip
    assert objects["name"].to_list() == [f"i{n}" for n in (1, 1, 2, 2, 3, 3, 4, 4, 6, 6)]
    assert objects["object"].to_list() == [1, 2] * 5
    assert objects["mean"].to_list() == [means[n] for n in (1, 1, 2, 2, 3, 3, 4, 4, 6, 6)]
    assert objects["sex"].fillna("-").to_list() == ["f"] * 6 + ["-"] * 4

    rows = by_image.set_index("name")
    assert rows["status"].to_dict() == {
        "i1": "done", "i2": "done", "i3": "done", "i4": "done", "i5": "failed", "i6": "done",
        "bad": "unreadable",
    }  # fmt: skip
    assert rows.loc[["i5", "bad"], "reason"].to_list() == ["asked_to", "empty"]
    assert rows["count"].fillna(-1).to_dict() == {
        "i1": 2, "i2": 2, "i3": 2, "i4": 2, "i5": -1, "i6": 2, "bad": -1,
    }  # fmt: skip
    assert rows.loc["i3", "mean_mean"] == means[3]
    assert rows.loc["i3", "mean_sd"] == 0.0

    found = experiments.set_index(["subject", "experiment"])
    assert found["images"].to_dict() == {("s1", "e1"): 2, ("s1", "e2"): 1, ("s2", "e1"): 4}
    assert found["images_failed"].to_list() == [0, 0, 2]
    assert found["images_missing"].to_list() == [0, 0, 0]
    assert found["count"].to_list() == [4, 2, 4]
    assert found["count_of_subject"].fillna(-1).to_list() == [7, 7, -1]
    for (subject, experiment), row in found.iterrows():
        values = np.repeat([means[n] for n in seeds[subject][experiment] if n != 5], 2)
        assert row["mean_mean"] == pytest.approx(values.mean())
        assert row["mean_sd"] == pytest.approx(values.std(ddof=1))
    frames = pd.read_parquet(tmp_path / "cohort" / "tables" / f"{run.tables[1]}.parquet")
    pd.testing.assert_frame_equal(frames, by_image)


def test_edited_subjects_make_new_tables(
    cohort: engine.Cohort, client: Client, log: str, tmp_path: Path
) -> None:
    csv = tmp_path / "subjects.csv"
    csv.write_text("subject,sex\ns0,f\n")
    toml = tmp_path / "cohort" / "cohort.toml"
    toml.write_text(f'subjects = "{csv}"\n' + toml.read_text())
    run = cohort.run(Counting(log=log), client=client)
    assert cohort.table(run.tables[2])["sex"].fillna("-").to_list() == ["f", "-"]
    csv.write_text("subject,sex\ns0,f\ns1,m\n")
    cohort.run(Counting(log=log), client=client)
    assert len(computed(log)) == 6
    assert cohort.table(run.tables[2])["sex"].to_list() == ["f", "m"]
    for text, problem in [
        ("subject,sex\ns0,f\ns0,m\n", "rows 2 and 3"),
        ("name,sex\na,f\n", "no column"),
        ("", "can't be read"),
    ]:
        csv.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            cohort.run(Counting(log=log), client=client)


def test_numeric_subjects_join_as_text(tmp_path: Path, client: Client, log: str) -> None:
    put(tmp_path / "data" / "d1" / "007" / "e1" / "a.png", grey(1))
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(tmp_path / "data", client=client)
    (tmp_path / "cohort" / "subjects.csv").write_text("subject,age\n007,61\n")
    toml = tmp_path / "cohort" / "cohort.toml"
    toml.write_text('subjects = "subjects.csv"\n' + toml.read_text())
    run = cohort.run(Counting(log=log), client=client)
    assert cohort.table(run.tables[0])["age"].to_list() == [61]


class Worse(Counting):
    """Gives answers of many wrong kinds, by the image."""

    name: ClassVar[str] = "worse"

    def measure(self, image: engine.Image) -> Any:
        found = super().measure(image)
        kind = image.source.rpartition("/i")[2][0]
        answers: dict[str, Any] = {
            "0": {"mean": ["no number"], "n": [1]},
            "1": {"mean": [1.0], "n": [1, 2]},
            "2": {"mean": [1.0]},
            "3": None,
            "4": {"mean": [2**80], "n": [2**80]},
        }
        return answers.get(kind, found)


def test_wrong_answers_fail_their_image_alone(
    cohort: engine.Cohort, client: Client, log: str
) -> None:
    run = cohort.run(Worse(log=log), client=client)
    assert (run.published, run.failed) == (6, 5)
    rows = cohort.table(run.tables[1]).set_index("name")
    assert rows["status"].value_counts().to_dict() == {"failed": 5, "done": 1}
    assert rows.loc["i5", "status"] == "done"
    assert rows.loc["i1", "reason"] == "columns_of_different_length"
    assert rows.loc["i2", "reason"] == "key_error"
    assert rows["reason"].drop("i5").str.fullmatch("[a-z_]+").all()


class Mixed(Counting):
    """Gives each image's columns as another kind of sequence."""

    def measure(self, image: engine.Image) -> Any:
        whole = np.arange(4, dtype=np.int32)
        answers: dict[str, Any] = {
            "0": {"mean": [0, 1.5], "n": (0, 1)},
            "1": {"mean": whole, "n": whole[::2].astype(float).repeat(2)},
            "2": {"mean": np.array([1.5], np.float32), "n": np.array([3], np.uint8)},
            "3": {"mean": pa.array([2.5]), "n": pd.Series([4])},
            "4": {"mean": [], "n": np.array([], np.int64)},
        }
        return answers.get(Path(image.source).stem[-1], {"mean": [None], "n": [2**60 + 1]})


def test_answers_may_be_any_sequences(cohort: engine.Cohort, client: Client, log: str) -> None:
    run = cohort.run(Mixed(log=log), client=client)
    assert (run.published, run.failed) == (6, 0)
    found = cohort.arrow_table(run.tables[0]).select(["name", "mean", "n"]).to_pylist()
    assert [tuple(row.values()) for row in sorted(found, key=lambda row: row["name"])] == [
        ("i0", 0.0, 0), ("i0", 1.5, 1),
        ("i1", 0.0, 0), ("i1", 1.0, 0), ("i1", 2.0, 2), ("i1", 3.0, 2),
        ("i2", 1.5, 3), ("i3", 2.5, 4), ("i5", None, 2**60 + 1),
    ]  # fmt: skip


def test_results_do_not_depend_on_how_work_was_cut(tmp_path: Path, client: Client) -> None:
    """Invariant 8: same pixels, same rows, in one ingest or in three, in one run or in three."""
    paths = [put(tmp_path / "data" / f"i{n}.png", discs(n)) for n in range(6)]
    operation = engine.circles(radius_px=(8, 25))
    tables = []
    for number, groups in enumerate([[paths], [paths[:1], paths[1:4], paths[4:]]]):
        cohort = engine.create(tmp_path / f"cohort{number}")
        for group in groups:
            for path in group:
                cohort.ingest(path, client=client)
            cohort.run(operation, client=client)
        tables.append([cohort.table(n) for n in ("circles", "circles_by_image")])
    for one, other in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert len(tables[0][0]) >= 10
    assert tables[0][0]["circle"].to_list() == [
        n + 1
        for _, group in itertools.groupby(tables[0][0]["image_id"])
        for n, _ in enumerate(group)
    ]
