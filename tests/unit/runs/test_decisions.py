"""The decision for one image of a plan, from the state of its results and labels."""

from __future__ import annotations

import pyarrow as pa
import pytest

from engine.runs.plan_rows import Decision, KnownResults, PlannedLabels, PlanRow, decide
from engine.store.labels.images import LabelState
from engine.store.pixels.layout import GIANT_SHARD_PX


def row(image_id: str = "a", inputs: str = "x", *, blocks: int = 0, stack: str = "s") -> PlanRow:
    values = dict.fromkeys(PlanRow._fields)
    values |= {
        "image_id": image_id, "inputs": inputs, "giant": blocks > 0, "stack": stack, "shard": 0,
        "t": 0, "height": GIANT_SHARD_PX, "width": max(blocks, 1) * GIANT_SHARD_PX,
    }  # fmt: skip
    return PlanRow(**values)


def known(*rows: tuple[str, str, int | None, str], restored: bool = False) -> KnownResults:
    names = ("image_id", "inputs", "block", "status")
    columns = list(zip(*rows, strict=True)) or [[], [], [], []]
    kinds = (pa.string(), pa.string(), pa.int32(), pa.string())
    table = pa.table(
        {n: pa.array(list(c), k) for n, c, k in zip(names, columns, kinds, strict=True)}
    )
    return KnownResults(table, {("a", "x", None)} if restored else set())


NONE = PlannedLabels(None, True, ())


@pytest.mark.parametrize(
    ("results", "retry", "expected"),
    [
        ([], False, Decision(None, None, [None], {})),
        ([("a", "x", None, "done")], False, Decision("done")),
        ([("a", "x", None, "failed")], False, Decision("failed")),
        ([("a", "x", None, "failed")], True, Decision(None, "retry", [None], {})),
        ([("a", "y", None, "done")], False, Decision(None, None, [None], {})),
        ([("b", "x", None, "done")], False, Decision(None, "copy", [], {None: "b"})),
        ([("b", "x", None, "failed")], False, Decision(None, "copy", [], {None: "b"})),
        ([("b", "x", None, "failed")], True, Decision(None, "retry", [None], {})),
    ],
)
def test_an_image(
    results: list[tuple[str, str, int | None, str]], retry: bool, expected: Decision
) -> None:
    assert decide(row(), known(*results), NONE, retry) == expected


def test_an_image_whose_pixels_are_back_is_computed_again() -> None:
    found = decide(row(), known(("a", "x", None, "failed"), restored=True), NONE, False)
    assert found == Decision(None, "pixels", [None], {})


def test_blocks_of_a_giant_are_decided_one_by_one() -> None:
    results = known(("a", "x", 0, "done"), ("a", "x", 1, "failed"), ("b", "x", 2, "done"))
    assert decide(row(blocks=4), results, NONE, False) == Decision(None, None, [3], {2: "b"})
    retried = decide(row(blocks=4), results, NONE, True)
    assert retried == Decision(None, "retry", [1, 3], {2: "b"})


def test_a_result_is_preferred_to_a_failure_with_the_same_inputs() -> None:
    both = [("b", "x", None, "failed"), ("c", "x", None, "done")]
    for results in (both, both[::-1]):
        assert decide(row(), known(*results), NONE, False).copies == {None: "c"}


def test_labels_are_computed_again_and_reused_only_beside_the_pixels() -> None:
    beside, elsewhere = row("b"), row("c", stack="t")
    state = LabelState(whole=frozenset({("s", 0)}))
    labels = PlannedLabels(state, True, [row(), beside, elsewhere])
    lost = PlannedLabels(LabelState(whole=frozenset()), True, [row()])
    done = known(("a", "x", None, "done"))
    assert decide(row(), done, labels, False) == Decision("done")
    assert decide(row(), done, lost, False) == Decision(None, "labels", [None], {})
    reused = decide(row(), known(("b", "x", None, "done")), labels, False)
    assert reused == Decision(None, "copy", [], {None: "b"})
    found = decide(row(), known(("c", "x", None, "done")), labels, False)
    assert found == Decision(None, None, [None], {})
