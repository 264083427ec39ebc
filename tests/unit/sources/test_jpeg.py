"""JPEG: real files, markers, and what libjpeg would fill with grey."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import skimage
from numpy.typing import NDArray
from PIL import Image, ImageCms

from engine.errors import SourceUnreadable
from engine.sources import open_source
from tests.support.icc import cmyk_icc

DATA = Path(skimage.__file__).parent / "data"


def read(content: bytes) -> NDArray[Any]:
    with open_source(io.BytesIO(content), "a.jpg") as source:
        return source.read(0)


def write(pixels: NDArray[Any], **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def rgb() -> NDArray[np.uint8]:
    return np.asarray(Image.open(DATA / "astronaut.png"))[:96, :130]


@pytest.mark.parametrize("path", sorted(DATA.glob("*.jpg")), ids=lambda path: path.name)
def test_real_files_as_pillow_reads_them(path: Path) -> None:
    due = np.moveaxis(np.asarray(Image.open(path)), -1, 0)
    found = read(path.read_bytes())
    assert found.shape == due.shape
    # Two builds of libjpeg may round differently, by one.
    assert np.abs(found.astype(int) - due).max() <= 1


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [0.6, 0.99])
def test_a_cut_scan_is_truncated_though_the_codec_fills_it(
    rgb: NDArray[np.uint8], progressive: bool, kept: float
) -> None:
    content = write(rgb, progressive=progressive)
    cut = content[: int(len(content) * kept)]
    assert imagecodecs.jpeg8_decode(cut).shape == rgb.shape
    with pytest.raises(SourceUnreadable) as caught:
        read(cut)
    assert caught.value.reason == "truncated"


def test_the_end_of_a_thumbnail_is_not_the_end(rgb: NDArray[np.uint8]) -> None:
    content, small = write(rgb), write(rgb[::4, ::4])
    exif = b"\xff\xe1" + struct.pack(">H", len(small) + 2) + small
    holds = content[:2] + exif + content[2:]
    assert np.array_equal(read(holds), read(content))
    with pytest.raises(SourceUnreadable, match="truncated"):
        read(holds[:-2])


def test_megabytes_of_metadata_before_the_frame(rgb: NDArray[np.uint8]) -> None:
    content = write(rgb)
    segment = b"\xff\xe2" + struct.pack(">H", 65535) + bytes(65533)
    assert np.array_equal(read(content[:2] + segment * 40 + content[2:]), read(content))


def test_fill_bytes_and_trailing_bytes(rgb: NDArray[np.uint8]) -> None:
    content = write(rgb)
    filled = content[:2] + b"\xff\xff" + content[2:] + b"\0trailing"
    assert np.array_equal(read(filled), read(content))


def test_restart_markers(rgb: NDArray[np.uint8]) -> None:
    content = write(rgb, restart_marker_blocks=2)
    assert b"\xff\xd3" in content
    assert read(content).shape == (3, 96, 130)


def test_twelve_bits() -> None:
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    content = imagecodecs.jpeg8_encode(pixels, bitspersample=12, level=100)
    found = read(content)
    assert found.dtype == np.uint16
    assert np.abs(found[0].astype(int) - pixels).max() < 8


def test_inks_become_rgb(rgb: NDArray[np.uint8]) -> None:
    out = io.BytesIO()
    Image.fromarray(rgb).convert("CMYK").save(out, "JPEG", quality=95)
    content = out.getvalue()
    assert b"Adobe" in content, "so its inks are inverted"
    due = np.moveaxis(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")), -1, 0)
    with open_source(io.BytesIO(content), "a.jpg") as source:
        assert source.planes[0].findings == ("cmyk_by_rule",)
        found = source.read(0)
    assert np.abs(found.astype(int) - due).max() <= 1
    # Without Adobe's marker inks are as they are; with its transform, they are YCCK.
    at = content.index(b"\xff\xee")
    plain = content[:at] + content[at + 2 + int.from_bytes(content[at + 2 : at + 4], "big") :]
    inks = 255 - np.asarray(Image.open(io.BytesIO(content)))
    size = inks.shape[1], inks.shape[0]
    again = np.asarray(Image.frombytes("CMYK", size, inks.tobytes()).convert("RGB"))
    assert np.abs(read(plain).astype(int) - np.moveaxis(again, -1, 0)).max() <= 1
    ycck = imagecodecs.jpeg8_encode(
        255 - np.asarray(Image.fromarray(rgb).convert("CMYK")), colorspace="CMYK",
        outcolorspace="YCCK", level=95,
    )  # fmt: skip
    due = np.moveaxis(np.asarray(Image.open(io.BytesIO(ycck)).convert("RGB")), -1, 0)
    assert np.abs(read(ycck).astype(int) - due).max() <= 1


def test_inks_become_rgb_by_their_profile(rgb: NDArray[np.uint8]) -> None:
    out = io.BytesIO()
    Image.fromarray(rgb).convert("CMYK").save(out, "JPEG", icc_profile=cmyk_icc())
    with open_source(io.BytesIO(out.getvalue()), "a.jpg") as source:
        assert source.planes[0].findings == ("cmyk_by_profile",)
        found = source.read(0)
    due = ImageCms.profileToProfile(
        Image.open(out), io.BytesIO(cmyk_icc()), ImageCms.createProfile("sRGB"), outputMode="RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )  # fmt: skip
    assert np.abs(found.astype(int) - np.moveaxis(np.asarray(due), -1, 0)).max() <= 1


def test_lossless_is_refused() -> None:
    content = imagecodecs.ljpeg_encode(np.zeros((16, 16), np.uint8))
    with pytest.raises(SourceUnreadable, match="unsupported"):
        open_source(io.BytesIO(content), "a.jpg")


def test_endless_scans_are_refused(rgb: NDArray[np.uint8]) -> None:
    content = write(rgb[..., 0])
    start = content.index(b"\xff\xda")
    scan = content[start:-2]
    with pytest.raises(SourceUnreadable, match="scans"):
        read(content[:start] + scan * 600 + b"\xff\xd9")


def test_orientation_and_density_are_not_applied(rgb: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = write(rgb, exif=exif, dpi=(300, 300))
    with open_source(io.BytesIO(content), "a.jpg") as source:
        assert source.planes[0].shape == (3, 96, 130)
        assert source.planes[0].spacing_um is None
        assert (source.planes[0].orientation, source.planes[0].findings) == (6, ("oriented",))


@pytest.mark.parametrize("junk", [b"hello", b"\xff\x00\x00\x02", b"\x00\x00\x01"])
def test_what_lies_behind_a_segment_of_a_program_is_skipped(
    rgb: NDArray[np.uint8], junk: bytes
) -> None:
    content = write(rgb, comment=b"no pixels")
    at = content.index(b"no pixels") + 9
    assert np.array_equal(read(content[:at] + junk + content[at:]), read(content))
    tables = content.index(b"\xff\xdb", at) + 2 + 67
    with pytest.raises(SourceUnreadable, match="corrupt"):
        read(content[:tables] + junk + content[tables:])
