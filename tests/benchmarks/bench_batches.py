"""Batches to train on, against reading the files every time and against a bare loop over Zarr."""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr
from numpy.typing import NDArray

import engine
from engine.kernels.contours.geometry import fill_contour
from engine.learning.datasets.batches import Batches
from engine.phantoms.cine.files import write_cine
from engine.phantoms.cine.frames import CineOptions
from engine.store.pixels.zarr_arrays import PIPELINE

OPTIONS = CineOptions(patients=1, slices=4, phases=10, size_px=256, spacing_mm=1.0)
PATIENTS = 32
"""Copies of the drawn patient, each with noise of its own: 1280 frames, 160 MiB of pixels."""

BATCH = 8
BUFFER_BYTES = 16 * 1024**2
MASKS = {"outer": 2, "inner": 1}


def enlarge(folder: Path) -> list[tuple[Path, Path, Path]]:
    """Write the cine of many patients, and return each frame's file and those of its contours."""
    from pydicom import dcmread
    from pydicom.uid import generate_uid

    write_cine(folder / "one", OPTIONS)
    (drawn,) = (folder / "one/contourfiles").iterdir()
    frames = sorted((folder / "one/dicoms").glob("*/*.dcm"))
    links, found = ["patient_id,original_id"], []
    for patient in range(PATIENTS):
        links.append(f"P{patient},O{patient}")
        random = np.random.default_rng(patient)
        shutil.copytree(drawn, folder / f"many/contourfiles/O{patient}")
        (folder / f"many/dicoms/P{patient}").mkdir(parents=True)
        for frame in frames:
            ds = dcmread(frame)
            noise = random.integers(-9, 10, ds.pixel_array.shape)
            ds.PixelData = (ds.pixel_array + noise).astype("<i2").tobytes()
            ds.PatientID = f"P{patient}"
            for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
                setattr(ds, name, generate_uid(entropy_srcs=[str(patient), ds[name].value]))
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            path = folder / f"many/dicoms/P{patient}/{frame.name}"
            ds.save_as(path)
            base = folder / f"many/contourfiles/O{patient}"
            name = f"IM-0001-{int(frame.stem):04d}-{{0}}contour-manual.txt"
            inner, outer = (base / f"{a}-contours" / name.format(a) for a in "io")
            found.append((path, inner, outer))
    (folder / "many/link.csv").write_text("\n".join(links) + "\n")
    return found


def make_cohort(folder: Path) -> engine.Cohort:
    """Ingest the files and their contours."""
    cohort = engine.create(folder / "cohort")
    lines = f'[annotations.manual]\npath = "{folder}/many"\nformat = "sunnybrook"\norigin = 0\n'
    toml = folder / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text() + f"\n{lines}")
    os.environ.setdefault("COHORT_PSEUDONYM_KEY", "a key of the benchmark alone")
    with engine.cluster("local", workers=1, threads_per_worker=2, processes=False) as client:
        report = cohort.ingest(folder / "many/dicoms", client=client)
    assert report.new == PATIENTS * OPTIONS.slices * OPTIONS.phases
    return cohort


def from_files(frames: list[tuple[Path, Path, Path]]) -> Iterator[Any]:
    """Decode files and fill polygons every time, as one does without a store."""
    from pydicom import dcmread

    def ring(path: Path) -> NDArray[np.float64]:
        return np.loadtxt(path)[:, ::-1]

    for begin in range(0, len(frames), BATCH):
        images, masks = [], []
        for path, inner, outer in frames[begin : begin + BATCH]:
            pixels = dcmread(path).pixel_array
            mask = np.zeros(pixels.shape, np.uint8)
            mask[fill_contour([ring(outer)], pixels.shape)] = 2
            mask[fill_contour([ring(inner)], pixels.shape)] = 1
            images.append(pixels)
            masks.append(mask)
        yield np.stack(images)[:, None].astype(np.float32), np.stack(masks)


def from_chunks(arrays: list[zarr.Array[Any]], shards: bool) -> Iterator[Any]:
    """Read pixels as plain Zarr does, a chunk or a shard at a time."""
    waiting: list[NDArray[Any]] = []
    for array in arrays:
        times, _, depth = array.shape[:3]
        step = array.shards[0] if shards else 1
        for t in range(0, times, step):
            if shards:
                box = array[t : t + step]
                waiting += [plane for volume in np.moveaxis(box, 1, 2) for plane in volume]
            else:
                waiting += [array[t, :, z] for z in range(depth)]
            while len(waiting) >= BATCH:
                yield np.stack(waiting[:BATCH]).astype(np.float32)
                waiting = waiting[BATCH:]


def per_second(count: int, ways: dict[str, Callable[[], Iterator[Any]]]) -> dict[str, float]:
    """Return batches a second of CPU of each way, the best of rounds in which they take turns.

    Of CPU, since the files are in the system's cache and the machine may have other work.
    """
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(3):
        for name, way in ways.items():
            start = time.process_time()
            assert sum(1 for _ in way()) == count
            best[name] = min(best[name], time.process_time() - start)
    return {name: count / seconds for name, seconds in best.items()}


def memory(batches: Batches) -> tuple[float, float]:
    """Return what is held when the buffer is full, and at most in three epochs, MiB."""
    own = psutil.Process()
    gc.collect()
    before = own.memory_info().rss
    held: list[int] = []
    for _ in range(3):
        for _batch in batches.numpy():
            held.append(own.memory_info().rss - before)
    full = 2 * BUFFER_BYTES // (BATCH * 3 * OPTIONS.size_px**2)  # batches that fill it twice
    return max(held[:full]) / 2**20, max(held) / 2**20


def main() -> dict[str, float]:
    """Print a table, and return its figures."""
    try:
        import pydicom  # noqa: F401
    except ImportError:
        print("batches: pydicom is not installed (pip install .[dicom])")
        return {}
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frames = enlarge(Path(name))
        cohort = make_cohort(Path(name))
        masked = cohort.batches(masks=MASKS, batch_size=BATCH, buffer_bytes=BUFFER_BYTES)
        full, most = memory(masked)
        plain = cohort.batches(batch_size=BATCH, buffer_bytes=BUFFER_BYTES)
        with zarr.config.set(PIPELINE):
            paths = sorted((Path(name) / "cohort/pixels").glob("*.zarr/0"))
            arrays = [zarr.open_array(path, mode="r") for path in paths]
        rates = per_second(
            len(frames) // BATCH,
            {
                "files": lambda: from_files(frames),
                "chunks": lambda: from_chunks(arrays, shards=False),
                "shards": lambda: from_chunks(arrays, shards=True),
                "ours": plain.numpy,
                "ours_with_masks": masked.numpy,
            },
        )
    figures = {f"{name}_batches_s": rate for name, rate in rates.items()}
    figures |= {
        "with_masks_over_files": rates["ours_with_masks"] / rates["files"],
        "over_chunks": rates["ours"] / rates["chunks"],
        "over_shards": rates["ours"] / rates["shards"],
        "with_masks_over_chunks": rates["ours_with_masks"] / rates["chunks"],
        "buffer_mib": BUFFER_BYTES / 2**20,
        "pixels_mib": len(frames) * 2 * OPTIONS.size_px**2 / 2**20,
        "held_when_full_mib": full,
        "held_at_most_mib": most,
    }
    for name, figure in figures.items():
        print(f"{name:26} {figure:8.2f}")
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
