"""What a condition means, and how one that is none is refused."""

from __future__ import annotations

import datetime as dt
import time

import pyarrow as pa
import pytest

from engine.conditions.compiling import filter_rows, select_rows
from engine.conditions.parsing import MOST_NESTED, MOST_TERMS, parse_condition
from engine.conditions.tokens import MOST_CHARACTERS
from engine.conditions.tree import ConditionError

NAN = float("nan")
MORNING = dt.datetime(2001, 5, 1, 4)
ROWS = pa.table(
    {
        "subject": ["s1", "007", None, "Müller"],
        "dose": [1.0, None, NAN, 3.0],
        "visits": pa.array([1, None, 3, 4], pa.int32()),
        "smoker": [True, None, False, True],
        "born": [dt.date(2001, 5, 1), None, dt.date(1999, 1, 1), dt.date(2020, 1, 1)],
        "seen": [
            dt.datetime(2001, 5, 1, 4),
            None,
            dt.datetime(1999, 1, 1),
            dt.datetime(2020, 1, 1),
        ],
        "zoned": pa.array([MORNING] * 4, pa.timestamp("ns", "UTC")),
        "clock": pa.array([dt.time(8, 30), dt.time(9), None, dt.time(23)], pa.time32("s")),
        "large": pa.array([0, 2**53 + 1, 2**64 - 1, None], pa.uint64()),
        "single": pa.array([0.1, 1.0, 2.0, None], pa.float32()),
        "site": pa.array(["a", "b", "a", None]).dictionary_encode(),
        "findings": [["x"], [], None, ["y"]],
        "nothing": pa.nulls(4),
        "dose (mg/kg)": [1, 2, 3, 4],
        "in": [1, 2, 3, 4],
    }
)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("subject == '007'", [1]),
        (r'subject == "M\u00fcller"', [3]),
        (r'site != "\ud83e\udec0"', [0, 1, 2, 3]),
        ("subject != 's1'", [1, 2, 3]),
        ("subject == ['s1', '007']", [0, 1]),
        ("subject in ('s1',)", [0]),
        ("subject not in ['s1']", [1, 2, 3]),
        ("subject in []", []),
        ("subject > 's'", [0]),
        ("'s1' == subject", [0]),
        ("dose > 1", [3]),
        ("dose != 1", [1, 2, 3]),
        ("not dose > 1", [0, 1, 2]),
        ("dose is null", [1, 2]),
        ("dose is not null", [0, 3]),
        ("dose in [3, 1.0]", [0, 3]),
        ("dose == dose", [0, 3]),
        ("visits == 3.0", [2]),
        ("visits in [1, 2.5]", [0]),
        ("1 < visits <= 4", [2, 3]),
        ("visits > -1e300", [0, 2, 3]),
        ("visits == dose", [0]),
        ("smoker", [0, 3]),
        ("~smoker", [1, 2]),
        ("not smoker and visits is not null", [2]),
        ("smoker == 1", [0, 3]),
        ("smoker == False", [2]),
        ("smoker is null", [1]),
        ("born >= '2001-05-01'", [0, 3]),
        ("born in ['1999-01-01']", [2]),
        ("seen >= '2001-05-01 04:00'", [0, 3]),
        ("seen == '1999-01-01'", [2]),
        ("zoned == '2001-05-01T06:00+02:00'", [0, 1, 2, 3]),
        ("zoned > '2001-05-01 04:00'", []),
        ("clock >= '09:00'", [1, 3]),
        ("large > 9223372036854775807", [2]),
        ("large == 9007199254740993", [1]),
        ("large > -1", [0, 1, 2]),
        ("single == 0.1", [0]),
        ("single in [0.1, 2]", [0, 2]),
        ("single < 1e300", [0, 1, 2]),
        ("site == 'a'", [0, 2]),
        ("findings is null", [2]),
        ("nothing is null", [0, 1, 2, 3]),
        ("nothing == 5", []),
        ("nothing", []),
        ("`dose (mg/kg)` > 3", [3]),
        ("`in` in [1, 2] | visits == 4 & smoker", [0, 1, 3]),
        ("visits == 1 or visits == 3 and smoker", [0]),
        ("(visits == 1) | (visits == 3)\n", [0, 2]),
        ("visits in [1,\n 3,]", [0, 2]),
    ],
)
def test_what_a_condition_keeps(where: str, kept: list[int]) -> None:
    assert select_rows(ROWS, where).nonzero()[0].tolist() == kept
    assert filter_rows(ROWS, where)["in"].to_pylist() == [n + 1 for n in kept]


