"""What a second ingest does: what is as it was is not opened, what is known is not kept again."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from distributed import Client

import engine
from engine.errors import NoSource, NothingFound
from engine.ingest.discovery import RootEmpty
from engine.ingest.report import IngestReport
from engine.store.catalog.index import CatalogIndex
from tests.support.images import (
    Counting,
    catalog,
    computed,
    discs,
    files_below,
    grey,
    night,
    put,
    states,
)

_opened: list[str] | None = None


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], (str, bytes)):
        _opened.append(Path(os.fsdecode(arguments[0])).name)


sys.addaudithook(_listen)  # CPython tells it of every file opened by any thread of the process


@contextmanager
def opens() -> Iterator[list[str]]:
    """Collect the names of all files that this process opens, its workers' threads included."""
    global _opened
    _opened = found = []
    try:
        yield found
    finally:
        _opened = None


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def take(cohort: engine.Cohort, data: Path, client: Client) -> Callable[..., IngestReport]:
    def ingest(**options: Any) -> IngestReport:
        report = cohort.ingest(data, client=client, **options)
        assert report.left == 0
        return report

    return ingest


@pytest.fixture
def count(cohort: engine.Cohort, tmp_path: Path, client: Client) -> Callable[[], list[str]]:
    """Run the counting operation; return the sources that were computed."""

    def run() -> list[str]:
        report = cohort.run(Counting(log=str(tmp_path / "log")), client=client)
        assert report.published == report.planned
        return computed(tmp_path / "log")

    return run


def test_unchanged_files_are_not_opened(take: Callable[..., IngestReport], data: Path) -> None:
    paths = night(data)
    (data / "broken.png").write_bytes(b"text")
    names = {path.name for path in paths} | {"broken.png"}
    with opens() as found:
        take()
    assert names <= set(found)
    with opens() as found:
        report = take()
    assert not names & set(found)
    assert found  # the hook heard the store's own files
    assert (report.listed, report.unchanged, report.new, report.failed) == (5, 5, 0, 0)


def test_rehash_opens_all_and_changes_nothing(
    take: Callable[..., IngestReport],
    cohort: engine.Cohort,
    data: Path,
    count: Callable[[], list[str]],
) -> None:
    paths = night(data)
    take()
    assert len(count()) == 4
    before, stored = catalog(cohort), files_below(cohort, "pixels")
    with opens() as found:
        report = take(rehash=True)
    assert {path.name for path in paths} <= set(found)
    assert (report.touched, report.new, report.changed) == (4, 0, 0)
    assert files_below(cohort, "pixels") == stored
    after = catalog(cohort)
    for image_id, row in before.items():
        left = {"version", "ingest"}
        assert {k: v for k, v in after[image_id].items() if k not in left} == {
            k: v for k, v in row.items() if k not in left
        }
    assert count() == []


@pytest.mark.parametrize("years", [-10, 10])
def test_a_touched_file_is_the_same_image(
    take: Callable[..., IngestReport],
    cohort: engine.Cohort,
    data: Path,
    count: Callable[[], list[str]],
    years: int,
) -> None:
    path = night(data)[0]
    take()
    count()
    stored = files_below(cohort, "pixels")
    then = path.stat().st_mtime + years * 365.25 * 86400
    os.utime(path, (then, then))
    report = take()
    assert (report.touched, report.unchanged, report.new) == (1, 3, 0)
    assert files_below(cohort, "pixels") == stored
    assert catalog(cohort)["data/d1/s0/e1/i0.png"]["mtime_ns"] == path.stat().st_mtime_ns
    assert take().unchanged == 4
    assert count() == []


def test_a_changed_file_is_a_new_version_and_only_it_recomputes(
    take: Callable[..., IngestReport],
    cohort: engine.Cohort,
    data: Path,
    count: Callable[[], list[str]],
) -> None:
    path = night(data)[1]
    take()
    count()
    stat = path.stat()
    put(path, grey(99))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # ctime still tells
    report = take()
    assert (report.changed, report.new, report.unchanged) == (1, 0, 3)
    row = catalog(cohort)["data/d1/s1/e1/i1.png"]
    assert (row["version"], row["state"]) == (2, "ready")
    assert np.array_equal(cohort.images().by_id(row["image_id"]).values[0], grey(99))
    assert count() == ["data/d1/s1/e1/i1.png"]
    put(path, grey(1))  # back to what it was: its result is still there
    take()
    assert np.array_equal(cohort.images().by_id(row["image_id"]).values[0], grey(1))
    assert count() == []


