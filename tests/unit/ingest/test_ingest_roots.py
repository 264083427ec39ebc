"""Where sources are: roots, folders of roots, single files, layouts, and what lies between."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

import engine
from engine.errors import ConfigError, NoSource, UsageError
from engine.execution.progress import ProgressListener
from engine.ingest import discovery
from engine.ingest.discovery import RootGone, Survey, survey_folder
from engine.store.backend.local import LocalStore
from engine.store.config import (
    CohortConfig,
    RootConfig,
    declare_operation,
    declare_roots,
    locate_root,
    new_root_name,
    parse_config,
)
from tests.support.images import Counting, catalog, grey, night, put, states


def test_a_source_inside_a_known_root_belongs_to_it(
    cohort: engine.Cohort, tmp_path: Path, client: Client
) -> None:
    night(tmp_path / "data")
    inside = tmp_path / "data" / "d1" / "s0"
    cohort.ingest(tmp_path / "data" / "d1" / "s1", client=client)
    assert list(cohort.config.roots) == ["s1"]
    put(tmp_path / "data" / "d1" / "s1" / "e1" / "i9.png", grey(9))
    report = cohort.ingest(tmp_path / "data", client=client)
    assert list(cohort.config.roots) == ["s1", "data"]
    # What lies in the inner root is there once, under its name, and is taken with the outer one.
    assert (report.listed, report.unchanged, report.duplicates) == (5, 2, 0)
    assert {name for name in states(cohort) if "s1/" in name} == {
        "s1/e1/i1.png",
        "s1/e1/i3.png",
        "s1/e1/i9.png",
    }
    put(inside / "e1" / "late.png", grey(70))
    (inside / "e1" / "i0.png").unlink()
    (tmp_path / "data" / "d1" / "s1" / "e1" / "i1.png").unlink()
    report = cohort.ingest(inside, client=client)
    # Only what lies in the scope is looked at: i1 is gone too, but nobody asked.
    assert (report.listed, report.new, report.orphaned) == (2, 1, 1)
    assert states(cohort)["data/d1/s0/e1/i0.png"] == "orphaned"
    assert states(cohort)["s1/e1/i1.png"] == "ready"
    assert list(cohort.config.roots) == ["s1", "data"]


def test_an_ingest_lists_each_folder_and_reads_cohort_toml_once(
    cohort: engine.Cohort, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(tmp_path / "data")
    (tmp_path / "data" / "d1" / "notes").write_text("a file without a suffix, which is opened")
    folders = [str(folder) for folder in (tmp_path / "data").rglob("")]
    listed: Counter[str] = Counter()
    read: Counter[str] = Counter()
    scandir, read_object = os.scandir, LocalStore.read

    def counting_scandir(path: Any) -> Any:
        listed[str(path).rstrip("/")] += 1
        return scandir(path)

    def counting_read(store: LocalStore, path: str, *args: Any) -> bytes:
        read[path] += 1
        return read_object(store, path, *args)

    monkeypatch.setattr(os, "scandir", counting_scandir)
    monkeypatch.setattr(LocalStore, "read", counting_read)
    request = cohort.require_sources(tmp_path / "data")
    # Once to find the root, and once, under the lock, to declare it.
    assert read["cohort.toml"] == 2
    report = cohort.ingest(client=client, request=request)
    # Once more after the catalog was read, for roots that other ingests declared meanwhile.
    assert read["cohort.toml"] == 3
    assert [listed[folder] for folder in folders] == [1] * 6  # data, d1, s0, s1 and two e1
    assert (report.listed, report.new, report.ignored) == (5, 4, 1)
    put(tmp_path / "data" / "d1" / "s1" / "e1" / "late.png", grey(9))
    assert cohort.ingest(tmp_path / "data", client=client).new == 1


def test_a_survey_remembers_its_files_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(tmp_path)
    assert len(survey_folder(str(tmp_path)).files) == 4
    monkeypatch.setattr(discovery, "MAX_SURVEYED", 3)
    assert survey_folder(str(tmp_path)) == Survey(confidential=False)
    (tmp_path / "z.dcm").write_bytes(b"")  # its suffix decides
    assert survey_folder(str(tmp_path)) == Survey(confidential=True)


def test_scopes_end_at_a_folder_not_at_a_prefix(
    cohort: engine.Cohort, tmp_path: Path, client: Client
) -> None:
    put(tmp_path / "data" / "a" / "1.png", grey(1))
    other = put(tmp_path / "data" / "ab" / "2.png", grey(2))
    cohort.ingest(tmp_path / "data", client=client)
    other.unlink()
    put(tmp_path / "data" / "ab" / "3.png", grey(3))
    assert cohort.ingest(tmp_path / "data" / "a", client=client).orphaned == 0
    assert cohort.ingest(tmp_path / "data" / "ab", client=client).orphaned == 1


def test_a_single_file(cohort: engine.Cohort, tmp_path: Path, client: Client) -> None:
    paths = night(tmp_path / "data")
    report = cohort.ingest(paths[0], client=client)
    assert (report.listed, report.new) == (1, 1)
    assert states(cohort) == {"e1/i0.png": "ready"}
    put(paths[0], grey(90))
    assert cohort.ingest(paths[0], client=client).changed == 1


def test_odd_names_of_files(cohort: engine.Cohort, tmp_path: Path, client: Client) -> None:
    folder = tmp_path / "data"
    put(folder / "plain.png", grey(1))
    for n, name in enumerate(
        [b"caf\xe9.png", b"back\\slash.png", b"new\nline.png", b"sp ace#0.png"]
        + [f"next{end}line.png".encode() for end in "\x85\u2028"]
    ):
        (folder / os.fsdecode(name)).write_bytes(
            put(tmp_path / "x" / f"{n}.png", grey(10 + n)).read_bytes()
        )
    assert cohort.ingest(folder, client=client).new == 7
    assert sorted(states(cohort)) == [
        "data/back\\x5cslash.png",
        "data/caf\\xe9.png",
        "data/new\\x0aline.png",
        "data/next\\xc2\\x85line.png",
        "data/next\\xe2\\x80\\xa8line.png",
        "data/plain.png",
        "data/sp ace#0.png",
    ]
    # By its own name, too, and nothing beside it is held to be gone.
    report = cohort.ingest(folder / os.fsdecode(b"back\\slash.png"), client=client)
    assert (report.listed, report.unchanged, report.orphaned) == (1, 1, 0)


def test_two_roots_of_one_name(cohort: engine.Cohort, tmp_path: Path, client: Client) -> None:
    put(tmp_path / "x" / "data" / "a.png", grey(1))
    put(tmp_path / "y" / "data" / "a.png", grey(2))
    report = cohort.ingest(tmp_path / "x" / "data", tmp_path / "y" / "data", client=client)
    assert report.new == 2
    assert states(cohort) == {"data/a.png": "ready", "data-2/a.png": "ready"}
    (tmp_path / "y" / "data" / "a.png").unlink()
    put(tmp_path / "y" / "data" / "b.png", grey(3))
    assert cohort.ingest(tmp_path / "x" / "data", client=client).orphaned == 0
    report = cohort.ingest(client=client)  # all roots
    assert (report.listed, report.new, report.orphaned) == (2, 1, 1)


def test_a_root_added_later_stands_apart_in_cohort_toml(cohort: engine.Cohort) -> None:
    declare_roots(cohort.store, {"a": {"path": "/a"}}, None)
    declare_operation(cohort.store, "circles", {"radius_px": (8.0, 43.0)}, replace=True)
    declare_roots(cohort.store, {"b": {"path": "/b"}, "c": {"path": "/c"}}, None)
    lines = (cohort.store.read("cohort.toml") or b"").decode().splitlines()
    sections = [number for number, line in enumerate(lines) if line.startswith("[")]
    assert [lines[n] for n in sections] == [
        "[roots.a]", "[roots.b]", "[roots.c]", "[operations.circles]",
    ]  # fmt: skip
    assert all(not lines[n - 1] for n in sections if n)


def test_all_roots_that_are_away_are_named(
    cohort: engine.Cohort, tmp_path: Path, client: Client
) -> None:
    for name in ("a", "b", "c"):
        put(tmp_path / name / "1.png", grey(1))
    cohort.ingest(*(tmp_path / name for name in "abc"), client=client)
    put(tmp_path / "c" / "2.png", grey(2))
    for name in ("a", "b"):
        (tmp_path / name).rename(tmp_path / f"{name}-away")
    notes: list[str] = []

    class Noted(ProgressListener):
        def note(self, text: str) -> None:
            notes.append(text)

    with pytest.raises(RootGone) as caught:
        cohort.ingest(client=client, events=Noted())
    named = [str(caught.value), *notes]
    assert [sum(str(tmp_path / name) in text for text in named) for name in "abc"] == [1, 1, 0]
    assert {*states(cohort).values()} == {"ready"}
    assert len(states(cohort)) == 4, "what is there was taken"


def test_dots_in_a_path_make_no_second_root(
    cohort: engine.Cohort, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data" / "d1")
    cohort.ingest("..", client=client)
    report = cohort.ingest(tmp_path / "data" / "d1" / ".." / "d1", client=client)
    assert (report.unchanged, report.new) == (4, 0)
    assert cohort.config.roots == {"data": RootConfig(path=str(tmp_path / "data"))}


def test_the_same_file_named_twice_is_taken_once(
    cohort: engine.Cohort, tmp_path: Path, client: Client
) -> None:
    paths = night(tmp_path / "data")
    report = cohort.ingest(tmp_path / "data", paths[0], paths[0].parent, client=client)
    assert (report.listed, report.new, report.duplicates) == (4, 4, 0)


def test_the_longest_root_counts() -> None:
    config = CohortConfig(roots={"all": RootConfig(path="/d/"), "part": RootConfig(path="/d/part")})
    assert locate_root("/d/part/x.png", config) == ("part", "x.png")
    assert locate_root("/d/other/x.png", config) == ("all", "other/x.png")
    assert locate_root("/d", config) == ("all", "")
    assert locate_root("/data/x.png", config) is None
    assert new_root_name("/x/part", config) == "part-2"
    assert new_root_name("/x/a b:c", config) == "a-b-c"
    assert new_root_name("/", config) == "root"


def test_a_renamed_root_leaves_no_image_there_twice(
    cohort: engine.Cohort, tmp_path: Path, client: Client
) -> None:
    night(tmp_path / "data")
    night(tmp_path / "more", seed=20)
    cohort.ingest(tmp_path / "data", tmp_path / "more", client=client)
    toml = tmp_path / "cohort" / "cohort.toml"
    before = toml.read_text()
    toml.write_text(before.replace("[roots.data]", "[roots.scans]"))
    report = cohort.ingest(tmp_path / "more", client=client)  # of whatever is said to be taken
    assert (report.listed, report.orphaned) == (4, 4)
    assert cohort.ingest(client=client).new == 4
    ready = [name for name, state in states(cohort).items() if state == "ready"]
    assert sorted({name.split("/")[0] for name in ready}) == ["more", "scans"]
    assert len(ready) == 8
    toml.write_text(before)
    report = cohort.ingest(client=client)
    assert (report.returned, report.orphaned, report.new) == (4, 4, 0)


def test_a_cohort_inside_a_root_takes_no_pictures_of_its_own(
    tmp_path: Path, client: Client
) -> None:
    night(tmp_path / "data", 2)
    cohort = engine.create(tmp_path / "data" / "cohort")
    put(tmp_path / "data" / "cohort" / "qc" / "circles" / "overlay.png", grey(8))
    put(tmp_path / "data" / "qc" / "theirs.png", grey(9))
    assert cohort.ingest(tmp_path / "data", client=client).new == 3
    with pytest.raises(UsageError, match="lies in the cohort itself"):
        cohort.ingest(tmp_path / "data" / "cohort" / "qc", client=client)


def test_what_can_be_no_source_or_cohort_is_said(cohort: engine.Cohort, tmp_path: Path) -> None:
    with pytest.raises(NoSource, match="an empty name"):
        cohort.ingest("")  # of a variable that was never set; else it is the folder one is in
    (tmp_path / "file").write_text("")
    for place in ("file", "file/cohort"):
        with pytest.raises(UsageError, match="is a file"):
            engine.create(tmp_path / place)


@pytest.mark.parametrize(
    ("roots", "problem"),
    [
        ('a = { path = "/d/x" }\nb = { path = "/d/y/../x/" }', "'a' and 'b' are the same place"),
        ('a = { path = "data" }', "'data' is relative"),
        ('a = { path = "/d", layuot = "{name}" }', "did you mean 'layout'.+ Entries: path, layout"),
    ],
)
def test_roots_that_would_be_taken_twice_or_nowhere_are_refused(roots: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_config(f"[roots]\n{roots}\n".encode())


def test_cohort_toml_is_changed_in_the_form_that_it_has(
    cohort: engine.Cohort, tmp_path: Path, client: Client
) -> None:
    night(tmp_path / "data", 1)
    toml = tmp_path / "cohort" / "cohort.toml"
    one = "roots = {}\noperations = { circles = { radius_px = [5, 9] } } # as drawn\n"
    toml.write_bytes(b"\xef\xbb\xbf" + one.encode())  # as some editors begin a file
    cohort.ingest(tmp_path / "data", client=client)
    changed = {"radius_px": (6.0, 9.0), "polarity": "dark"}
    declare_operation(cohort.store, "circles", changed, replace=True)
    assert cohort.config.roots["data"].path == str(tmp_path / "data")
    assert cohort.config.operations == {"circles": {"radius_px": [6.0, 9.0], "polarity": "dark"}}
    assert "# as drawn" in toml.read_text()
    toml.write_text("[operations.circles] # why\nradius_px = [5, 9]\nchannel = 1\n# the next\n")
    declare_operation(cohort.store, "circles", changed, replace=True)
    assert cohort.config.operations == {"circles": {"radius_px": [6.0, 9.0], "polarity": "dark"}}
    assert "# why" in toml.read_text()
    assert "# the next" in toml.read_text()


def test_layouts_and_what_they_do_not_match(tmp_path: Path, client: Client) -> None:
    cohort = engine.create(tmp_path / "cohort", layout="{plate}/{subject}_{name}")
    put(tmp_path / "data" / "run" / "p1" / "s1_a_b.png", grey(1))
    put(tmp_path / "data" / "top.png", grey(2))
    cohort.ingest(tmp_path / "data", client=client)
    rows = catalog(cohort)
    assert dict(rows["data/run/p1/s1_a_b.png"]["fields"]) == {
        "plate": "p1",
        "subject": "s1",
        "name": "a_b",
    }
    assert dict(rows["data/top.png"]["fields"]) == {"name": "top"}
    operation = Counting(log=str(tmp_path / "log"))
    report = cohort.run(operation, client=client, where="plate == 'p1'")
    assert report.published == 1
    report = cohort.run(operation, client=client)
    table = cohort.table(report.tables[1]).set_index("name")
    assert list(table.columns[:4]) == ["date", "subject", "experiment", "plate"]
    assert table.loc["a_b", ["date", "subject", "plate"]].to_list() == ["", "s1", "p1"]
    assert table.loc["top", ["subject", "plate"]].to_list() == ["", ""]


def test_a_root_of_its_own_layout(cohort: engine.Cohort, tmp_path: Path, client: Client) -> None:
    put(tmp_path / "a" / "d1" / "s1" / "e1" / "n.png", grey(1))
    put(tmp_path / "b" / "s2" / "n.png", grey(2))
    cohort.ingest(tmp_path / "a", client=client)
    cohort.ingest(tmp_path / "b", client=client, layout="{subject}/{name}")
    subjects = {dict(row["fields"])["subject"] for row in catalog(cohort).values()}
    assert subjects == {"s1", "s2"}
    toml = (tmp_path / "cohort" / "cohort.toml").read_text()
    assert 'layout = "{subject}/{name}"' in toml
    assert cohort.ingest(tmp_path / "b", client=client, layout="{subject}/{name}").unchanged == 1
    for place in ([tmp_path / "b" / "s2"], []):  # it would be of no use, so nobody waits for it
        with pytest.raises(ConfigError, match="the layout of this source is"):
            cohort.ingest(*place, client=client, layout="{name}")
    (tmp_path / "c").mkdir()
    with pytest.raises(ConfigError, match="placeholders"):
        cohort.ingest(tmp_path / "c", client=client, layout="no braces")


def test_a_layout_may_use_a_tables_words(tmp_path: Path, client: Client) -> None:
    cohort = engine.create(tmp_path / "cohort", layout="{count}/{status}/{source}")
    put(tmp_path / "data" / "five" / "fine" / "here.png", grey(1))
    cohort.ingest(tmp_path / "data", client=client)
    report = cohort.run(Counting(log=str(tmp_path / "log")), client=client)
    row = cohort.table(report.tables[1]).iloc[0]
    assert (row["count"], row["status"], row["source"]) == (1, "done", "data/five/fine/here.png")
    assert row[["field_count", "field_status", "field_source"]].to_list() == [
        "five",
        "fine",
        "here",
    ]
    assert len(cohort.images("field_source == 'here' and count == 'five'")) == 1


def test_spacing_of_a_root_counts_where_a_file_says_none(
    cohort: engine.Cohort, tmp_path: Path, client: Client
) -> None:
    put(tmp_path / "data" / "a.png", grey(1))
    cohort.ingest(tmp_path / "data", client=client)
    toml = tmp_path / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text() + "spacing_um = [0.5, 0.25]\n")
    put(tmp_path / "data" / "b.png", grey(2))
    cohort.ingest(client=client)
    assert catalog(cohort)["data/b.png"]["spacing_y_um"] == 0.5
    assert catalog(cohort)["data/a.png"]["spacing_y_um"] is None
    cohort.ingest(client=client, rehash=True)
    assert catalog(cohort)["data/a.png"]["spacing_x_um"] == 0.25


def test_progress_adds_up(cohort: engine.Cohort, tmp_path: Path, client: Client) -> None:
    class Heard(ProgressListener):
        def __init__(self) -> None:
            self.total: dict[str, int] = {}
            self.ended: dict[str, int] = {}
            self.failed: dict[str, int] = {}

        def start(self, stage: str, total: int, unit: str) -> None:
            self.total[stage] = self.total.get(stage, 0) + total

        def advance(self, stage: str, count: int, failed: int = 0) -> None:
            self.ended[stage] = self.ended.get(stage, 0) + count
            self.failed[stage] = self.failed.get(stage, 0) + failed

    night(tmp_path / "data", 12)
    (tmp_path / "data" / "bad.png").write_bytes(b"")
    heard = Heard()
    cohort.ingest(tmp_path / "data", client=client, events=heard)
    cohort.run(Counting(log=str(tmp_path / "log"), fails=("i3",)), client=client, events=heard)
    assert (
        heard.total
        == heard.ended
        == {
            "headers": 13,
            "pixels": 12,
            "counting": 12,
            "tables": 13,
        }
    )
    assert heard.failed == {"headers": 1, "pixels": 0, "counting": 1, "tables": 0}
