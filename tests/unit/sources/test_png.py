"""PNG: every kind of the standard, against decoders that share no code with ours."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import skimage
from numpy.typing import NDArray
from PIL import Image

from engine.errors import SourceUnreadable
from engine.sources import open_source

DATA = Path(skimage.__file__).parent / "data"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
KINDS = [(c, d, i, t) for c, ds in DEPTHS.items() for d in ds for i in (0, 1) for t in (0, 1)]
ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)
Y, X = 21, 37

COUNT_NONE = """
import io, pathlib, sys
from engine.errors import SourceUnreadable
from engine.sources import open_source

content = pathlib.Path(sys.argv[1]).read_bytes()
failures = 0
for n in range(501):
    if n == 1:  # the first one imported what it needs
        before, failures = sys.getrefcount(None), 0
    try:
        with open_source(io.BytesIO(content), "a.png") as source:
            source.read(0)
    except SourceUnreadable:
        failures += 1
print(failures, before - sys.getrefcount(None))
"""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(
    values: NDArray[Any], depth: int, colour: int, *, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    """Write stored values (y, x, c) as the standard has them, without any library for PNG."""

    def pack(part: NDArray[Any]) -> bytes:
        rows = b""
        for row in part.reshape(part.shape[0], -1):
            if depth == 16:
                body = row.astype(">u2").tobytes()
            else:
                bits = (row[:, None] >> np.arange(depth - 1, -1, -1)) & 1
                body = np.packbits(bits.astype(np.uint8).ravel()).tobytes()
            rows += b"\0" + body
        return rows

    y, x, _ = values.shape
    if interlaced:
        parts = [values[a::c, b::d] for a, b, c, d in ADAM7]
        body = b"".join(pack(part) for part in parts if part.size)
    else:
        body = pack(values)
    header = struct.pack(">IIBBBBB", x, y, depth, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


def read(content: bytes) -> NDArray[Any]:
    with open_source(io.BytesIO(content), "a.png") as source:
        pixels = source.read(0)
        assert (pixels.shape, pixels.dtype.name) == (
            source.planes[0].shape,
            source.planes[0].dtype,
        )
        return pixels


@pytest.mark.parametrize(("colour", "depth", "interlaced", "transparent"), KINDS)
def test_every_kind_of_the_standard(
    colour: int, depth: int, interlaced: int, transparent: int, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = np.random.default_rng(colour * 100 + depth)
    values = chance.integers(0, 2**depth, (Y, X, CHANNELS[colour]))
    scale = 255 // (2**depth - 1) if depth < 8 else 1
    largest = 65535 if depth == 16 else 255
    due, extra = values * scale, b""
    if colour == 3:
        palette = chance.integers(0, 256, (2**depth, 3), np.uint8)
        extra = chunk(b"PLTE", palette.tobytes())
        due = palette[values[..., 0]]
    if transparent and colour in (0, 2, 3):
        if colour == 3:
            extra += chunk(b"tRNS", b"\x07")
            alpha = np.where(values == 0, 7, 255)
        else:
            key = values[3, 5]
            extra += chunk(b"tRNS", b"".join(int(v).to_bytes(2, "big") for v in key))
            alpha = np.where((values == key).all(-1, keepdims=True), 0, largest)
        due = np.dstack([due, alpha])
    content = write_png(values, depth, colour, interlaced=bool(interlaced), extra=extra)
    pixels = read(content)
    assert pixels.dtype == (np.uint16 if depth == 16 else np.uint8)
    assert np.array_equal(pixels, np.moveaxis(due, -1, 0))
    # libpng talks on standard error; only rare kinds of interlaced files may make it do so.
    rare = interlaced and (transparent or depth == 16 or colour == 4)
    assert rare or capfd.readouterr().err == ""


@pytest.mark.parametrize("path", sorted(DATA.glob("*.png")), ids=lambda path: path.name)
def test_real_files_as_pillow_reads_them(path: Path) -> None:
    image = Image.open(path)
    pixels = read(path.read_bytes())
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)  # Pillow reads RGB of 16 bit as 8 bit
    due = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    if due.dtype == bool:
        due = due * np.uint8(255)
    assert np.array_equal(pixels, due[None] if due.ndim == 2 else np.moveaxis(due, -1, 0))


def _coins(**options: Any) -> bytes:
    out = io.BytesIO()
    Image.open(DATA / "coins.png").save(out, "PNG", **options)
    return out.getvalue()


def test_every_byte_is_covered_by_a_check() -> None:
    """Each of 200 random flips, and each of the last 40 bytes: a name, or equal pixels."""
    content = _coins()
    due = read(content)
    chance = random.Random(5)
    spots = [chance.randrange(len(content)) for _ in range(200)]
    spots += range(len(content) - 40, len(content))
    names = set()
    for at in spots:
        flipped = bytearray(content)
        flipped[at] ^= 1 << chance.randrange(8)
        try:
            assert np.array_equal(read(bytes(flipped)), due)
        except SourceUnreadable as error:
            names.add(error.reason)
    assert names <= {"corrupt", "truncated", "not_an_image", "too_large"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c[:-12], "truncated"),  # IEND is gone, all pixels are there
        (lambda c: c[:-1], "truncated"),
        (lambda c: c[:20], "truncated"),
        (lambda c: c[:8] + c[33:], "corrupt"),  # no IHDR
        (lambda c: c[:33] + chunk(b"IEND", b""), "corrupt"),  # no IDAT
        (lambda c: c[:33] + chunk(b"ABCD", b"") + c[33:], "corrupt"),  # critical, unknown
    ],
)
def test_broken_structure_is_named(change: Any, reason: str) -> None:
    content = write_png(np.zeros((Y, X, 1), int), 8, 0)
    with pytest.raises(SourceUnreadable) as caught:
        read(change(content))
    assert caught.value.reason == reason


@pytest.mark.parametrize("lost", [1, 40, 400])
@pytest.mark.parametrize("interlaced", [False, True])
def test_pixels_missing_inside_a_sound_file(lost: int, interlaced: bool) -> None:
    """All checksums hold, but the compressed data ends early."""
    content = write_png(np.full((Y, X, 1), 9), 8, 0, interlaced=interlaced)
    start = content.index(b"IDAT") - 4
    body = zlib.decompress(content[start + 8 : -16])
    short = content[:start] + chunk(b"IDAT", zlib.compress(body[:-lost])) + chunk(b"IEND", b"")
    with pytest.raises(SourceUnreadable) as caught:
        read(short)
    assert caught.value.reason == "corrupt"


def test_bytes_after_the_end_are_ignored() -> None:
    content = _coins()
    assert np.array_equal(read(content + b"trailing"), read(content))


def test_ancillary_chunks_change_nothing() -> None:
    values = np.random.default_rng(0).integers(0, 256, (Y, X, 3))
    plain = write_png(values, 8, 2)
    extra = b"".join(
        (
            chunk(b"gAMA", struct.pack(">I", 100_000)),
            chunk(b"sBIT", b"\5\6\5"),
            chunk(b"bKGD", b"\0\1\0\2\0\3"),
            chunk(b"tEXt", b"Comment\0secret"),
            chunk(b"iCCP", b"profile\0\0" + zlib.compress(os.urandom(5000))),
        )
    )
    assert len(extra) > 4096  # the header does not fit the first read
    assert np.array_equal(read(write_png(values, 8, 2, extra=extra)), read(plain))


@pytest.mark.parametrize(
    ("x", "y", "unit", "spacing"),
    [
        (4_000_000, 2_000_000, 1, (0.5, 0.25)),
        (2835, 2835, 1, None),  # 72 dpi
        (11811, 11811, 1, None),  # 300 dpi
        (2, 1, 0, None),  # an aspect ratio
        (0, 0, 1, None),
    ],
)
def test_spacing(x: int, y: int, unit: int, spacing: tuple[float, float] | None) -> None:
    extra = chunk(b"pHYs", struct.pack(">IIB", x, y, unit))
    content = write_png(np.zeros((Y, X, 1), int), 8, 0, extra=extra)
    assert open_source(io.BytesIO(content), "a.png").planes[0].spacing_um == spacing


@pytest.mark.parametrize(
    ("scale", "spacing"),
    [
        (b"\x012.5e-7\x005e-7", (0.5, 0.25)),  # metres: width, then height
        (b"\x022.5e-7\x005e-7", (12.5, 12.5)),  # radians; the density counts
        (b"\x01-1\x001", (12.5, 12.5)),
        (b"\x01nan\x001", (12.5, 12.5)),
        (b"\x011e-6", (12.5, 12.5)),
        (b"\x01\xff\x001", (12.5, 12.5)),
        (b"", (12.5, 12.5)),
    ],
)
def test_the_size_of_a_pixel_on_the_subject(scale: bytes, spacing: tuple[float, float]) -> None:
    density = chunk(b"pHYs", struct.pack(">IIB", 80_000, 80_000, 1))
    for extra in (density + chunk(b"sCAL", scale), chunk(b"sCAL", scale) + density):
        content = write_png(np.zeros((Y, X, 1), int), 8, 0, extra=extra)
        plane = open_source(io.BytesIO(content), "a.png").planes[0]
        assert plane.spacing_um == pytest.approx(spacing)


def test_the_codec_alone_would_not_notice() -> None:
    """Why checksums are checked here: libpng leaves out a chunk of alpha that is damaged."""
    palette = chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", b"\x07\x08")
    content = bytearray(write_png(np.zeros((Y, X, 1), int), 2, 3, extra=palette))
    assert read(bytes(content)).shape[0] == 4
    content[content.index(b"tRNS") + 4] ^= 1
    assert imagecodecs.png_decode(bytes(content)).shape[-1] == 3
    with pytest.raises(SourceUnreadable, match="corrupt"):
        read(bytes(content))


def test_failures_of_the_codec_do_not_wear_the_process_down(tmp_path: Path) -> None:
    """libpng's failures cost imagecodecs a reference to None; 3.11 aborts when all are gone.

    Counted in a process of its own: here, what other tests left to the garbage collector counts.
    """
    content = write_png(np.zeros((Y, X, 1), int), 8, 0)
    start = content.index(b"IDAT") - 4
    short = content[:start] + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    (tmp_path / "short.png").write_bytes(short)
    done = subprocess.run(
        [sys.executable, "-c", COUNT_NONE, str(tmp_path / "short.png")],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    failures, lost = map(int, done.stdout.split())
    assert failures == 500
    assert lost < 100


@pytest.mark.parametrize("turned", [1, 3, 6])
def test_orientation_is_told_and_not_applied(turned: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    pixels = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", exif=exif)
    with open_source(out, "a.png") as source:
        plane, found = source.planes[0], source.read(0)
    assert np.array_equal(found[0], pixels)
    assert plane.orientation == turned
    assert plane.findings == (("oriented",) if turned > 1 else ())
