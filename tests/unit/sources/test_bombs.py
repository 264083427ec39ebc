"""Fault 16: bombs are refused by their header, and the process stays small.

Each bomb is opened in a process of its own (a fork), whose peak memory the system reports.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.support.dicom_bombs import DICOM_BOMBS

MIB = 1024**2
LIMIT = 256 * MIB

PROGRAM = """
import json, os, resource, sys
import imagecodecs, numpy
from engine.errors import SourceUnreadable
from engine.sources import open_source
import engine.sources.png, engine.sources.tiff.reader
import engine.sources.jpeg, engine.sources.dicom.reader

def attempt(path):
    found = []
    with open(path, "rb") as file:
        try:
            with open_source(file, path, max_decoded_bytes=int(sys.argv[1])) as source:
                for i, plane in enumerate(source.planes[:5]):
                    try:
                        found.append(source.read(i).shape)
                    except SourceUnreadable as error:
                        found.append(error.reason)
        except SourceUnreadable as error:
            found.append(error.reason)
    return found

for path in sys.argv[2:]:
    if os.fork() == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = attempt(path)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps({"path": path, "found": found, "grown_kib": grown}), flush=True)
        os._exit(0)
    if os.wait()[1]:
        print(json.dumps({"path": path, "found": ["crash"], "grown_kib": 0}), flush=True)
