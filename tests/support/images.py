"""Images, cohorts and an operation that counts its calls."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import imageio.v3 as iio
import numpy as np
import pyarrow as pa
import tifffile
from distributed import Client
from numpy.typing import NDArray
from pydantic import Field

import engine
from engine.operations.base import Image, ImageFailed, Operation
from engine.store.catalog.tables import read_images
from engine.store.digests import digest_bytes


@contextmanager
def connect_quietly(**how: Any) -> Iterator[Client]:
    """Connect, and ignore the socket that Dask leaks if the dashboard's port is in use."""
    with ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            connected = stack.enter_context(engine.cluster(**how)).client
            gc.collect()
        yield connected


LAYOUT = "{date}/{subject}/{experiment}/{name}"


def grey(seed: int, shape: tuple[int, ...] = (40, 48), dtype: str = "uint8") -> NDArray[Any]:
    """Return noise unique to a seed; its maximum is not 255, so that it can be identified."""
    values = np.random.default_rng(seed).integers(0, 200, shape)
    return values.astype(dtype)


def discs(
    seed: int, shape: tuple[int, int] = (128, 128), radii: tuple[float, ...] = (12.0, 18.0)
) -> NDArray[np.uint8]:
    """Return discs at random positions on faint noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    plane = np.full(shape, 60.0)
    for radius in radii:
        cy, cx = random.uniform(20, shape[0] - 20), random.uniform(20, shape[1] - 20)
        plane[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = 190.0
    return np.clip(plane + random.normal(0, 2, shape), 0, 255).astype(np.uint8)


def put(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """Write an image, making its folder; a TIFF with the options of `tifffile.imwrite`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (tifffile if path.suffix == ".tif" else iio).imwrite(path, pixels, **options)
    return path


def night(folder: Path, count: int = 4, seed: int = 0, **options: Any) -> list[Path]:
    """Write some images of two subjects, in the layout of `LAYOUT`."""
    return [
        put(folder / "d1" / f"s{n % 2}" / "e1" / f"i{seed + n}.png", grey(seed + n, **options))
        for n in range(count)
    ]


def catalog(cohort: engine.Cohort) -> dict[str, dict[str, Any]]:
    """Return the catalog's current rows by image_id."""
    return {row["image_id"]: row for row in read_images(cohort.store)[1].to_pylist()}


def states(cohort: engine.Cohort) -> dict[str, str]:
    """Return the state of each image."""
    return {image_id: row["state"] for image_id, row in catalog(cohort).items()}


def files_below(cohort: engine.Cohort, folder: str) -> dict[str, int]:
    """Return the files of a part of the store with their sizes, without the engine's sidecars."""
    top = Path(cohort.store.url) / folder
    return {
        str(p.relative_to(top)): p.stat().st_size for p in sorted(top.rglob("*")) if p.is_file()
    }


class Counting(Operation):
    """Measure the mean of each image, and append its name to a file."""

    name: ClassVar[str] = "counting"
    object_schema: ClassVar[pa.Schema] = pa.schema([("mean", pa.float64()), ("n", pa.int64())])
    inputs: ClassVar[tuple[str, ...]] = ("content", "spacing", "annotation")
    averaged_columns: ClassVar[tuple[str, ...]] = ("mean",)
    non_key_parameters: ClassVar[frozenset[str]] = frozenset(
        {"log", "annotations", "model", "batch"}
    )

    log: str
    annotations: str | None = None
    model: str | None = None
    batch: int = 1
    copies: int = Field(default=1, ge=0)
    fails: tuple[str, ...] = ()

    @property
    def weights(self) -> str | None:
        """Digest of the model's file."""
        return None if self.model is None else digest_bytes(Path(self.model).read_bytes())

    def extra_input_digest(self, source: str) -> str | None:
        """Digest of the text next to the log that is named like the source."""
        if self.annotations is None:
            return None
        path = Path(self.annotations) / (source.replace("/", "-") + ".txt")
        return digest_bytes(path.read_bytes()) if path.exists() else None

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Return ``copies`` objects with the mean of all pixels."""
        line = f"{image.source}\n".encode()
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line)
        os.close(descriptor)
        if any(part in image.source for part in self.fails):
            raise ImageFailed("asked_to")
        mean = float(image.pixels.mean())
        return {"mean": [mean] * self.copies, "n": np.arange(self.copies)}


class Second(Counting):
    """The same operation in its next version."""

    version: ClassVar[int] = 2


def computed(log: str | Path) -> list[str]:
    """Return the sources computed since the last call, sorted, and reset the list."""
    path = Path(log)
    lines = path.read_text().splitlines() if path.exists() else []
    path.write_text("")
    return sorted(lines)
