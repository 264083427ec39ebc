"""Notebook functions on separate workers: they are pickled, may kill, and may be missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

import engine
from engine.errors import MissingPackage
from tests.distributed.conftest import IMAGES, Lab
from tests.distributed.processes import Cluster

NOTEBOOK = """
import os, signal

def shape(image, deadly: float):
    if float(image.mean()) == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"height": image.shape[1], "mean": float(image.mean())}
"""

PACKAGE = """
import pyarrow as pa
from engine import Operation

class Elsewhere(Operation):
    name = "elsewhere"
    object_schema = pa.schema([("one", pa.float64())])

    def measure(self, image):
        return {"one": [1.0]}

def imported(image):
    return {"one": 1.0}
"""


@pytest.fixture
def connected(session_cluster: Cluster) -> Iterator[Client]:
    with Client(session_cluster.address, set_as_default=False) as client:
        yield client


def test_a_function_travels_and_is_quarantined(shared_lab: Lab, connected: Client) -> None:
    cohort = engine.open(shared_lab.place)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(NOTEBOOK, names)
    deadly = float(cohort.images()[5].values.mean())
    report = cohort.map(
        names["shape"], name="shape", schema={"height": int, "mean": float},
        parameters={"deadly": deadly}, resources={"GPU": 1}, client=connected,
    )  # fmt: skip
    assert (report.published, dict(report.reasons)) == (IMAGES, {"worker_crash": 1})
    table = cohort.table(report.tables[1]).set_index("image_id")
    assert table["status"].value_counts().to_dict() == {"done": IMAGES - 1, "failed": 1}
    assert table.loc[cohort.images()[5].attrs["image_id"], "reason"] == "worker_crash"


def test_a_package_that_the_workers_lack(
    shared_lab: Lab, connected: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import elsewhere  # type: ignore[import-not-found]

    cohort = engine.open(shared_lab.place)
    with pytest.raises(MissingPackage, match="can't import elsewhere"):
        cohort.run(elsewhere.Elsewhere(), client=connected)
    with pytest.raises(MissingPackage, match="can't import elsewhere"):
        cohort.map(elsewhere.imported, name="there", schema={"one": float}, client=connected)
    sys.modules.pop("elsewhere")
    assert not list((shared_lab.place / "results").rglob("*.parquet"))
    assert not cohort.status().failures