def test_duplicates_share_pixels_and_results(
    take: Callable[..., IngestReport],
    cohort: engine.Cohort,
    data: Path,
    count: Callable[[], list[str]],
    client: Client,
    tmp_path: Path,
) -> None:
    put(data / "a.png", discs(1))
    take()
    stored = files_below(cohort, "pixels")
    assert count() == ["data/a.png"]
    put(data / "A-later-name-but-first.png", discs(1))
    put(data / "z.png", discs(1))
    report = take()
    assert (report.new, report.duplicates) == (2, 2)
    assert files_below(cohort, "pixels") == stored
    rows = catalog(cohort)
    assert rows["data/a.png"]["duplicate_of"] is None
    assert rows["data/z.png"]["duplicate_of"] == "data/a.png"
    assert rows["data/A-later-name-but-first.png"]["duplicate_of"] == "data/a.png"
    assert cohort.plan(Counting(log=str(tmp_path / "log"))).causes == {"copy": 2}
    assert count() == []
    (name,) = [n for n in cohort.tables() if n.startswith("counting_by_image")]
    table = cohort.table(name)
    assert len(table) == 3
    assert table["mean_mean"].nunique() == 1
    for found in cohort.images():
        assert np.array_equal(found.values[0], discs(1))


def test_duplicates_of_one_ingest_are_computed_once(
    take: Callable[..., IngestReport],
    cohort: engine.Cohort,
    data: Path,
    count: Callable[[], list[str]],
) -> None:
    for n in range(20):
        put(data / f"i{n:02d}.png", grey(n % 4))
    report = take()
    assert (report.new, report.duplicates) == (20, 16)
    originals = [r for r in catalog(cohort).values() if r["duplicate_of"] is None]
    assert len(originals) == 4
    assert len({(r["stack"], r["t"]) for r in catalog(cohort).values()}) == 4
    assert len(count()) == 4
    # Shards of which nothing was used are gone, and a whole stack reads as far as it is kept.
    for node in cohort.stacks().children.values():
        assert node["0"]["pixels"].values.shape[0] == 20


def test_a_copy_of_what_an_image_once_was(
    take: Callable[..., IngestReport], data: Path, count: Callable[[], list[str]]
) -> None:
    path = put(data / "a.png", grey(1))
    take()
    count()
    put(path, grey(2))
    take()
    assert count() == ["data/a.png"]
    put(data / "b.png", grey(1))  # the older result of a.png is for these pixels
    take()
    assert count() == []


def test_a_moved_folder_is_recognised(
    take: Callable[..., IngestReport],
    cohort: engine.Cohort,
    data: Path,
    count: Callable[[], list[str]],
) -> None:
    night(data)
    take()
    count()
    stored = files_below(cohort, "pixels")
    (data / "d1").rename(data / "d2")
    report = take()
    assert (report.new, report.duplicates, report.orphaned) == (4, 4, 4)
    assert files_below(cohort, "pixels") == stored
    assert sorted(states(cohort).values()) == ["orphaned"] * 4 + ["ready"] * 4
    assert count() == []


def test_a_vanished_source_is_orphaned_and_comes_back(
    take: Callable[..., IngestReport],
    cohort: engine.Cohort,
    data: Path,
    tmp_path: Path,
    client: Client,
    count: Callable[[], list[str]],
) -> None:
    path = night(data)[0]
    take()
    count()
    path.rename(tmp_path / "aside.png")
    report = take()
    assert report.orphaned == 1
    assert states(cohort)["data/d1/s0/e1/i0.png"] == "orphaned"
    assert take().orphaned == 0  # said once
    assert count() == []
    (name,) = [n for n in cohort.tables() if n.startswith("counting_by_image")]
    table = cohort.table(name).set_index("image_id")
    assert len(table) == 4
    assert table["orphaned"].to_dict() == {
        image_id: image_id == "data/d1/s0/e1/i0.png" for image_id in table.index
    }
    assert table["status"].eq("done").all()
    assert len(cohort.images()) == 4
    (tmp_path / "aside.png").rename(path)  # rename changes ctime, so it is opened, and the same
    report = take()
    assert report.returned + report.touched == 1
    assert states(cohort)["data/d1/s0/e1/i0.png"] == "ready"
    assert count() == []
    assert not cohort.table(name)["orphaned"].any()


