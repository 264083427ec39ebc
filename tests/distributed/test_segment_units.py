"""Faults 3 and 22 with a network: only the worker with the slot computes, with or without kills."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from distributed import Client

import engine
import engine.runs.plan
from engine.errors import NoWorkerForResource
from engine.learning.models.bundle import write_bundle
from engine.learning.models.card import Card
from tests.distributed.processes import kill, wait_for
from tests.support.images import connect_quietly, grey, put
from tests.support.label_operation import read_labels

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of clusters whose workers were killed
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
torch = pytest.importorskip("torch", reason="networks need torch: pip install .[segment]")

UNITS, KILLS = 40, 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import safetensors.torch

    from engine.kernels.networks.factory import create_network

    torch.manual_seed(0)
    weights = safetensors.torch.save(create_network("unet", {"width": 8}, 3, 4).state_dict())
    card = Card(name="n", architecture="unet", options={"width": 8}, tile_px=256, halo_px=128)
    return write_bundle(tmp_path_factory.mktemp("models") / "n", card, weights).directory


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, client: Client) -> engine.Cohort:
    folder = tmp_path_factory.mktemp("segment")
    for n in range(UNITS):
        put(folder / "data" / f"i{n:02d}.png", grey(n, (160, 160, 3)))
    made = engine.create(folder / "cohort", layout="{name}")
    with (folder / "cohort" / "cohort.toml").open("a") as toml:
        toml.write("\n[limits]\nshard_images = 1\n")
    made.ingest(folder / "data", client=client)
    return made


def slot_holder(client: Client) -> tuple[str, int] | None:
    """Return the address and process id of the worker that holds the slot, if any."""
    for address, worker in client.scheduler_info(n_workers=-1)["workers"].items():
        if worker["resources"].get("GPU"):
            found = client.run(os.getpid, workers=[address], on_error="ignore")
            return (str(worker["name"]), found[address]) if address in found else None
    return None


@pytest.mark.fault(3, f"{UNITS} units of a network, its worker killed {KILLS} times")
def test_only_the_worker_with_the_slot_segments_also_after_kills(
    cohort: engine.Cohort, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.runs.plan, "UNIT_IMAGES", 1)
    operation = engine.segment(model=str(model), device="cpu")
    parts = Path(cohort.store.url) / "results" / "segment"
    killed: list[int] = []
    ended = threading.Event()

    def kill_in_turn(client: Client) -> None:
        for turn in range(1, KILLS + 1):
            while len(list(parts.rglob("*.parquet"))) < 7 * turn and not ended.is_set():
                time.sleep(0.05)
            holder = None  # the scheduler may still show one that was killed
            while not ended.is_set() and (holder is None or holder[1] in killed):
                holder = slot_holder(client)
            if holder is not None and not ended.is_set():
                killed.append(holder[1])
                kill(holder[1])

    with connect_quietly(where="local", workers=3) as client:
        holder = wait_for(lambda: slot_holder(client), "a worker with the slot")
        assert holder is not None
        killer = threading.Thread(target=kill_in_turn, args=(client,))
        killer.start()
        try:
            report = cohort.run(operation, client=client)
        finally:
            ended.set()
            killer.join()
    print(f"{len(killed)} kills")
    assert len(set(killed)) == KILLS
    assert (report.planned, report.published, report.failed) == (UNITS, UNITS, 0)
    found = pd.concat(
        pq.ParquetFile(part).read(["image_id", "worker"]).to_pandas()
        for part in parts.rglob("*.parquet")
    )
    assert set(found["worker"]) == {holder[0]}
    assert len(read_labels(cohort, operation)) == UNITS
    assert not cohort.verify().problems
    assert cohort.plan(operation).to_compute == 0


@pytest.mark.fault(22, "a network, and no worker with a slot")
def test_without_a_slot_it_is_refused(cohort: engine.Cohort, model: Path) -> None:
    operation = engine.segment(model=str(model), device="cpu", vacuole_radius_px=9)
    with connect_quietly(where="local", workers=1, processes=False, resources={"CPU": 1}) as client:
        began = time.monotonic()
        with pytest.raises(NoWorkerForResource, match="GPU"):
            cohort.run(operation, client=client)
        assert time.monotonic() - began < 30
