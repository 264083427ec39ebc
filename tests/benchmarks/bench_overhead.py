"""What the engine costs beside the work itself: ingest and run against bare loops.

Both sides run in turn on the same machine, with the same number of processes, so that the ratios
hold when its speed drifts. Where others use the machine, time that passes says little; the ratio
of CPU seconds, of all processes together over the kernel's, then still says what the engine adds.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import psutil
import zarr
from distributed import Client
from zarr.storage import LocalStore

import engine
from engine.operations.base import Image
from engine.phantoms import DiscOptions, write_discs
from engine.store.digests import digest_plane
from engine.store.pixels.zarr_arrays import PIPELINE, pixel_codecs

IMAGES = 2_000
SIDE_PX = 512
SHARD_IMAGES = 64
RADIUS_PX = (8.0, 43.0)
PROCESSES = 2
ROUNDS = 3
SAMPLE = 200
"""Images whose kernel time is taken in a plain process; the same set is much larger than caches."""


def bare_shard(task: tuple[str, int, Sequence[str]]) -> int:
    """Decode files, digest their pixels and write them as one shard."""
    folder, number, paths = task
    block = np.empty((len(paths), 1, SIDE_PX, SIDE_PX), np.uint8)
    digests = []
    for n, path in enumerate(paths):
        block[n, 0] = imagecodecs.png_decode(Path(path).read_bytes())
        digests.append(digest_plane(block[n]))
    with zarr.config.set(PIPELINE):
        array = zarr.open_array(LocalStore(Path(folder) / "0"), mode="r+")
        start = number * SHARD_IMAGES
        array[start : start + len(paths)] = block
    return len(digests)


def bare_ingest(pool: ProcessPoolExecutor, paths: Sequence[str]) -> float:
    """Time the bare loop, seconds."""
    folder = tempfile.mkdtemp()
    began = time.perf_counter()
    zarr.create_array(
        LocalStore(Path(folder) / "0"),
        shape=(len(paths), 1, SIDE_PX, SIDE_PX),
        chunks=(1, 1, SIDE_PX, SIDE_PX),
        shards=(SHARD_IMAGES, 1, SIDE_PX, SIDE_PX),
        dtype="uint8",
        compressors=pixel_codecs("uint8"),
        fill_value=0,
    )
    starts = range(0, len(paths), SHARD_IMAGES)
    tasks = [(folder, n, paths[i : i + SHARD_IMAGES]) for n, i in enumerate(starts)]
    done = sum(pool.map(bare_shard, tasks))
    elapsed = time.perf_counter() - began
    shutil.rmtree(folder)
    assert done == len(paths)
    return elapsed


def bare_kernel(paths: Sequence[str]) -> tuple[float, float]:
    """Time the operation on arrays in this process, seconds and CPU seconds per image."""
    operation = engine.circles(radius_px=RADIUS_PX)
    images = [Image(imagecodecs.png_decode(Path(p).read_bytes())[None]) for p in paths]
    from engine.kernels.noise import noise_sd

    known = [Image(i.pixels, (noise_sd(i.pixels[0]),)) for i in images]
    operation.measure(known[0])
    began, cpu = time.perf_counter(), time.process_time()
    for image in known:
        operation.measure(image)
    return (
        (time.perf_counter() - began) / len(known),
        (time.process_time() - cpu) / len(known),
    )


def cpu_s() -> float:
    """Return the CPU seconds of this process and all below it, so far."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def warm(client: Client) -> None:
    """Load the engine and its compiled kernels in every worker."""

    def load() -> None:
        import engine

        engine.circles(radius_px=RADIUS_PX)(np.zeros((64, 64), np.uint8))

    client.run(load)


def run_circles(
    cohort: engine.Cohort, client: Client, wider_px: float
) -> tuple[float, float, float]:
    """Time a run from plan to last commit, seconds and CPU seconds, and the tables after it."""
    operation = engine.circles(radius_px=(RADIUS_PX[0], RADIUS_PX[1] + wider_px))
    marks: dict[str, float] = {}

    class Marks(engine.ProgressListener):
        def start(self, stage: str, total: int, unit: str) -> None:
            if stage == "tables":
                marks["committed"], marks["cpu"] = time.perf_counter(), cpu_s()

    began, cpu = time.perf_counter(), cpu_s()
    report = cohort.run(operation, client=client, events=Marks())
    assert report.published == IMAGES
    tables_s = time.perf_counter() - marks["committed"]
    return marks["committed"] - began, marks["cpu"] - cpu, tables_s


def main() -> dict[str, float]:
    """Print a table, and return its figures."""
    source = Path(tempfile.gettempdir()) / f"cohort-bench-discs-{IMAGES}"
    options = DiscOptions(
        images=IMAGES, size=SIDE_PX, placement="separate", noise=0.03, blur_px=1, seed=7
    )
    write_discs(source, options)
    paths = sorted(str(path) for path in source.rglob("*.png"))
    spawn = multiprocessing.get_context("spawn")
    ingests: list[tuple[float, float]] = []
    runs: list[tuple[float, ...]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(PROCESSES, mp_context=spawn) as pool,
        engine.cluster(workers=PROCESSES) as cluster,
    ):
        client = cluster.client
        warm(client)
        bare_ingest(pool, paths[: 2 * SHARD_IMAGES])
        for n in range(ROUNDS):
            bare = bare_ingest(pool, paths)
            cohort = engine.create(Path(folder) / f"cohort-{n}")
            began = time.perf_counter()
            cohort.ingest(source, client=client)
            ingests.append((bare, time.perf_counter() - began))
        cohort.run(engine.circles(radius_px=RADIUS_PX), client=client, limit=8)
        for n in range(ROUNDS):
            before = bare_kernel(paths[:SAMPLE])
            run = run_circles(cohort, client, 0.5 * (n + 1))
            after = bare_kernel(paths[:SAMPLE])
            runs.append((*(sum(pair) / 2 for pair in zip(before, after, strict=True)), *run))
    bare, ours = (statistics.median(side) for side in zip(*ingests, strict=True))
    ratio = statistics.median(bare / ours for bare, ours in ingests)
    kernel, _, elapsed, _, tables = (statistics.median(side) for side in zip(*runs, strict=True))
    over = statistics.median(run / (k * IMAGES / PROCESSES) for k, _, run, _, _ in runs)
    cpu_over = statistics.median(cpu / (k * IMAGES) for _, k, _, cpu, _ in runs)
    figures = {
        "images": IMAGES,
        "bare_ingest_s": bare,
        "ingest_s": ours,
        "ingest_rate_ratio": ratio,
        "kernel_ms": kernel * 1e3,
        "run_s": elapsed,
        "run_over_kernel": over,
        "run_cpu_over_kernel_cpu": cpu_over,
        "tables_s": tables,
    }
    print(f"{IMAGES} images of {SIDE_PX} x {SIDE_PX}, {PROCESSES} processes, median of {ROUNDS}")
    print(f"ingest   bare {bare:6.2f} s   engine {ours:6.2f} s   rate {ratio:.2f} (at least 0.7)")
    print(
        f"circles  kernel {kernel * 1e3:5.2f} ms   run {elapsed:6.2f} s   "
        f"over kernel {over:.2f} (at most 1.2)   tables {tables:.2f} s"
    )
    print(f"         CPU seconds of all processes over the kernel's {cpu_over:.2f}")
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
