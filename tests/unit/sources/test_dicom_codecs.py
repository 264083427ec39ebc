"""DICOM: codestreams that pydicom leaves to us, and objects that have no pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pydicom.data
import pytest
from numpy.typing import NDArray
from pydicom._uid_dict import UID_dictionary
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from engine.errors import SourceUnreadable
from engine.sources import open_source
from tests.support.dicom import make

EXTENDED = "1.2.840.10008.1.2.4.51"
HTJ2K = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203))
BUNDLED = Path(pydicom.data.__file__).parent / "test_files"


def waves(most: int = 3500, dtype: str = "<u2") -> NDArray[Any]:
    y, x = np.mgrid[:48, :64]
    return ((1 + np.sin(x / 9) * np.cos(y / 7)) * most / 2).astype(dtype)


def compressed(pixels: NDArray[Any], frames: list[bytes], syntax: str, **tags: Any) -> bytes:
    """Return a file of these codestreams; ``pixels`` tells size and type."""
    ds = make(pixels, syntax=syntax, **tags)
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def read(content: bytes, index: int = 0) -> NDArray[Any]:
    with open_source(io.BytesIO(content), "x.dcm") as source:
        return source.read(index)


def reason(content: bytes) -> tuple[str, str]:
    with pytest.raises(SourceUnreadable) as caught:
        read(content)
    return caught.value.reason, str(caught.value)


def test_jpeg_of_twelve_bits_is_read_as_others_read_it() -> None:
    pixels = waves()
    frame = imagecodecs.jpeg8_encode(pixels, level=95, bitspersample=12)
    twelve = {"BitsStored": 12, "HighBit": 11}
    found = read(compressed(pixels, [frame], EXTENDED, **twelve))
    assert found.dtype == np.uint16
    assert np.abs(found[0].astype(int) - pixels).max() <= 8  # it is lossy
    # pydicom's own file of 12 bits, with the values that its tests say libjpeg gives
    found = read((BUNDLED / "JPEG-lossy.dcm").read_bytes())
    assert (found[0, 420, 140], found[0, 230, 120]) == (244, 95)
    # several frames; and 8 bits under the same syntax, by another decoder
    twice = compressed(np.stack([pixels, pixels]), [frame, frame], EXTENDED, **twelve)
    assert np.array_equal(read(twice, 1), read(twice, 0))
    small = waves(250, "u1")
    eight = compressed(small, [imagecodecs.jpeg8_encode(small, level=95)], EXTENDED)
    assert np.abs(read(eight)[0].astype(int) - small).max() <= 8


def test_a_cut_jpeg_of_twelve_bits_is_not_filled_with_grey() -> None:
    frame = imagecodecs.jpeg8_encode(waves(), level=95, bitspersample=12)
    for cut in (len(frame) - 2, len(frame) // 2, len(frame) // 4):
        content = compressed(waves(), [frame[:cut]], EXTENDED, BitsStored=12, HighBit=11)
        assert reason(content)[0] == "corrupt"


@pytest.mark.parametrize("syntax", HTJ2K)
def test_high_throughput_jpeg_2000_is_read(syntax: str) -> None:
    for pixels in (waves(), waves(65_000), (waves() - 1700).astype("<i2"), waves(250, "u1")):
        frame = imagecodecs.htj2k_encode(pixels)
        assert np.array_equal(read(compressed(pixels, [frame], syntax))[0], pixels)
        assert reason(compressed(pixels, [frame[: len(frame) // 2]], syntax))[0] == "corrupt"
    colours = np.stack([waves(250, "u1"), waves(99, "u1"), waves(7, "u1")], axis=-1)
    frame = imagecodecs.htj2k_encode(colours, reversible=True)
    named = {"PhotometricInterpretation": "YBR_RCT", "SamplesPerPixel": 3}
    content = compressed(colours[..., 0], [frame], syntax, PlanarConfiguration=0, **named)
    assert np.array_equal(read(content), np.moveaxis(colours, -1, 0))


def test_a_valid_file_that_no_decoder_here_reads_is_never_called_corrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = {EXTENDED, *HTJ2K, "1.2.840.10008.1.2.5"}
    decoded |= {f"1.2.840.10008.1.2.4.{n}" for n in (50, 57, 70, 80, 81, 90, 91)}
    refused = 0
    for known, (_, kind, *_) in UID_dictionary.items():
        if kind == "Transfer Syntax" and UID(known).is_encapsulated and known not in decoded:
            code, said = reason(compressed(waves(), [b"\0" * 64], known))
            assert code == "unsupported"
            assert known in said
            refused += 1
    assert refused > 30
    colours = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    content = compressed(waves(), [b"\xff\xd8"], EXTENDED, BitsStored=12, HighBit=11, **colours)
    assert reason(content)[0] == "unsupported"
    from pydicom.pixels.decoders.base import get_decoder

    monkeypatch.setattr(get_decoder(UID(HTJ2K[0])), "_available", {})
    frame = imagecodecs.htj2k_encode(waves())
    assert reason(compressed(waves(), [frame], HTJ2K[0]))[0] == "not_installed"


WITHOUT_PIXELS = (
    "Structured|SR Storage|Waveform|Presentation State|Plan Storage|Record Storage|Structure Set"
    "|Registration|Fiducials|Encapsulated|Measurements|Spectroscopy|Mesh|Point Cloud|Protocol"
    "|Template|Palette|Hanging|Mapping|Surface Segmentation|Raw Data|Intent|Document|Inventory"
    "|Assessment|Annotations|Tractography|Directory|Report|Refraction|Prescription|Delivery"
)


def test_objects_without_pixels_are_ignored_and_images_without_are_not() -> None:
    ignored = missed = 0
    for known, (name, kind, *_) in UID_dictionary.items():
        if kind != "SOP Class" or "Storage" not in name or "FIND" in name:
            continue
        ds = make(waves(), SOPClassUID=UID(known))
        for keyword in ("PixelData", "Rows", "Columns"):
            delattr(ds, keyword)
        out = io.BytesIO()
        ds.save_as(out, enforce_file_format=True)
        code, said = reason(out.getvalue())
        if any(word in name for word in WITHOUT_PIXELS.split("|")):
            assert code == "no_pixels", name
            assert name in said
            ignored += 1
        elif name.endswith(("Image Storage", "Image Storage - For Presentation")):
            assert code == "truncated", name
            missed += 1
    print(f"{ignored} kinds ignored, {missed} are images that were cut")
    assert ignored > 90
    assert missed > 40


def test_an_unknown_kind_is_an_image_if_it_says_how_large_it_is() -> None:
    for keyword, code in (("PixelData", "truncated"), ("Rows", "no_pixels")):
        ds = make(waves(), SOPClassUID=UID("1.3.12.2.1107.5.9.1"))
        del ds.PixelData
        if keyword == "Rows":
            del ds.Rows
        out = io.BytesIO()
        ds.save_as(out, enforce_file_format=True)
        assert reason(out.getvalue())[0] == code
    served = make(waves(), PixelDataProviderURL="https://pacs.example/1", PixelData=None)
    out = io.BytesIO()
    served.save_as(out, enforce_file_format=True)
    code, said = reason(out.getvalue())
    assert code == "unsupported"
    assert "JPIP" in said
    assert "pacs" not in said
