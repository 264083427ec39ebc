"""Images that packages ship: the pixels that Pillow or tifffile give, or a reason that is right.

Those of installed packages are always read. Source archives of others (Pillow's has some 600, many
broken on purpose) are read where they are unpacked below ``packages`` of the shared data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import tifffile
from numpy.typing import NDArray
from PIL import Image

from engine.errors import SourceUnreadable
from engine.sources import open_source
from tests.support.data import shared_data

SUFFIXES = (".png", ".apng", ".tif", ".tiff", ".jpg", ".jpeg")

REFUSED = {
    # CIELab, palette with alpha, and JPEG as TIFF had it before 1995
    **dict.fromkeys(("hopper.Lab.tif", "lab.tif", "lab-green.tif", "lab-red.tif"), "unsupported"),
    "rdf.tif": "unsupported",
    "old-style-jpeg-compression.tif": "unsupported",
    "old-style-jpeg-compression-no-samplesperpixel.tif": "unsupported",
    "hopper_webp.tif": "unsupported",
    # pages in a circle, and what lies behind the end of the file
    "multipage_multiple_frame_loop.tiff": "corrupt",
    "multipage_single_frame_loop.tiff": "corrupt",
    "tiff_tiled_jpeg_oob_read.tif": "corrupt",
    "bad_ifd_offset.tif": "truncated",
    "bad_tag_offset.tif": "truncated",
}
"""What Pillow or tifffile reads and we do not, by name."""


def by_pillow(path: Path, channels: int) -> NDArray[Any] | None:
    """Return the first image as Pillow gives it, turned back to what is stored."""
    try:
        with Image.open(path) as image:
            mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}.get(channels, "L")
            same = image.mode in ("F", "I", "1") or image.mode.startswith("I;")
            pixels = np.asarray(image if same or image.mode == mode else image.convert(mode))
            clear = image.info.get("transparency") if same and channels == 2 else None
    except Exception:
        return None
    pixels = pixels * np.uint8(255) if pixels.dtype == bool else pixels
    if clear is not None:  # one grey value is none, for which Pillow has no such modes
        full = np.iinfo(pixels.dtype).max
        return np.stack([pixels, np.where(pixels == clear, 0, full).astype(pixels.dtype)])
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def by_tifffile(path: Path) -> NDArray[Any] | None:
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            pixels, inverted, bits = page.asarray(), page.photometric == 0, page.bitspersample
    except Exception:
        return None
    pixels = pixels * np.uint8(255) if pixels.dtype == bool else pixels
    if inverted and pixels.dtype.kind == "u":
        pixels = (255 if bits == 1 else 2**bits - 1) - pixels
    return np.moveaxis(pixels, -1, 0) if page.axes == "YXS" else np.atleast_3d(pixels.T).T


def check(folder: Path) -> tuple[int, list[str]]:
    """Return how many were read, and what is wrong with the others or with the pixels."""
    wrong, count = [], 0
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
        try:
            with path.open("rb") as file, open_source(file, path.name) as source:
                found = source.read(0)
        except SourceUnreadable as error:
            others = by_pillow(path, 3), by_tifffile(path)
            read = any(other is not None for other in others)
            if read and REFUSED.get(path.name) != error.reason:
                wrong.append(f"{path.name}: {error}")
            continue
        count += 1
        pillow = by_pillow(path, len(found))
        if pillow is None or (pillow.shape == found.shape and np.array_equal(pillow, found)):
            continue
        if found.dtype == np.uint16 and pillow.dtype == np.uint8:  # Pillow has no 16-bit colours
            scaled = np.stack([found // 256, np.rint(found / 257), found // 257]).astype(int)
            if np.abs(scaled - pillow).max(axis=(1, 2, 3)).min() <= 1:
                continue
        other = by_tifffile(path)  # packed bits unscaled, alpha as stored, orientation not applied
        if other is None or not np.array_equal(other, found):
            wrong.append(f"{path.name}: {found.shape} {found.dtype}, Pillow {pillow.shape}")
    return count, wrong


@pytest.mark.parametrize("package", [skimage])
@pytest.mark.filterwarnings("ignore")
def test_images_of_installed_packages(package: Any) -> None:
    count, wrong = check(Path(package.__file__).parent)
    assert count > 20
    assert not wrong


@pytest.mark.filterwarnings("ignore")
def test_images_of_source_archives() -> None:
    count, wrong = check(shared_data("packages"))
    assert count > 0
    assert not wrong
