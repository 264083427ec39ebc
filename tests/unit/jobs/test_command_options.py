"""How parameters and cluster options are read off the command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ParameterError, UsageError
from jobs.options import ClusterArguments, read_parameters, read_value

FLOATS = st.floats(0.001, 1e6)


@given(FLOATS, FLOATS)
def test_a_range_is_read_as_two_numbers(low: float, high: float) -> None:
    assert read_value(f"{low!r}:{high!r}") == (low, high)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.25", 0.25), ("true", True), ("bright", "bright"), ("a:b", "a:b"), ("[1]", [1])],
)
def test_other_values_are_json_or_text(text: str, value: object) -> None:
    assert read_value(text) == value


def test_both_ways_of_giving_a_parameter_are_the_same() -> None:
    assert read_parameters(["--radius-px", "1:2", "--min-support=0.3"]) == read_parameters(
        ["--radius-px=1:2", "--min-support", "0.3"]
    )


def test_a_parameter_without_a_value_is_named() -> None:
    with pytest.raises(ParameterError, match="--radius-px"):
        read_parameters(["--radius-px"])


def test_a_stray_word_is_named() -> None:
    with pytest.raises(UsageError, match="'circle'"):
        read_parameters(["circle"])


def test_a_scheduler_and_local_workers_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="workers"):
        ClusterArguments(scheduler="tcp://127.0.0.1:1", workers=2).open()
