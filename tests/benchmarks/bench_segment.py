"""`segment` end to end against the bare network and MONAI's inferer, and its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.kernels.tiling.memory import peak_rss_bytes

TILE, HALO, BATCH = 512, 128, 4
IMAGES = 48
SIDE = 512
TURNS = 2
WIDE = {"short": (2000, 4000), "long": (2000, 16000)}


def _bundle(folder: Path) -> Path:
    import safetensors.torch
    import torch

    from engine.kernels.networks.factory import create_network
    from engine.learning.models.bundle import write_bundle
    from engine.learning.models.card import Card

    torch.manual_seed(0)
    options = {"width": 8}
    weights = safetensors.torch.save(create_network("unet", options, 3, 4).state_dict())
    card = Card(name="b", architecture="unet", options=options, tile_px=TILE, halo_px=HALO)
    return write_bundle(folder / "model", card, weights).directory


def _pixels(shape: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 255, (shape[0] // 8 + 1, shape[1] // 8 + 1, 3))
    return np.kron(coarse, np.ones((8, 8, 1)))[: shape[0], : shape[1]].astype(np.uint8)


def _draw(folder: Path, images: list[NDArray[np.uint8]]) -> None:
    import tifffile

    (folder / "data").mkdir(exist_ok=True, parents=True)
    for n, image in enumerate(images):
        tifffile.imwrite(folder / f"data/i{n}.tif", image, tile=(256, 256), photometric="rgb")


def _cohort(folder: Path, images: list[NDArray[np.uint8]], client: Any, limits: str = "") -> Any:
    import engine

    _draw(folder, images)
    cohort = engine.create(folder / "cohort", layout="{name}")
    with (folder / "cohort" / "cohort.toml").open("a") as toml:
        toml.write(f"\n[limits]\n{limits}\n")
    cohort.ingest(folder / "data", client=client)
    return cohort


def _fastest(**calls: Callable[[], Any]) -> dict[str, float]:
    """Return the least wall-clock and processor seconds of each call, of turns that alternate."""
    found: dict[str, float] = {}
    for _ in range(TURNS):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            for unit, took in (
                ("s", time.perf_counter() - wall),
                ("cpu_s", time.process_time() - cpu),
            ):
                key = f"{name}_{unit}"
                found[key] = min(found.get(key, took), took)
    return found


def rates(folder: Path, client: Any) -> dict[str, float]:
    """Time the bare loop, MONAI's inferer and `segment`, in turns, of the same images and batch."""
    import torch
    from monai.inferers import sliding_window_inference

    import engine
    from engine.learning.models.cache import MODEL_CACHE

    images = [_pixels((SIDE, SIDE), n) for n in range(IMAGES)]
    cohort = _cohort(folder, images, client)
    model = _bundle(folder)
    operation = engine.segment(model=str(model), device="cpu", batch=BATCH)
    _, predictor = MODEL_CACHE.get(str(model), str(operation.weights), "cpu")
    predictor.own_threads(1)
    planes = [np.ascontiguousarray(np.moveaxis(image, 2, 0)) for image in images]

    def bare() -> None:
        for n in range(0, IMAGES, BATCH):
            predictor(np.stack(planes[n : n + BATCH]))

    def theirs() -> None:
        with torch.inference_mode():
            for n in range(0, IMAGES, BATCH):  # it batches windows within what it is given
                pixels = np.stack(planes[n : n + BATCH]).astype(np.float32)
                sliding_window_inference(
                    torch.from_numpy(pixels), SIDE, BATCH,
                    lambda images: torch.from_numpy(predictor(images.numpy())), overlap=0.0,
                ).argmax(1)  # fmt: skip

    turn = 0

    def ours() -> None:
        nonlocal turn
        turn += 1  # another key, so that it is computed again
        again = operation.model_copy(update={"vacuole_radius_px": 11.0 + turn})
        report = cohort.run(again, client=client)
        assert (report.planned, report.failed) == (IMAGES, 0)

    cohort.run(operation, client=client, limit=1)
    found = _fastest(bare=bare, segment=ours, monai=theirs)
    mpx = IMAGES * SIDE * SIDE / 1e6
    return {
        **found,
        "segment_over_bare": found["bare_s"] / found["segment_s"],
        "segment_over_monai": found["monai_s"] / found["segment_s"],
        # Of a machine that others use too: all that is done beside the network, none hidden.
        "segment_over_bare_cpu": found["bare_cpu_s"] / found["segment_cpu_s"],
        "segment_over_monai_cpu": found["monai_cpu_s"] / found["segment_cpu_s"],
        "segment_mpx_per_s": mpx / found["segment_s"],
    }


