"""DICOM: pixels of every kind that the standard has, as values that are known."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_color_lut, convert_color_space

from engine.sources import open_source
from tests.support.dicom import make

RANDOM = np.random.default_rng(7)


def file_of(ds: pydicom.Dataset) -> bytes:
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def read(content: bytes, index: int = 0) -> NDArray[Any]:
    with open_source(io.BytesIO(content), "x") as source:
        return source.read(index)


@pytest.mark.parametrize(("dtype", "signed"), [("<u2", 0), ("<i2", 1)])
@pytest.mark.parametrize(("stored", "high"), [(12, 11), (10, 9), (12, 15), (12, 13), (9, 15)])
def test_bits_beside_the_value_are_left_out_wherever_they_are(
    dtype: str, signed: int, stored: int, high: int
) -> None:
    least, most = (-(2 ** (stored - 1)), 2 ** (stored - 1)) if signed else (0, 2**stored)
    values = RANDOM.integers(least, most, (8, 8)).astype(dtype)
    below = high + 1 - stored
    mask = (2**stored - 1) << below
    words = (values.astype(np.int64) << below) & mask
    words |= RANDOM.integers(0, 2**16, (8, 8)) & ~mask & 0xFFFF  # overlays, as older files have
    pixels = words.astype("<u2")
    ds = make(pixels, BitsStored=stored, HighBit=high, PixelRepresentation=signed)
    assert np.array_equal(read(file_of(ds))[0], values)
    if below == 0:
        assert np.array_equal(ds.pixel_array, values)


@pytest.mark.parametrize(
    ("keyword", "dtype"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")]
)
def test_float_pixels_are_as_they_are(keyword: str, dtype: str) -> None:
    values = RANDOM.normal(0, 1e6, (2, 8, 8)).astype(dtype)
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    ds = make(np.zeros((2, 8, 8), "<u2"))
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, name)
    ds.BitsAllocated = 8 * np.dtype(dtype).itemsize
    setattr(ds, keyword, values.tobytes())
    found = np.concatenate([read(file_of(ds), n) for n in range(2)])
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(found, values, equal_nan=True)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_RCT"])
def test_colours_are_rgb_however_they_lie(planar: int, photometric: str) -> None:
    values = RANDOM.integers(0, 256, (2, 6, 8, 3)).astype(np.uint8)
    lying = np.moveaxis(values, 3, 1) if planar else values
    ds = make(np.zeros((2, 6, 8), "u1"), SamplesPerPixel=3, PlanarConfiguration=planar)
    ds.PhotometricInterpretation = photometric
    ds.PixelData = np.ascontiguousarray(lying).tobytes()
    due = convert_color_space(values, "YBR_FULL", "RGB") if photometric == "YBR_FULL" else values
    for n in range(2):
        assert np.array_equal(read(file_of(ds), n), np.moveaxis(due[n], 2, 0))


def test_palettes_of_8_and_16_bits_and_of_an_offset() -> None:
    for bits, first in ((8, 0), (16, 0), (16, 3)):
        indices = RANDOM.integers(0, 16, (8, 8)).astype(np.uint8)
        ds = make(indices, PhotometricInterpretation="PALETTE COLOR")
        for colour in ("Red", "Green", "Blue"):
            table = RANDOM.integers(0, 2**bits, 16).astype(f"<u{bits // 8}")
            setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [16, first, bits])
            setattr(ds, f"{colour}PaletteColorLookupTableData", table.tobytes())
        found = read(file_of(ds))
        assert found.dtype == np.dtype(f"u{bits // 8}")
        assert np.array_equal(np.moveaxis(found, 0, 2), apply_color_lut(indices, ds))


@pytest.mark.parametrize("bits", [1, 8, 16, 32, 64])
def test_words_of_every_width(bits: int) -> None:
    if bits == 1:
        values = RANDOM.integers(0, 2, (3, 7, 9)).astype(np.uint8)  # frames end within bytes
        ds = make(np.zeros((3, 7, 9), "u1"), BitsAllocated=1, BitsStored=1, HighBit=0)
        packed = np.packbits(values.ravel(), bitorder="little").tobytes()
        ds.PixelData = packed + b"\0" * (len(packed) % 2)
    else:
        values = RANDOM.integers(0, 2 ** (bits - 1), (3, 7, 9)).astype(f"<u{bits // 8}")
        ds = make(values)
    for n in range(3):
        assert np.array_equal(read(file_of(ds), n)[0], values[n])