"""


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _deflate_zeros(count: int) -> bytes:
    squeeze = zlib.compressobj(9)
    parts = [squeeze.compress(bytes(MIB)) for _ in range(count // MIB)]
    return b"".join([*parts, squeeze.compress(bytes(count % MIB)), squeeze.flush()])


def _png(y: int, x: int, extra: bytes = b"", body: bytes | None = None) -> bytes:
    header = struct.pack(">IIBBBBB", x, y, 8, 0, 0, 0, 0)
    data = _deflate_zeros(y * (x + 1)) if body is None else body
    parts = (_chunk(b"IHDR", header), extra, _chunk(b"IDAT", data), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _png_with_text() -> bytes:
    """A small image with 100 texts of 7.9 MB each: libpng takes each for reasonable."""
    text = b"key\0\0" + zlib.compress(bytes(7_900_000), 9)
    profile = _chunk(b"iCCP", text)
    return _png(64, 64, profile + _chunk(b"zTXt", text) * 100)


def _tiff(y: int, x: int, compression: int, data: bytes, *, tile: int = 0) -> bytes:
    """A page whose segments all lie at the same place, which is how a small file claims much."""
    if tile:
        count = -(-y // tile) * -(-x // tile)
        fields = [(322, tile), (323, tile)]
        lists = (324, 325)
    else:
        count, fields, lists = 1, [(278, y)], (273, 279)
    start = 8 + 2 + 12 * 9 + 12 + 4
    fields += [(256, x), (257, y), (258, 8), (259, compression), (262, 1), (277, 1)]
    inline = count == 1
    at = start + len(data)
    entries = [(tag, 4, 1, value) for tag, value in fields]
    entries.append((lists[0], 4, count, start if inline else at))
    entries.append((lists[1], 4, count, len(data) if inline else at + 4 * count))
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    content = b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)
    content = content.ljust(start, b"\0") + data
    if not inline:
        content += struct.pack("<I", start) * count + struct.pack("<I", len(data)) * count
    return content


def _jpeg(y: int, x: int) -> bytes:
    content = bytearray(imagecodecs.jpeg8_encode(np.zeros((64, 64), np.uint8)))
    at = content.index(b"\xff\xc0")
    struct.pack_into(">HH", content, at + 5, y, x)
    return bytes(content)


def _jpeg_in_tiff() -> bytes:
    """A page of 64 x 64 whose only tile is a JPEG of 65,000 x 65,000."""
    return _tiff(64, 64, 7, _jpeg(65_000, 65_000), tile=64)


def _jpeg2000_in_tiff() -> bytes:
    content = bytearray(imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint8), codecformat="j2k"))
    at = content.index(b"\xff\x51")
    struct.pack_into(">II", content, at + 6, 60_000, 60_000)
    return _tiff(64, 64, 34712, bytes(content), tile=64)


def _tags() -> bytes:
    """A page of which one field claims 4 billion values."""
    content = bytearray(_tiff(64, 64, 1, bytes(4096)))
    at = content.index(struct.pack("<HHI", 258, 4, 1))
    struct.pack_into("<I", content, at + 4, 2**32 - 1)
    return bytes(content)


def _entities() -> bytes:
    lines = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    xml = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "lol">{lines}]><OME>&a11;</OME>'
    out = io.BytesIO()
    tifffile.imwrite(out, np.zeros((9, 9), np.uint8), description=xml, metadata=None)
    return out.getvalue()


def _tiles_not_listed() -> bytes:
    """A page of 2**31 x 2**31 pixels in tiles, of which four are listed."""
    content = bytearray(_tiff(128, 128, 8, zlib.compress(bytes(4096)), tile=64))
    for tag in (256, 257):
        at = content.index(struct.pack("<HHI", tag, 4, 1))
        struct.pack_into("<I", content, at + 8, 2**31 - 1)
    return bytes(content)


# name -> (file, allowed outcomes, growth allowed in MiB)
BOMBS: dict[str, tuple[Callable[[], bytes], set[str], int]] = {
    "png 30000 x 30000": (lambda: _png(30_000, 30_000), {"too_large"}, 20),
    "png claims 2**31": (lambda: _png(2**31 - 1, 2**31 - 1, body=b"x"), {"too_large"}, 20),
    "png below the limit is fine": (lambda: _png(8000, 8000), {"[1, 8000, 8000]"}, 150),
    "png texts and profile": (_png_with_text, {"[1, 64, 64]"}, 20),
    "png more data than pixels": (
        lambda: _png(64, 64, body=_deflate_zeros(300 * MIB)),
        {"[1, 64, 64]", "corrupt"},
        20,
    ),
    "tiff deflate 60000 x 60000": (
        lambda: _tiff(60_000, 60_000, 8, b"x" * 5000),
        {"too_large"},
        20,
    ),
    "tiff claims 2**32": (lambda: _tiff(2**32 - 1, 2**32 - 1, 8, b"x"), {"corrupt"}, 20),
    "tiff strip inflates past its size": (
        lambda: _tiff(64, 64, 8, _deflate_zeros(300 * MIB)),
        {"corrupt"},
        20,
    ),
    "tiff zstd past its size": (
        lambda: _tiff(64, 64, 50000, imagecodecs.zstd_encode(bytes(300 * MIB))),
        {"corrupt"},
        20,
    ),
    "tiff lzma past its size": (
        lambda: _tiff(64, 64, 34925, imagecodecs.lzma_encode(bytes(200 * MIB), level=1)),
        {"corrupt", "[1, 64, 64]"},
        60,
    ),
    "tiff huge tile": (lambda: _tiff(64, 64, 8, b"x", tile=60_000), {"too_large"}, 20),
    "tiff tiles not listed": (_tiles_not_listed, {"corrupt"}, 20),
    "tiff streams, but not as a whole": (
        lambda: _tiff(40_000, 40_000, 8, zlib.compress(bytes(250_000)), tile=500),
        {"too_large"},
        20,
    ),
    "tiff holds a huge jpeg": (_jpeg_in_tiff, {"corrupt"}, 20),
    "tiff holds a huge jpeg 2000": (_jpeg2000_in_tiff, {"corrupt"}, 20),
    "tiff field of 4 billion values": (_tags, {"truncated"}, 20),
    "ome-xml of entities": (_entities, {"corrupt"}, 20),
    "jpeg 65000 x 65000": (lambda: _jpeg(65_000, 65_000), {"too_large"}, 20),
    **DICOM_BOMBS,
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[set[str], float]]:
    """Outcomes and growth in MiB, less the file's own size, of each bomb."""
    folder = tmp_path_factory.mktemp("bombs")
    places = {str(folder / str(i)): name for i, name in enumerate(BOMBS)}
    for place, name in places.items():
        Path(place).write_bytes(BOMBS[name][0]())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(LIMIT), *places],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        places[row["path"]]: (
            {str(outcome) for outcome in row["found"]},
            row["grown_kib"] / 1024 - Path(row["path"]).stat().st_size / MIB,
        )
        for row in rows
    }


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_does_not_go_off(name: str, told: dict[str, tuple[set[str], float]]) -> None:
    _, allowed, growth_mib = BOMBS[name]
    outcomes, grown_mib = told[name]
    assert outcomes
    assert outcomes <= allowed
    assert grown_mib < growth_mib