def count_loads(folder: Path) -> dict[str, int]:
    """Segment small images on a cluster of processes; count units, processes and loads."""
    import engine
    import engine.runs.plan

    images = [_pixels((64, 64), n) for n in range(IMAGES)]
    operation = engine.segment(model=str(_bundle(folder)), device="cpu", batch=BATCH)
    with engine.cluster("local", workers=2, threads_per_worker=1, resources={"GPU": 1}) as cluster:
        client = cluster.client
        cohort = _cohort(folder, images, client, "shard_images = 1")
        before, engine.runs.plan.UNIT_IMAGES = engine.runs.plan.UNIT_IMAGES, 1
        cohort.run(operation, client=client)
        engine.runs.plan.UNIT_IMAGES = before
        loads = list(client.run(_loads).values())
    parts = list((folder / "cohort/results/segment").glob("*/*/*.parquet"))
    workers = {pq.ParquetFile(part).read(["worker"])["worker"][0].as_py() for part in parts}
    return {"units": len(parts), "worker_processes": len(workers), "model_loads": sum(loads)}


def _loads() -> int:
    from engine.learning.models.cache import MODEL_CACHE

    return MODEL_CACHE.loads


def measure_memory(shape: tuple[int, int]) -> None:
    """Segment one giant image in this process, and print the most memory that it took."""
    import engine

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with engine.cluster("local", workers=1, processes=True) as ingesting:
            # Drawn elsewhere, so that the slide as a whole is never in this process.
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "tests.benchmarks.bench_segment",
                    str(folder),
                    *map(str, shape),
                ],
                check=True,
            )
            cohort = _cohort(folder, [], ingesting.client, "giant_bytes = 1000000")
        operation = engine.segment(model=str(_bundle(folder)), device="cpu", batch=BATCH)
        with engine.cluster("local", workers=1, processes=False) as client:
            began = time.perf_counter()
            report = cohort.run(operation, client=client)
            elapsed = time.perf_counter() - began
        assert report.failed == 0
    peak = peak_rss_bytes() / 2**20
    print(json.dumps({"peak_mib": peak, "mpx_per_s": shape[0] * shape[1] / 1e6 / elapsed}))


def _memory() -> dict[str, float]:
    found = {}
    for name, shape in WIDE.items():
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.bench_segment", *map(str, shape)],
            capture_output=True, text=True, check=True, env=os.environ,
        )  # fmt: skip
        told = json.loads(done.stdout.splitlines()[-1])
        found |= {f"{name}_{key}": value for key, value in told.items()}
    return {**found, "long_over_short": found["long_peak_mib"] / found["short_peak_mib"]}


def main() -> dict[str, Any]:
    """Print and return rates and memory."""
    if find_spec("torch") is None or find_spec("monai") is None:
        print("segment: torch or monai is not installed (pip install .[dev])")
        return {}
    import engine

    with (
        tempfile.TemporaryDirectory() as name,
        engine.cluster("local", workers=1, processes=False) as client,
    ):
        figures: dict[str, Any] = {"rates": rates(Path(name), client.client)}
    print(f"segment, {IMAGES} images of {SIDE} x {SIDE}: {json.dumps(figures['rates'])}")
    with tempfile.TemporaryDirectory() as name:
        figures["loads"] = count_loads(Path(name))
    told = figures["loads"]
    print(
        f"segment, model loads = worker processes: {told['model_loads']} = "
        f"{told['worker_processes']}, for {told['units']} units"
    )
    figures["memory"] = _memory()
    print(f"segment, memory: {json.dumps(figures['memory'])}")
    return figures


if __name__ == "__main__":
    if len(sys.argv) == 4:
        _draw(Path(sys.argv[1]), [_pixels((int(sys.argv[2]), int(sys.argv[3])), 0)])
    elif len(sys.argv) == 3:
        measure_memory((int(sys.argv[1]), int(sys.argv[2])))
    else:
        main()
