"""What a step's failure does to the others: nothing, unless nobody is left to do the work."""

from __future__ import annotations

import json
from typing import Any

import pytest
from distributed import Client

import engine
from engine.errors import NoWorkers, SchedulerLost, StoreFull
from jobs.night import Summary, run_nightly

AFTER = ["run circles", "qc circles"]


def night(small: Any, client: Client, **how: Any) -> Summary:
    summary = run_nightly(small.cohort, client, events=engine.ProgressListener(), **how)
    json.dumps(summary.as_json())
    return summary


def test_all_well(small: Any, client: Client) -> None:
    summary = night(small, client)
    assert [(step.step, step.code) for step in summary.steps] == [
        ("ingest sources", 0), ("run circles", 0), ("qc circles", 0),
    ]  # fmt: skip
    assert (small.path / "qc/circles/index.html").is_file()
    assert (summary.exit_code, summary.complete, summary.newly_failed) == (0, True, 0)
    named = {(one["operation"], one["reason"], one["new"]) for one in summary.failures}
    assert named == {("ingest", "truncated", False), ("circles", "channel_needed", False)}
    assert summary.failed_total == 2, "trials are not the job's"


@pytest.mark.parametrize(
    ("error", "others"),
    [
        (StoreFull("/c"), AFTER),
        (KeyError("Jane Doe"), AFTER),
        (SchedulerLost(1, 2), []),
        (NoWorkers(20.0), []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_step_that_fails_is_named(
    small: Any,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    others: list[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(engine.Cohort, "ingest", fail)
    summary = night(small, client)
    first, *rest = summary.steps
    assert (first.code, first.error) == (1, type(error).__name__)
    assert [step.step for step in rest] == others
    assert summary.skipped == [step for step in AFTER if step not in others]
    assert summary.exit_code == 1
    assert first.message
    assert "Jane" not in json.dumps(summary.as_json()), "a fault's text may hold what a file said"


def test_a_cohort_toml_that_can_not_be_read_is_named(small: Any, client: Client) -> None:
    with (small.path / "cohort.toml").open("a") as toml:
        toml.write("\n[operatoins.circles]\n")
    summary = night(small, client)
    assert summary.exit_code == 1
    assert {step.error for step in summary.steps} == {"ConfigError"}
    assert "operatoins" in str(summary.steps[0].message)
