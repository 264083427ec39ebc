"""Measures of objects against scikit-image's: the same columns, and how much sooner.

Run: python -m tests.benchmarks.bench_measure [OBJECTS]

Both take turns on one image, so that a busy machine slows both alike; a ratio is that of the best
rounds. CPU time of the process stands beside the time that passed. One thread each, compiled
beforehand.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.draw import ellipse
from skimage.measure import regionprops_table

from engine.kernels.objects.extents import object_extents
from engine.kernels.objects.measure import PROPERTIES, SHAPES, measure_objects
from engine.kernels.objects.relations import find_neighbours, parent_labels
from engine.kernels.objects.rings import ring_labels

OBJECTS = 5000
CHANNELS = 3
CELL_PX = 40
ROUNDS = 3

WITHOUT_HULLS = tuple(
    name for name in PROPERTIES if name not in ("solidity", "area_convex", "feret_diameter_max")
)
SETS = {"all": PROPERTIES, "no hulls": WITHOUT_HULLS, "shapes": SHAPES}


def draw(objects: int) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    """Return nuclei, one in each cell of a grid, and channels of noise."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(objects)))
    labels = np.zeros((side * CELL_PX, side * CELL_PX), np.uint32)
    for n in range(objects):
        y, x = (np.array(divmod(n, side)) + rng.uniform(0.4, 0.6, 2)) * CELL_PX
        radii = rng.uniform(8, 20, 2)
        labels[ellipse(y, x, *radii, labels.shape, rng.uniform(-3, 3))] = n + 1
    return labels, rng.integers(0, 4096, (CHANNELS, *labels.shape)).astype(np.uint16)


def grown_mib(call: Callable[[], Any]) -> float:
    """Return by how much the process's memory grows during a call, at most (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget earlier peaks
    before = resident_mib("VmRSS")
    call()
    return resident_mib("VmHWM") - before


def resident_mib(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 2**10


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds that passed, and those of the CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(objects: int = OBJECTS) -> dict[str, Any]:
    """Print and return times and ratios."""
    labels, intensities = draw(objects)
    last = np.moveaxis(intensities, 0, -1)
    figures: dict[str, Any] = {}
    small = draw(4)
    started = timed(lambda: measure_objects(*small, PROPERTIES))
    figures["first_call_s"] = dict(zip(("wall", "cpu"), started, strict=True))
    print(f"measure, first call: {started[0]:.1f} s ({started[1]:.1f} s CPU)")
    figures["memory_mib"] = grown_mib(lambda: measure_objects(labels, intensities, PROPERTIES))
    image_mib = (labels.nbytes + intensities.nbytes) / 2**20
    print(f"measure, {objects} objects: {figures['memory_mib']:.0f} MiB beside {image_mib:.0f} MiB")
    for title, names in SETS.items():
        calls = {
            "engine": lambda names=names: measure_objects(labels, intensities, names),
            "scikit-image": lambda names=names: regionprops_table(labels, last, properties=names),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name].append(timed(call))
        best = {name: np.min(found, axis=0) for name, found in times.items()}
        ratio = best["scikit-image"] / best["engine"]
        figures[title] = {
            **{name: {"wall_s": found[0], "cpu_s": found[1]} for name, found in best.items()},
            "times_scikit_image": {"wall": ratio[0], "cpu": ratio[1]},
        }
        print(
            f"measure, {objects} x {CHANNELS}, {title}: {best['engine'][1]:.3f} s against"
            f" {best['scikit-image'][1]:.2f} s of CPU, {ratio[1]:.0f} times as fast"
            f" ({ratio[0]:.0f} by the clock)",
            flush=True,
        )
    centroids = np.random.default_rng(0).uniform(0, len(labels), (objects, 2))
    others = {
        "extents": lambda: object_extents(labels),
        "rings of 5 px": lambda: ring_labels(labels, 5),
        "neighbours": lambda: find_neighbours(centroids, 2 * CELL_PX),
        "parents": lambda: parent_labels(labels, labels),
    }
    for title, call in others.items():
        call()
        figures[title] = min(timed(call)[1] for _ in range(ROUNDS))
        print(f"{title}: {1e3 * figures[title]:.1f} ms of CPU")
    return figures


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