def test_a_folder_that_was_away_returns_unopened(
    take: Callable[..., IngestReport], cohort: engine.Cohort, data: Path
) -> None:
    paths = night(data)
    take()
    (data / "d1").rename(data.parent / "away")
    put(data / "other.png", grey(50))
    assert take().orphaned == 4
    (data.parent / "away").rename(data / "d1")  # the files' own ctime stays
    with opens() as found:
        report = take()
    assert report.returned == 4
    assert not {path.name for path in paths} & set(found)
    assert set(states(cohort).values()) == {"ready"}


def test_failed_sources_have_rows_and_are_fixed(
    take: Callable[..., IngestReport],
    cohort: engine.Cohort,
    data: Path,
    count: Callable[[], list[str]],
) -> None:
    night(data)
    whole = (data / "d1" / "s0" / "e1" / "i0.png").read_bytes()
    bad = data / "d1" / "s0" / "e1" / "bad.png"
    bad.write_bytes(whole[: len(whole) // 2])
    report = take()
    assert (report.new, report.failed, dict(report.reasons)) == (4, 1, {"truncated": 1})
    row = catalog(cohort)["data/d1/s0/e1/bad.png"]
    assert (row["state"], row["reason"]) == ("failed", "truncated")
    assert row["content"] is None
    assert take().failed == 0  # only what is new counts
    assert len(count()) == 4
    (name,) = [n for n in cohort.tables() if n.startswith("counting_by_image")]
    unreadable = cohort.table(name).set_index("image_id").loc["data/d1/s0/e1/bad.png"]
    assert (unreadable["status"], unreadable["reason"]) == ("unreadable", "truncated")
    assert np.isnan(unreadable["count"])
    put(bad, grey(77))
    take()
    assert states(cohort)["data/d1/s0/e1/bad.png"] == "ready"
    assert count() == ["data/d1/s0/e1/bad.png"]
    assert cohort.table(name)["status"].eq("done").all()


def test_a_source_that_breaks_fails_and_keeps_no_image(
    take: Callable[..., IngestReport], cohort: engine.Cohort, data: Path
) -> None:
    path = night(data)[0]
    take()
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert take().failed == 1
    assert states(cohort)["data/d1/s0/e1/i0.png"] == "failed"
    path.unlink()
    take()
    assert states(cohort)["data/d1/s0/e1/i0.png"] == "retired"


def write_pages(path: Path, pages: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as file:
        for seed in pages:
            file.write(grey(seed), contiguous=False)


def test_a_file_with_fewer_pages(
    take: Callable[..., IngestReport],
    cohort: engine.Cohort,
    data: Path,
    count: Callable[[], list[str]],
) -> None:
    path = data / "pages.tif"
    write_pages(path, [1, 2, 3])
    take()
    assert len(count()) == 3
    write_pages(path, [1, 2])
    report = take()
    assert (report.touched, report.orphaned) == (2, 1)
    assert states(cohort) == {
        "data/pages.tif#0": "ready",
        "data/pages.tif#1": "ready",
        "data/pages.tif#2": "orphaned",
    }
    with opens() as found:
        report = take()
    assert (report.unchanged, report.returned) == (1, 0)
    assert "pages.tif" not in found
    assert states(cohort)["data/pages.tif#2"] == "orphaned"
    write_pages(path, [1])  # one page alone has no number: another image
    take()
    assert {i for i, s in states(cohort).items() if s == "ready"} == {"data/pages.tif"}
    assert count() == []
    write_pages(path, [1, 2, 3])
    take()
    assert {i for i, s in states(cohort).items() if s == "orphaned"} == {"data/pages.tif"}
    assert count() == []
    path.unlink()
    put(data / "other.png", grey(9))
    take()
    assert set(states(cohort).values()) == {"orphaned", "ready"}
    assert states(cohort)["data/other.png"] == "ready"


def test_pages_that_fail_are_replaced_by_their_file(
    take: Callable[..., IngestReport], cohort: engine.Cohort, data: Path
) -> None:
    path = data / "pages.tif"
    write_pages(path, [1, 2])
    whole = path.read_bytes()
    take()
    path.write_bytes(whole[:100])
    take()
    assert states(cohort) == {
        "data/pages.tif": "failed",
        "data/pages.tif#0": "orphaned",
        "data/pages.tif#1": "orphaned",
    }
    path.write_bytes(whole)
    take()
    assert states(cohort) == {
        "data/pages.tif": "retired",
        "data/pages.tif#0": "ready",
        "data/pages.tif#1": "ready",
    }
    assert take().unchanged == 1


def test_an_image_that_becomes_something_else_is_orphaned(
    take: Callable[..., IngestReport], cohort: engine.Cohort, data: Path
) -> None:
    put(data / "kept.png", grey(2))
    path = put(data / "a.png", grey(1)).rename(data / "a.dat")  # claimed by its first bytes
    assert take().new == 2
    path.write_text("no image any more")
    report = take()
    assert (report.ignored, report.orphaned) == (1, 1)
    assert states(cohort)["data/a.dat"] == "orphaned"
    report = take()
    assert (report.orphaned, report.returned) == (0, 0)
    assert states(cohort)["data/a.dat"] == "orphaned"


def test_the_first_ingest_says_when_nothing_is_there(
    take: Callable[..., IngestReport], cohort: engine.Cohort, client: Client
) -> None:
    with pytest.raises(NoSource, match="data"):
        take()
    with pytest.raises(NothingFound, match="names no sources"):
        cohort.ingest(client=client)


def test_a_root_that_is_away_orphans_nothing(
    take: Callable[..., IngestReport], cohort: engine.Cohort, data: Path, client: Client
) -> None:
    night(data)
    take()
    before = states(cohort)
    away = data.rename(data.parent / "away")
    with pytest.raises(NoSource):
        cohort.ingest(client=client)
    assert states(cohort) == before
    data.mkdir()  # an unmounted disk leaves its mount point, empty
    with pytest.raises(RootEmpty, match="mounted"):
        cohort.ingest(client=client)
    assert states(cohort) == before
    data.rmdir()
    away.rename(data)
    assert take().unchanged == 4


@pytest.mark.parametrize("blocked", ["", "d1/s0"])
def test_a_folder_that_cannot_be_listed_orphans_nothing(
    take: Callable[..., IngestReport],
    cohort: engine.Cohort,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    blocked: str,
) -> None:
    night(data)
    take()
    real = os.scandir

    def scandir(place: Any) -> Any:
        # chmod does not keep root out, and tests may run as root.
        if Path(place) == data / blocked:
            raise PermissionError(13, "denied")
        return real(place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        report = take()
        assert (report.orphaned, dict(report.reasons)) == (0, {"unreadable": 1})
        assert sorted(states(cohort).values()) == ["failed", *["ready"] * 4]
        assert take().failed == 0
    assert take().orphaned == 0
    assert sorted(states(cohort).values()) == [*["ready"] * 4, "retired"]


def test_many_pages_are_looked_up_once_each(
    take: Callable[..., IngestReport],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data.mkdir()
    with tifffile.TiffWriter(data / "many.tif") as file:
        for n in range(100):
            page = np.zeros((8, 8), np.uint8)
            page[0, 0] = n
            file.write(page, contiguous=False)
    assert take().new == 100
    rows: list[int] = []
    real = CatalogIndex._row
    monkeypatch.setattr(CatalogIndex, "_row", lambda self, n: rows.append(n) or real(self, n))
    assert take(rehash=True).touched == 100
    assert len(rows) <= 4 * 100  # a look at all pages for each page would be 10,000


def test_the_copy_of_a_tree_needs_no_pixels(
    take: Callable[..., IngestReport], cohort: engine.Cohort, data: Path, client: Client
) -> None:
    night(data)
    take()
    stored = files_below(cohort, "pixels")
    shutil.copytree(data, data.parent / "backup")
    report = cohort.ingest(data.parent / "backup", client=client)
    assert (report.new, report.duplicates) == (4, 4)
    assert files_below(cohort, "pixels") == stored
