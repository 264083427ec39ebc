"""What a terminal is given: text of others is shown, and moves, colours and hides nothing."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from engine.errors import NoSource
from engine.pages.rendering import render
from engine.visible import columns_of, visible
from jobs.messages.core import experiments_table
from jobs.output import Output

HOSTILE = [
    ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
    ("\x1b[2Jgone", r"\x1b[2Jgone"),
    ("\x9b31m", r"\x9b31m"),
    ("a\u202egnp.exe", r"a\u202egnp.exe"),
    ("\u2066\u2069\u200f\u061c", r"\u2066\u2069\u200f\u061c"),
    ("zero\u200bwidth\ufeff\u00ad", r"zero\u200bwidth\ufeff\xad"),
    ("\U000e0041tag", r"\U000e0041tag"),
    ("\udcff", r"\udcff"),
    ("back\x08\x7f\rover\x00", r"back\x08\x7f\rover\x00"),
    ("line\u2028par\u2029", r"line\u2028par\u2029"),
    ("[bold]b[/bold]", "[bold]b[/bold]"),
    ("[link=http://x]y[/link]", "[link=http://x]y[/link]"),
    (":smile: [/", ":smile: [/"),
    ("\u05e9\u05dc\u05d5\u05dd M\u00fcller \u5fc3\u81d3 \U0001f469\u200d\U0001f52c",) * 2,
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_all_ways_to_a_terminal_show_it(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Output(as_json=False)
    output.info(f"say {text}")
    output.events.note(f"note {text}")
    output.error(NoSource(f"error {text}"))
    output.result({}, f"result {text}")
    said = capsys.readouterr()
    for way in ("say", "note", "error"):
        assert f"{way} {shown}" in said.err
    assert said.out == f"result {shown}\n"
    row = {"images": 1, "count": 2, "radius_px_mean": 1.0, "radius_px_sd": 0.1,
           "mean_intensity_mean": 9.0, "mean_intensity_sd": 1.0}  # fmt: skip
    frame = pd.DataFrame([{"date": "d", "subject": text, "experiment": "e", **row}], dtype=object)
    output.result({}, experiments_table(frame))
    assert shown in capsys.readouterr().out
    Output(as_json=True).result({"name": text})
    line = capsys.readouterr().out
    assert line.isascii()
    assert line.strip().isprintable()
    assert json.loads(line) == {"name": text}


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_a_page_shows_it(text: str, shown: str) -> None:
    assert visible(text) == shown
    page = render("execution/cluster/cluster.html.jinja", where=f"<i>'{text}", state="", link="")
    assert page.startswith("<b>&lt;i&gt;&#39;")
    assert visible(page, keep="\n") == page
    assert visible(f"{text}\n", keep="\n").endswith("\n")


def test_columns_are_those_of_a_terminal() -> None:
    assert columns_of("Mu\u0308ller \u5fc3") == 9
