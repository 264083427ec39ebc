"""What the readers add to the bare codecs, and what the walk costs: ratios, printed."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import skimage
import tifffile

from engine.sources import open_source
from engine.sources.files import walk_files

pytestmark = pytest.mark.benchmark
CAMERA = Path(skimage.__file__).parent / "data" / "camera.png"


def best_us(work: Callable[[], object], rounds: int = 30) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


def test_png() -> None:
    content = CAMERA.read_bytes()
    with CAMERA.open("rb") as file:
        header = best_us(lambda: open_source(file, "a.png"), 300)
        ours = best_us(lambda: open_source(file, "a.png").read(0))
    bare = best_us(lambda: imagecodecs.png_decode(content))
    print(
        f"\nPNG 512 x 512: header {header:.0f} us; open and read / bare codec = {ours / bare:.3f}"
    )


def test_tiff() -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (2048, 2048), np.uint16)
    for options in ({}, {"compression": "zlib", "tile": (256, 256)}):
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, **options)
        header = best_us(lambda file=file: open_source(file, "a.tif"), 100)
        ours = best_us(lambda file=file: open_source(file, "a.tif").read(0), 5)
        content = file.getvalue()
        theirs = best_us(
            lambda content=content: tifffile.imread(io.BytesIO(content), maxworkers=1), 5
        )
        print(f"\nTIFF {options}: header {header:.0f} us; ours / tifffile = {ours / theirs:.2f}")


def test_jpeg() -> None:
    content = imagecodecs.jpeg8_encode(imagecodecs.png_decode(CAMERA.read_bytes()))
    file = io.BytesIO(content)
    ours = best_us(lambda: open_source(file, "a.jpg").read(0))
    bare = best_us(lambda: imagecodecs.jpeg8_decode(content))
    print(f"\nJPEG 512 x 512: open and read / bare codec = {ours / bare:.3f}")


def test_walk(tmp_path: Path) -> None:
    for i in range(5000):
        (tmp_path / f"{i}.png").touch()
    print(f"\nwalk: {best_us(lambda: list(walk_files(tmp_path)), 5) / 5000:.1f} us a file")
