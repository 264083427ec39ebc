"""Fault 25: 200 random walks through all events of a cohort; `make faults` takes 5,000."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from engine.runs.plan import plan_run
from engine.runs.worker import ledger_of
from engine.store.catalog.tables import read_images
from tests.support.cohort_state_machine import Machine

EXAMPLES = 200

STEPS = 5


@pytest.mark.timeout(1800)
def test_a_cohort_is_what_its_model_says() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,  # the same walks each time; other ones are for `make faults`
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{Machine.examples} walks; deaths {dict(Machine.deaths)}, {dict(Machine.damages)}")
    print(f"calls that failed {dict(Machine.failures)}")
    assert Machine.failures["run, told"] + Machine.failures["ingest, told"]
    print(f"power cuts {dict(Machine.cuts)}")
    assert Machine.deaths["run"] + Machine.deaths["ingest"]
    assert Machine.damages.total()
    assert Machine.cuts["harmed"]
    assert Machine.cuts["catalog/images, torn"]


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A state machine for manual steps, with the same teardown as the others."""
    made = Machine()
    yield made
    made.teardown()


def test_a_result_is_preferred_to_an_older_failure_of_the_same_pixels(machine: Machine) -> None:
    machine.create([1])
    machine.sicken_or_heal(1)
    machine.run(1, None, False)
    machine.put("s1/a.png", 2)
    machine.sicken_or_heal(1)
    machine.put("s1/b.png", 1)
    machine.ingest()
    machine.run(1, None, True)  # what failed under another name is tried again
    machine.put("s2/a.png", 1)
    machine.ingest()
    operation = machine._operation(1)
    _, images = read_images(machine.cohort.store)
    ledger = ledger_of(machine.cohort.store, operation)
    rows = ledger.read(ledger.snapshot().of_key(operation.key))
    assert rows["status"].to_pylist().count("failed") == 1
    for order in (range(len(rows)), range(len(rows) - 1, -1, -1)):
        plan = plan_run(operation, images, rows.take(pa.array(order)))
        assert [copy.of for copy in plan.copies] == ["lab/s1/b.png"]


def test_what_a_key_was_made_of_is_missed_once_it_has_a_result(machine: Machine) -> None:
    machine.create([0])
    machine.kill("run", point=5, after=False, scale=1, retry=False, name="s1/a.png", shown=0)
    path = f"results/asked/v1/_keys/{machine._operation(1).key}.json"
    assert (machine.place / path).exists(), "the run died later than this"
    assert path in machine._kept_files(machine.place, delete=False)
    assert path not in machine._kept_files(machine.place, delete=True)
    machine.run(1, None, False)
    assert path in machine._kept_files(machine.place, delete=True)
    kept = (machine.place / path).read_bytes()
    (machine.place / path).unlink()
    assert [p.path for p in machine.cohort.verify().problems] == [path]
    (machine.place / path).write_bytes(kept)
