"""Progress as people see it: bars that fit a terminal, and sentences in a log."""

from __future__ import annotations

import io
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import jobs.progress
from engine.execution.progress import Stage, format_duration, pluralise
from jobs.progress import LogLines, ProgressBars, console_progress

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def terminal(width: int, **how: object) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    how = {"force_terminal": True, "color_system": "256", "_environ": {}, **how}
    return Console(file=text, width=width, **how), text  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [80, 120])
def test_bars_fit_and_say_all(width: int) -> None:
    console, text = terminal(width)
    bars = console_progress(console)
    assert isinstance(bars, ProgressBars)
    bars.start("circles", 1_234_567, "images")
    bars.advance("circles", 300_000, failed=1_000)
    bars.advance("circles", 45_678, failed=234)
    bars.close()
    lines = [ESCAPES.sub("", line).rstrip() for line in text.getvalue().splitlines()]
    (last,) = {line for line in lines if "1,234 failed" in line}
    assert max(map(len, lines)) <= width
    assert last.startswith("circles")
    assert "345,678/1,234,567 images" in last
    assert re.search(r"[\d.,]+/s", last)
    assert re.search(r"(\d s|min|h \d+ min) left", last)
    assert "…" not in last, "nothing is cut off"


def test_no_colour_where_none_is_wanted() -> None:
    console, text = terminal(80, _environ={"NO_COLOR": "1"})
    bars = console_progress(console)
    bars.start("tables", 2, "images")
    bars.advance("tables", 1, failed=1)
    bars.close()
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", text.getvalue())


def test_a_log_gets_a_sentence_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    lines = console_progress(Console(file=text, soft_wrap=True))
    assert isinstance(lines, LogLines)
    lines.start("circles", 3, "images")
    lines.advance("circles", 1)
    assert text.getvalue() == "", "not yet"
    monkeypatch.setattr(jobs.progress, "LINE_S", 0.0)
    lines.advance("circles", 1, failed=1)
    monkeypatch.undo()
    lines.advance("circles", 1)
    lines.finish("circles")
    lines.start("tables", 0, "images")
    lines.finish("tables")
    first, last = text.getvalue().splitlines()
    assert re.fullmatch(r"circles: 2 of 3 images, [\d.,]+/s, \d.\d s left, 1 failed", first)
    assert re.fullmatch(r"circles: 3 images, [\d.,]+/s, \d.\d s, 1 failed", last)


def test_a_dumb_terminal_is_a_log() -> None:
    console, _ = terminal(80, _environ={"TERM": "dumb"})
    assert isinstance(console_progress(console), LogLines)


def test_a_stage_that_begins_again_goes_on_counting() -> None:
    stage = Stage("pixels", "images")
    for _ in range(2):
        stage.enlarge(5)
        stage.add(5, 0)
        stage.end()
    assert (stage.done, stage.total, stage.running) == (10, 10, False)
    spent = stage.elapsed_s
    assert stage.elapsed_s == spent, "the clock stands still"


def test_the_remaining_time_leaves_out_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the first images end, workers start and kernels compile."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stage = Stage("circles", "images")
    stage.enlarge(100)
    now = 20.0
    stage.add(10, 0)
    assert stage.time == "", "one step gives no rate"
    now = 22.0
    stage.add(20, 0)
    assert (stage.rate, stage.time) == ("10/s", "7.0 s left")
    now = 29.0
    stage.add(70, 0)
    stage.end()
    assert (stage.rate, stage.time) == ("3.45/s", "29 s"), "in the end, all of it counts"


@given(st.integers(0, 10**9), st.floats(0, 10**7))
def test_numbers_read_as_people_say_them(count: int, seconds: float) -> None:
    number, noun = pluralise(count, "images").split()
    assert int(number.replace(",", "")) == count
    assert (noun == "image") == (count == 1)
    said = format_duration(seconds)
    assert re.fullmatch(r"\d\.\d s|\d+ s|\d+ min \d\d s|\d+ h \d\d min", said)
    parts = [float(n) for n in re.findall(r"[\d.]+", said)]
    units = {"s": 1, "min": 60, "h": 3600}
    back = sum(n * units[u] for n, u in zip(parts, re.findall(r"[a-z]+", said), strict=True))
    assert abs(back - seconds) <= (60 if seconds >= 3600 else 1)
