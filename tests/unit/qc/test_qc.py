"""Pictures of a cohort that was really made: which are made, when again, and what the page says."""

from __future__ import annotations

import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from distributed import Client
from PIL import Image
from typer.testing import CliRunner

import engine
from engine.conditions.tree import ConditionError
from engine.errors import Interrupted, NothingFound
from engine.store.pictures import MONTAGE, OVERLAY, read_picture_index, write_picture_index
from jobs.cli import app
from jobs.messages.core import status_lines
from tests.support.images import discs, put

FOLDER = "qc/circles"


def pictures(place: Path, folder: str = FOLDER) -> dict[str, int]:
    """Return the pictures there are, with the times at which they were written."""
    top = place / folder
    return {str(p.relative_to(top)): p.stat().st_mtime_ns for p in top.rglob("*.jpg")}


class Page(HTMLParser):
    """What a page holds: texts, links, the names of all elements."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.elements: list[str] = [""]
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        values = dict(attrs)
        assert not any(name.startswith("on") for name in values)
        self.links += [v for n in ("href", "src") if (v := values.get(n)) and v[0] != "#"]

    def handle_data(self, data: str) -> None:
        if self.elements[-1] not in ("style", "script"):
            self.text += data + "\n"


def page_of(place: Path, folder: str = FOLDER) -> Page:
    """Read a page, all of whose links lead to files beside it."""
    page = Page(place / folder / "index.html")
    for link in page.links:
        assert "://" not in link
        assert not link.startswith("/")
        assert (place / folder / unquote(link)).is_file(), link
    return page


def test_every_image_has_a_picture_and_a_second_call_makes_nothing(
    small: Any, client: Client
) -> None:
    first = small.cohort.qc("circles", client=client)
    # Seven images with a result (one of them failed), and a montage of the one experiment that
    # has circles; the broken source has no pixels.
    assert (first.images, first.shown, first.made, first.failed) == (8, 7, 8, 0)
    assert first.page_made
    before = pictures(small.path)
    page = page_of(small.path)
    assert "broken.png" in page.text
    assert "The file ends before its image does." in page.text
    assert "channel needed" in page.text
    assert page.elements.count("svg") == 4
    noted = read_picture_index(small.cohort.store, FOLDER)
    rows = small.cohort.table("circles_by_image").set_index("image_id")
    for (kind, name), picture in noted.items():
        with Image.open(small.path / FOLDER / picture.path) as opened:
            assert opened.size == (picture.width, picture.height)
        if kind == OVERLAY:
            assert picture.outlines == np.nan_to_num(rows.loc[name, "count"])
    (again,) = small.cohort.qc(client=client)
    assert (again.made, again.up_to_date, again.page_made) == (0, 8, False)
    assert pictures(small.path) == before
    assert small.cohort.verify().problems == ()
    assert small.cohort.gc(older_than_s=0, dry_run=True) == ()


def test_only_what_changed_is_made_again_and_gc_takes_the_old_one(
    client: Client, tmp_path: Path
) -> None:
    for n in range(4):
        put(tmp_path / "data" / f"d1/s{n // 2}/e1/i{n}.png", discs(n))
    cohort = engine.create(tmp_path / "c")
    cohort.ingest(tmp_path / "data", client=client)
    cohort.run(engine.circles(radius_px=(8, 24)), client=client)
    assert cohort.qc(client=client)[0].made == 4 + 2
    before = pictures(tmp_path / "c")
    put(tmp_path / "data/d1/s1/e1/i3.png", discs(99))
    cohort.ingest(client=client)
    cohort.run(client=client)
    (report,) = cohort.qc(client=client)
    assert (report.made, report.up_to_date) == (2, 4)  # the image, and its experiment's montage
    after = pictures(tmp_path / "c")
    assert {path: after[path] for path in before} == before  # an open page stays whole
    assert len(after) == len(before) + 3  # overlay, thumbnail, montage
    assert cohort.verify().problems == ()
    gone = {left.path.removeprefix(f"{FOLDER}/") for left in cohort.gc(older_than_s=0)}
    assert gone == set(before) - set(pictures(tmp_path / "c"))
    assert len(gone) == 3
    page_of(tmp_path / "c")
    assert cohort.qc(client=client)[0].made == 0


def test_pictures_that_were_deleted_or_whose_note_is_broken_are_made_again(
    small: Any, client: Client
) -> None:
    cohort = small.cohort
    cohort.qc(client=client)
    names = set(pictures(small.path))
    for folder in ("overlays", "thumbs", "montages"):
        shutil.rmtree(small.path / FOLDER / folder)
    missing = [problem.path for problem in cohort.verify().problems]
    assert {path.removeprefix(f"{FOLDER}/") for path in missing} == names
    assert cohort.qc(client=client)[0].made == 8
    assert set(pictures(small.path)) == names  # the same bytes, so the same names
    note = small.path / FOLDER / ".note"
    note.write_bytes(note.read_bytes()[:-9] + b"123456789")
    assert ".note" in str(cohort.verify().problems)
    assert cohort.gc(older_than_s=0, dry_run=True) == ()  # who knows what it named
    assert cohort.qc(client=client)[0].made == 8
    shutil.rmtree(small.path / "qc")
    assert cohort.qc(client=client)[0].made == 8
    assert cohort.verify().problems == ()


def test_flipped_bits_in_pictures_and_pages_are_named(small: Any, client: Client) -> None:
    small.cohort.qc(client=client)
    broken = [*sorted((small.path / FOLDER).rglob("*.jpg"))[:2], small.path / FOLDER / "index.html"]
    for path in broken:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    named = {problem.path for problem in small.cohort.verify().problems}
    assert named == {str(path.relative_to(small.path)) for path in broken}
    (report,) = small.cohort.qc(client=client)
    assert report.page_made
    assert broken[-1].relative_to(small.path).as_posix() not in {
        problem.path for problem in small.cohort.verify().problems
    }


def test_a_trial_has_a_folder_of_its_own(small: Any, client: Client) -> None:
    report = small.cohort.qc(small.trial, client=client)
    assert report.trial
    folder = f"qc/circles@{small.trial.key[:8]}"
    assert report.page == f"{small.path}/{folder}/index.html"
    assert "a trial" in page_of(small.path, folder).text
    assert not (small.path / FOLDER).exists()
    with pytest.raises(NothingFound, match="cohort run"):
        small.cohort.qc(engine.circles(radius_px=(4, 9)), client=client)
    assert small.cohort.verify().problems == ()


def test_an_interrupted_call_goes_on_where_it_was(small: Any, client: Client) -> None:
    asked = iter([False, False, False])
    with pytest.raises(Interrupted):
        small.cohort.qc(client=client, stop=lambda: next(asked, True))
    done = len(read_picture_index(small.cohort.store, FOLDER))
    assert 0 < done < 8
    (report,) = small.cohort.qc(client=client)
    assert (report.made, report.up_to_date) == (8 - done, done)
    assert small.cohort.verify().problems == ()


def test_what_another_driver_noted_stays_noted(small: Any, client: Client) -> None:
    store = small.cohort.store
    small.cohort.qc(client=client)
    all_of_it = read_picture_index(store, FOLDER)
    one, *others = all_of_it
    mine = {one: all_of_it[one]}
    write_picture_index(store, FOLDER, mine, known={})  # it began when nothing was noted
    assert read_picture_index(store, FOLDER) == all_of_it
    write_picture_index(store, FOLDER, mine, known=all_of_it)
    assert read_picture_index(store, FOLDER) == mine
    assert others


def test_pixels_that_are_damaged_cost_their_own_picture(small: Any, client: Client) -> None:
    images = small.cohort.images().frame
    row = images[images["name"] == "disc-0"].iloc[0]
    shard = small.path / f"pixels/{row['stack']}.zarr/0/c/{int(row['shard'])}/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    (report,) = small.cohort.qc(client=client)
    assert report.reasons == {"corrupt_pixels": report.failed}
    assert report.failed > 0
    assert report.shown < 7
    noted = read_picture_index(small.cohort.store, FOLDER)
    assert (OVERLAY, row["image_id"]) not in noted
    page_of(small.path)
    assert small.cohort.qc(client=client)[0].failed == report.failed  # it is tried again


def test_a_giant_image_is_drawn_from_its_pyramid(client: Client, tmp_path: Path) -> None:
    plane = np.full((2300, 2200), 40, np.uint8)
    y, x = np.ogrid[:2300, :2200]
    for cy, cx in ((500, 600), (1800, 2050), (2047, 1024)):
        plane[(y - cy) ** 2 + (x - cx) ** 2 < 40**2] = 200
    put(tmp_path / "data" / "big.png", plane)
    cohort = engine.create(tmp_path / "c")
    with (tmp_path / "c" / "cohort.toml").open("a") as toml:
        toml.write("\n[limits]\ngiant_bytes = 100000\n")
    cohort.ingest(tmp_path / "data", client=client)
    cohort.run(engine.circles(radius_px=(30, 50)), client=client)
    (report,) = cohort.qc(client=client)
    assert (report.made, report.failed) == (2, 0)
    (picture,) = [
        one for one in read_picture_index(cohort.store, FOLDER).values() if one.kind == OVERLAY
    ]
    assert (picture.outlines, picture.height, picture.scale) == (3, 575, 4.0)
    with Image.open(tmp_path / "c" / FOLDER / picture.path) as opened:
        drawn = np.asarray(opened).astype(int)
    # The ring, in pixels of the picture, is orange: more red than blue.
    orange = drawn[..., 0] - drawn[..., 2] > 60
    rows, columns = np.nonzero(orange)
    away = [np.hypot(rows - cy / 4, columns - cx / 4) for cy, cx in ((500, 600), (1800, 2050))]
    assert np.min(away, axis=0)[rows < 500].size
    assert all((np.abs(found - 10) < 2).sum() > 30 for found in away)


def test_hostile_names_are_only_text(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "<b>d" / '"s&1' / "'e"
    names = ['<script>alert("x")<script>.png', "a&amp;b' onload='x.png", "javascript:x.png"]
    for n, name in enumerate(names):
        put(folder / name, discs(n))
    (folder / "<img src=x onerror=alert(1)>.png").write_bytes(b"")
    for name, pixels in ((b"caf\xe9.png", discs(7)), (b"\xff<i>.png", discs(8))):
        put(tmp_path / "plain.png", pixels)
        shutil.move(tmp_path / "plain.png", os.path.join(os.fsencode(folder), name))  # noqa: PTH118
    cohort = engine.create(tmp_path / "c")
    cohort.ingest(tmp_path / "data", client=client)
    cohort.run(engine.circles(radius_px=(8, 24)), client=client)
    (report,) = cohort.qc(client=client)
    assert report.shown == len(names) + 2
    page = page_of(tmp_path / "c")  # which allows no attributes that run anything
    assert page.elements.count("script") == 1
    assert not {"i", "b>d", "iframe"} & set(page.elements)
    for told in ('<script>alert("x")<script>', "a&amp;b' onload='x", "caf\\xe9", '<b>d · "s&1'):
        assert told in page.text, told
    for path in pictures(tmp_path / "c"):
        assert all(sign.isalnum() or sign in "-_/." for sign in path)


def test_a_condition_chooses_the_overlays(small: Any, client: Client) -> None:
    rows = small.cohort.table("circles_by_image", "count > 1 and name != 'copy'")
    wanted = sorted(rows["image_id"])
    assert 0 < len(wanted) < 6
    where = "count > 1 and name != 'copy'"
    report = small.cohort.qc("circles", client=client, where=where)
    noted = read_picture_index(small.cohort.store, FOLDER)
    assert sorted(name for kind, name in noted if kind == OVERLAY) == wanted
    assert (report.images, report.shown) == (8, len(wanted))
    report = small.cohort.qc("circles", client=client)
    assert report.shown == 7, "the others are made when they are asked for"
    report = small.cohort.qc("circles", client=client, where=where)
    assert (report.shown, report.made) == (7, 0), "and those there are stay"
    with pytest.raises(ConditionError, match=r"did you mean 'count'\?"):
        small.cohort.qc("circles", client=client, where="cuont > 1")
    with pytest.raises(NothingFound, match="fits no image with a result"):
        small.cohort.qc("circles", client=client, where="count > 999")


def test_marks_that_reorder_or_command_are_shown_escaped(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "d\u202e1" / "s\u2066x" / "e1"
    put(folder / "a\u202egnp.exe.png", discs(1))
    put(folder / "b\x1b[31mred.png", discs(2))
    (folder / "c\u200fd.png").write_bytes(b"")
    cohort = engine.create(tmp_path / "c")
    cohort.ingest(tmp_path / "data", client=client)
    toml = tmp_path / "c/cohort.toml"
    toml.write_text('subjects = "s.csv"\n' + toml.read_text())
    (tmp_path / "c/s.csv").write_text("subject,x\ns\u2066x,1\n")
    cohort.run(engine.circles(radius_px=(8, 24)), client=client)
    cohort.qc(client=client)
    text = (tmp_path / "c" / FOLDER / "index.html").read_text()
    for mark in "\u202e\u2066\u200f\x1b":
        assert mark not in text
    for told in (r"a\u202egnp.exe", r"s\u2066x", r"c\u200fd.png", r"b\x1b[31mred"):
        assert told in page_of(tmp_path / "c").text, told
    lines = "\n".join(status_lines(cohort.status()))
    assert "\u200f" in lines, "the engine keeps names as they are"
    said = CliRunner().invoke(app, ["status", str(tmp_path / "c")]).output
    assert r"c\u200fd.png" in said
    assert not {*"\u202e\u2066\u200f\x1b"} & {*said}
    as_json = CliRunner().invoke(app, ["status", str(tmp_path / "c"), "--json"]).output
    assert as_json.isascii()
    assert any("c\u200fd.png" in one["source"] for one in json.loads(as_json)["failed"])


def test_montages_show_objects_of_their_experiment_only(small: Any, client: Client) -> None:
    small.cohort.qc(client=client)
    montages = [n for kind, n in read_picture_index(small.cohort.store, FOLDER) if kind == MONTAGE]
    assert montages == ["d1\ns1\ne1"]


def test_many_overlays_are_on_pages_of_their_experiments(
    small: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.qc.page.experiments.EVERY", 2)
    (report,) = small.cohort.qc(client=client)
    assert report.shown == 7
    page = page_of(small.path)
    own = sorted(link for link in page.links if link.startswith("experiments/"))
    assert len(own) == 2 + 2 + 1  # three images, three and one, two a page
    top = small.path / FOLDER
    shown = []
    for link in own:
        inner = Page(top / link)
        for other in inner.links:
            assert (top / "experiments" / other.split("#")[0]).resolve().is_file()
        shown += [other for other in inner.links if other.startswith("../overlays/")]
    assert len(set(shown)) == len(shown) == 7
    assert small.cohort.verify().problems == ()
    assert small.cohort.gc(older_than_s=0, dry_run=True) == ()
    (again,) = small.cohort.qc(client=client)
    assert (again.made, again.page_made) == (0, False)
    monkeypatch.undo()
    assert small.cohort.qc(client=client)[0].page_made
    assert len(small.cohort.gc(older_than_s=0)) == len(own)
    page_of(small.path)
