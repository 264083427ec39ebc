"""Conditions select the same rows as pandas if both accept them, and execute nothing."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.properties.conditions import ROWS, check, kept

NUMBERS = ("dose", "visits", "height", "serial", "in", "dose (mg)")
TEXTS, TRUTHS = ("subject", "site"), ("giant", "smoker")
PIECES = (
    *"()[],.@`'\"\\=<>~-+*#\n\x1b:",
    *(
        "and",
        "or",
        "not",
        "in",
        "is",
        "null",
        "true",
        "None",
        "==",
        "subject",
        "dose",
        "1e9",
        "007",
    ),
    *("__import__('os')", ".system('true')", ".__class__", "lambda", "import", "f'{1}'"),
)
OPERATORS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])


def column(name: str) -> str:
    """Write a column's name, in backticks if needed."""
    return name if name.isidentifier() and name != "in" else f"`{name}`"


def quoted(text: str) -> str:
    """Write text in quotes."""
    return json.dumps(text, ensure_ascii=False) if "'" in text else f"'{text}'"


texts = st.sampled_from(["s1", "s2", "", "007", "a", "b", "a'b", "Müller", "zz"]).map(quoted)
numbers = st.one_of(st.integers(-3, 600), st.sampled_from([2.5, -2.5, 0.0, 1e300, 3.0])).map(str)
of_text, of_number = (st.sampled_from(names).map(column) for names in (TEXTS, NUMBERS))


def lists(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Write lists, as lists and as tuples."""
    brackets = st.lists(values, max_size=4).map(lambda some: f"[{', '.join(some)}]")
    return st.one_of(
        brackets, st.lists(values, min_size=2).map(lambda some: f"({', '.join(some)})")
    )


def compared(
    names: st.SearchStrategy[str], values: st.SearchStrategy[str]
) -> st.SearchStrategy[str]:
    """Write comparisons of a column with a value, a column, a list, or of several in a chain."""
    side = st.one_of(names, values)
    words = st.sampled_from(["in", "not in", "==", "!="])
    return st.one_of(
        st.tuples(names, OPERATORS, side).map(" ".join),
        st.tuples(values, OPERATORS, names).map(" ".join),
        st.tuples(values, OPERATORS, names, OPERATORS, side).map(" ".join),
        st.tuples(names, words, lists(values)).map(" ".join),
    )


truths = st.one_of(
    st.just("giant"),
    st.tuples(
        st.sampled_from(TRUTHS),
        st.sampled_from(["==", "!="]),
        st.sampled_from(["True", "False", "1", "0", *TRUTHS]),
    ).map(" ".join),
)
terms = st.one_of(compared(of_text, texts), compared(of_number, numbers), truths)
conditions = st.recursive(
    terms,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " or ", " & ", " | "]), inner).map("".join),
        inner.map(lambda one: f"({one})"),
        inner.map(lambda one: f"not {one}"),
        inner.map(lambda one: f"~({one})"),
    ),
    max_leaves=6,
)
soup = st.lists(
    st.one_of(
        conditions,
        st.sampled_from(PIECES),
        st.text(max_size=5),
    ),
    max_size=8,
).map(" ".join)

quick = settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@quick
@given(conditions)
def test_as_pandas_has_it(where: str) -> None:
    taken, _ = check(where)
    assert taken, "each of these is a condition"


@quick
@given(soup)
def test_any_text_is_a_condition_or_refused(where: str) -> None:
    check(where)


def test_pandas_takes_most_of_them() -> None:
    """The comparison with pandas says little if pandas takes little of what is made here."""
    both = []

    @settings(quick, max_examples=200)
    @given(conditions)
    def count(where: str) -> None:
        both.append(check(where)[1])

    count()
    assert sum(both) > 0.8 * len(both), (sum(both), len(both))


def test_what_is_executed_would_be_noticed() -> None:
    from tests.properties.conditions import kept_by_pandas, watched

    attack = "subject.__class__.__init__.__globals__['__builtins__']['__import__']('this') == 0"
    with watched() as seen:
        kept_by_pandas(attack)
        assert seen, "pandas runs it"
    assert kept(attack) is None
    assert ROWS.num_rows == 8
