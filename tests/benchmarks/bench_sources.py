"""What the readers of files cost beside the bare codecs, and what the walk costs."""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import skimage
import tifffile

from engine.sources import open_source
from engine.sources.locations.folder import walk_files

CAMERA = Path(skimage.__file__).parent / "data" / "camera.png"
FILES = 5_000


def best_us(work: Callable[[], object], rounds: int = 30) -> float:
    """Return the shortest of several times, microseconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


def tiff(**options: object) -> bytes:
    """Return 2048 x 2048 16-bit pixels as a TIFF file."""
    pixels = np.random.default_rng(0).integers(0, 4096, (2048, 2048), np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def main() -> dict[str, float]:
    """Print a table, and return its figures."""
    png = CAMERA.read_bytes()
    jpeg = imagecodecs.jpeg8_encode(imagecodecs.png_decode(png))
    plain, tiled = tiff(), tiff(compression="zlib", tile=(256, 256))

    def imread(content: bytes) -> object:
        return tifffile.imread(io.BytesIO(content), maxworkers=1)

    cases: dict[str, tuple[str, bytes, Callable[[bytes], object], int]] = {
        "png": ("a.png", png, imagecodecs.png_decode, 30),
        "jpeg": ("a.jpg", jpeg, imagecodecs.jpeg8_decode, 30),
        "tiff": ("a.tif", plain, imread, 10),
        "tiff_tiled": ("a.tif", tiled, imread, 10),
    }
    figures: dict[str, float] = {}
    for name, (path, content, bare, rounds) in cases.items():
        file = io.BytesIO(content)
        header = best_us(lambda file=file, path=path: open_source(file, path), 100)
        ours = best_us(lambda file=file, path=path: open_source(file, path).read(0), rounds)
        theirs = best_us(lambda bare=bare, content=content: bare(content), rounds)
        figures |= {f"{name}_header_us": header, f"{name}_over_codec": ours / theirs}
        print(f"{name:10} header {header:5.0f} us   open and read over codec {ours / theirs:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        for n in range(FILES):
            (Path(folder) / f"{n}.png").touch()
        figures["walk_us"] = best_us(lambda: list(walk_files(Path(folder))), 5) / FILES
    print(f"walk       {figures['walk_us']:.1f} us a file")
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
