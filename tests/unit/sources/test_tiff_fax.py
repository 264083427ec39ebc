"""Fax in TIFF: every valid strip as libtiff reads it, and hardly a damaged one in silence."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw, TiffImagePlugin

from engine.errors import SourceUnreadable
from engine.sources import open_source
from engine.sources.tiff.fax import GROUP3, GROUP4, HUFFMAN, decode_fax

KINDS: list[tuple[str, dict[int, int]]] = [
    ("tiff_ccitt", {}),
    ("group3", {}),
    ("group3", {292: 1}),  # two-dimensional
    ("group3", {292: 4}),  # ends of line at whole bytes
    ("group3", {292: 5}),
    ("group4", {}),
    ("group4", {278: 7}),  # rows of a strip
    ("group4", {266: 2}),  # bits from the lowest one on
]


def write(marked: NDArray[np.bool_], compression: str, tags: dict[int, int]) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    out = io.BytesIO()
    Image.fromarray(marked).save(out, "TIFF", compression=compression, tiffinfo=info)
    return out.getvalue()


def read(content: bytes) -> NDArray[Any]:
    with open_source(io.BytesIO(content), "a.tif") as source:
        return source.read(0)[0] > 0


def strips(content: bytes) -> list[tuple[int, int]]:
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages.first
        return list(zip(page.dataoffsets, page.databytecounts, strict=True))


def rings() -> NDArray[np.bool_]:
    image = Image.new("1", (400, 400), 1)
    draw = ImageDraw.Draw(image)
    for k in range(0, 180, 18):
        draw.ellipse((20 + k, 20 + k, 380 - k, 380 - k), outline=0, width=3)
    return np.asarray(image)


@pytest.mark.parametrize(("compression", "tags"), KINDS)
def test_valid_fax_is_what_libtiff_reads(compression: str, tags: dict[int, int]) -> None:
    random = np.random.default_rng(3)
    for trial in range(25):
        shape = random.integers(1, 60), random.integers(1, 2900 if trial % 3 == 0 else 90)
        marked = random.random(shape) < random.choice([0.0, 0.02, 0.5, 0.95])
        marked = np.repeat(marked, random.choice([1, 4]), axis=0)
        content = write(marked, compression, tags)
        assert np.array_equal(read(content), marked)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), marked)


@pytest.mark.parametrize("compression", ["tiff_ccitt", "group3", "group4"])
def test_runs_of_every_length(compression: str) -> None:
    """All codes of the tables: runs of 0 to 2,699 pixels, of both colours."""
    lengths = np.arange(0, 2700)
    marked = lengths[None, :] < lengths[:, None]
    for each in (marked, ~marked):
        assert np.array_equal(read(write(each, compression, {})), each)


@pytest.mark.parametrize(("compression", "tags"), KINDS)
def test_zeroed_halved_and_swapped_strips_are_named(compression: str, tags: dict[int, int]) -> None:
    content = write(rings(), compression, tags)
    for offset, count in strips(content)[:2]:
        half = count // 2
        for changed in (
            content[: offset + half] + bytes(count - half) + content[offset + count :],
            content[:offset] + content[offset + half : offset + count]
            + content[offset : offset + half] + content[offset + count :],
            content[: offset + half] + b"\xff" * (count - half) + content[offset + count :],
        ):  # fmt: skip
            with pytest.raises(SourceUnreadable) as caught:
                read(changed)
            assert caught.value.reason in ("corrupt", "truncated", "unsupported")
    out = io.BytesIO(content)
    with tifffile.TiffFile(out, mode="r+b") as file:
        counts = [count for _, count in strips(content)]
        file.pages.first.tags[279].overwrite([count // 2 for count in counts])
    with pytest.raises(SourceUnreadable) as caught:
        read(out.getvalue())
    assert caught.value.reason in ("corrupt", "truncated")


@pytest.mark.parametrize(
    ("compression", "tags", "named"),
    # Fax has no checksum: a bit may flip into another valid code, most easily in Group 4.
    [
        ("tiff_ccitt", {}, 0.96),
        ("group3", {}, 0.96),
        ("group3", {292: 1}, 0.8),
        ("group4", {}, 0.6),
    ],
)
def test_flipped_bits_are_mostly_named(
    compression: str, tags: dict[int, int], named: float
) -> None:
    whole = rings()[::2, ::2]
    content = write(whole, compression, tags)
    ((offset, count),) = strips(content)
    random = np.random.default_rng(5)
    silent = 0
    for _ in range(50):
        changed = bytearray(content)
        changed[offset + random.integers(count)] ^= 1 << random.integers(8)
        try:
            silent += not np.array_equal(read(bytes(changed)), whole)
        except SourceUnreadable:
            continue
    assert silent <= (1 - named) * 50


def test_ends_of_a_strip() -> None:
    row = np.zeros((1, 8), np.uint8)
    white = "10011"  # a run of 8
    end = "000000000001"

    def pack(bits: str) -> bytes:
        return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")

    for compression, bits in (
        (HUFFMAN, white),
        (GROUP3, white),
        (GROUP3, end + white + end * 6),
        (GROUP3, end + white + "000" + end),
        (GROUP4, "1"),
        (GROUP4, "1" + end * 2),
        (GROUP4, "1" + end * 2 + "0000000110100101"),  # behind its end mark
        (GROUP4, "1" + "0" * 40),
    ):
        assert np.array_equal(decode_fax(pack(bits), (1, 8), compression), row)
    for compression, bits, reason in (
        (GROUP3, end * 6, "corrupt"),
        (GROUP3, white + "0" * 9 + white, "corrupt"),
        (GROUP4, "01", "truncated"),
        (GROUP4, "1" * 20, "corrupt"),
        (GROUP4, "0000001111" + "0" * 20, "unsupported"),
        (HUFFMAN, "10100" + "0" * 20, "corrupt"),  # a run of 9
    ):
        with pytest.raises(SourceUnreadable) as caught:
            decode_fax(pack(bits), (1, 8), compression)
        assert caught.value.reason == reason, bits