@pytest.mark.parametrize(
    ("where", "place", "told"),
    [
        ("subjet == 's1'", "subjet", "there is no column 'subjet'; did you mean 'subject'?"),
        ("subject == s1", "s1", "text is written in quotes"),
        ("subject == 7", "7", "holds text, and can't be compared with a number.*write '7'"),
        ("subject == 007", "007", "write a code in quotes: '007'"),
        ("subject in ['s1', 7]", "7", "holds text"),
        ("dose > '1'", "'1'", "holds numbers.*without quotes"),
        ("dose == true", "true", "holds numbers"),
        ("subject == visits", "subject == visits", "'subject' holds text, but 'visits' holds"),
        ("smoker == 2", "2", "write true or false"),
        ("smoker < true", "true", "have no order"),
        ("born > 2001-05-01", "2001-05-01", "write a date in quotes"),
        ("born > '1.5.2001'", "'1.5.2001'", "holds dates; write e.g. '2001-02-03'"),
        ("born > '2001-02-31'", "'2001-02-31'", "holds dates"),
        ("seen > '2001-02-03T00:00Z'", "'2001-02-03T00:00Z'", "has no time zone"),
        ("findings == 'x'", "'x'", "only: is null"),
        ("dose", "dose", "holds numbers; compare it"),
        ("subject = 's1'", "=", "write == to compare"),
        ("subject ==", "", "something is missing at its end"),
        ("", "", "something is missing"),
        ("'s1'", "'s1'", "a value alone"),
        ("1 == 1", "1 == 1", "no column is named"),
        ("dose + 1 > 2", "+", "nothing is computed"),
        ("dose * 2 > 2", "*", "nothing is computed"),
        ("dose == null", "null", "NAME is null"),
        ("dose in [null]", "null", "or NAME is null"),
        ("subject in 's1'", "'s1'", r"\['s1', 's2'\]"),
        ("subject AND dose", "AND", "write 'and' in lower case"),
        ("~dose == 1", "~dose", "only a column or a value"),
        ("subject == \u2018s1\u2019", "\u2018", "straight quotes"),
        ("subject == 's1", "'", "not closed"),
        ("subject == 's\n1'", "'", "not closed"),
        (r"subject == 'C:\data'", r"\d", r"write \\\\ for a backslash"),
        (r"subject == '\ud800'", r"'\ud800'", "not valid Unicode"),
        ("subject == 'a' 'b'", "'b'", "join conditions"),
        ("dose == 1e999", "1e999", "too large"),
        ("visits == 99999999999999999999", "99999999999999999999", "whole numbers go from"),
        ("visits == 0x10", "0x10", "is not a number"),
        ("subject is 's1'", "'s1'", "else write =="),
        ("(dose > 1", "", "missing at its end"),
        ("dose > 1)", ")", "can't stand here"),
    ],
)
def test_an_error_points_at_the_place(where: str, place: str, told: str) -> None:
    with pytest.raises(ConditionError, match=told) as caught:
        select_rows(ROWS, where)
    text, start, end, _, _ = caught.value.args
    assert text == where
    assert text[start:end] == place
    (sentence,) = str(caught.value).splitlines()
    assert f"(at character {start + 1})" in sentence
    shown, marks = caught.value.pointed.splitlines()
    assert [caught.value.pointed] == caught.value.__notes__, "a traceback shows it"
    assert shown[marks.index("^") :].startswith(place.split("\n")[0])
    assert "Example: --where" in sentence
    assert caught.value.exit_code == 2


ATTACKS = [
    "__import__('os').system('true') == 0",
    "subject.__class__.__init__.__globals__['os'].system('true') == 0",
    "subject.to_csv('marker')",
    "subject.str.contains('s')",
    "@engine.os.system('true')",
    "@__builtins__",
    "lambda: 1",
    "[x for x in subject]",
    "{**subject}",
    "f'{subject}' == 1",
    "subject[0] == 's1'",
    "eval('1') == 1",
    "(subject := 1) == 1",
    "subject == 1; import os",
    "`subject`.`to_csv`('marker')",
    "`__class__` == 1",
    "__class__ == 1",
    "subject == 's1' if dose else 1",
    "sin(dose) > 0",
    "subject == '\x1b[2J'.x",
    "subject == '\\\x1b[2J'",
    "su\u202ebject == 1",
]


@pytest.mark.parametrize("where", ATTACKS)
def test_nothing_but_a_condition_is_taken(where: str) -> None:
    with pytest.raises(ConditionError) as caught:
        select_rows(ROWS, where)
    assert "\x1b" not in str(caught.value) + caught.value.pointed


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("(" * (MOST_NESTED + 1) + "smoker" + ")" * (MOST_NESTED + 1), "nested more than"),
        ("(" * 90_000, "nested more than"),
        ("not " * 20_000 + "smoker", "nested more than"),
        ("~" * 90_000 + "smoker", "nested more than"),
        (" or ".join(["dose > 1"] * (MOST_TERMS + 1)), "more than 1,000 comparisons"),
        (" < ".join(["dose"] * (MOST_TERMS + 2)), "more than 1,000 comparisons"),
        ("smoker" + " " * MOST_CHARACTERS, "characters"),
        ("-" * 90_000 + "1 == dose", "a number stands after"),
        ("subject in [" + "[" * 80_000, "can't stand here"),
        ("`" * 99_999, "can't stand here"),
    ],
)
def test_size_and_depth_are_bounded(where: str, told: str) -> None:
    began = time.process_time()
    with pytest.raises(ConditionError, match=told) as caught:
        select_rows(ROWS, where)
    assert len(f"{caught.value}{caught.value.pointed}") < 2_000, "a long one is shown in part"
    assert time.process_time() - began < 5


def test_the_largest_conditions_are_taken() -> None:
    deep = "(" * MOST_NESTED + "smoker" + ")" * MOST_NESTED
    assert select_rows(ROWS, deep).tolist() == select_rows(ROWS, "smoker").tolist()
    wide = " or ".join(f"visits == {n}" for n in range(MOST_TERMS))
    assert select_rows(ROWS, wide).nonzero()[0].tolist() == [0, 2, 3]
    listed = f"subject in {[f's{n:05}' for n in range(40_000)] + ['007']}"
    assert select_rows(ROWS, listed).nonzero()[0].tolist() == [1]


def test_a_place_in_a_long_condition_is_found() -> None:
    where = f"subject in {[f's{n}' for n in range(2_000)]} and dosis > 1"
    with pytest.raises(ConditionError, match=r"did you mean 'dose'\?") as caught:
        select_rows(ROWS, where)
    shown, marks = caught.value.pointed.splitlines()
    assert shown[marks.index("^") :].startswith("dosis > 1")
    assert len(shown) < 200


def test_a_tree_is_a_value() -> None:
    where = "subject == 's1' and not (dose > 1 or smoker)"
    assert parse_condition(where) == parse_condition(where)
    assert hash(parse_condition(where)) == hash(parse_condition(where))
