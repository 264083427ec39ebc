"""Contract of image readers: one suite for every reader, and for a fake with all features."""

from __future__ import annotations

import io
import random
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import skimage
import tifffile
from numpy.typing import NDArray
from PIL import Image

from engine.errors import ParameterError, SourceUnreadable
from engine.geometry import Region
from engine.sources import FORMATS, REASONS, Format, OpenSource, Plane, detect_format, open_source
from engine.sources.base import PlanesSource, check_size, measure_file, read_at
from engine.sources.failures import decoder_errors
from engine.sources.registry import formats, samples_of

DATA = Path(skimage.__file__).parent / "data"
CANARY = b"DOE^JANE^19700101"
SEED = 20261122


class FakeSource(PlanesSource):
    """Two planes of 16 x 8 stored as bytes after a signature; supports regions."""

    format = "fake"

    def __init__(self, file: BinaryIO) -> None:
        plane = Plane("#0", (1, 16, 8), "uint8", (0.5, 0.5), (0, 0), streams=True)
        super().__init__((plane, Plane("#1", (1, 16, 8), "uint8", (0.5, 0.5), (0, 1))))
        self._file = file

    def _decode(self, index: int) -> NDArray[Any]:
        content = read_at(self._file, 4 + index * 128, 128)
        if read_at(self._file, 260, 1)[0] != sum(read_at(self._file, 4, 256)) % 251:
            raise IndexError(CANARY.decode())
        return np.frombuffer(content, np.uint8).reshape(1, 16, 8)

    def _decode_region(self, index: int, region: Region) -> NDArray[Any]:
        return self._decode(index)[:, *region.slices]


class FakeReader:
    def open(self, file: BinaryIO, *, max_decoded_bytes: int) -> OpenSource:
        with decoder_errors("fake"):
            if measure_file(file) < 261:
                raise SourceUnreadable("truncated", "too short")
            check_size(128, max_decoded_bytes)
            return FakeSource(file)


@pytest.fixture(autouse=True)
def _fake_format(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("fake_reader_of_the_contract")
    module.reader = FakeReader()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    fake = Format(lambda head: head.startswith(b"FAKE"), (".fake",), module.__name__)
    monkeypatch.setitem(FORMATS, "fake", fake)


def _grey() -> NDArray[np.uint8]:
    return np.asarray(Image.open(DATA / "coins.png"))[40:120, 30:131]


def _rgb() -> NDArray[np.uint8]:
    return np.asarray(Image.open(DATA / "astronaut.png"))[40:120, 30:131]


def _pillow(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def _tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **options)
    return out.getvalue()


def _decoded_by_pillow(content: bytes) -> list[NDArray[Any]]:
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    return [pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)]


def _make_png(pixels: NDArray[Any], **options: Any) -> tuple[bytes, list[NDArray[Any]]]:
    content = _pillow(pixels, "PNG", **options)
    return content, _decoded_by_pillow(content)


def _make_jpeg(pixels: NDArray[Any], **options: Any) -> tuple[bytes, list[NDArray[Any]]]:
    content = _pillow(pixels, "JPEG", **options)
    return content, _decoded_by_pillow(content)


def _make_tiff(pixels: NDArray[Any], **options: Any) -> tuple[bytes, list[NDArray[Any]]]:
    first = np.moveaxis(pixels, -1, 0) if pixels.shape[-1] == 3 else pixels[None]
    return _tiff(pixels, **options), [first]


def _make_stack() -> tuple[bytes, list[NDArray[Any]]]:
    pixels = np.stack([np.stack([_grey() + t, _grey() // (t + 2)]) for t in range(3)])
    return _tiff(pixels, ome=True, metadata={"axes": "TCYX"}), list(pixels)


def _make_pages() -> tuple[bytes, list[NDArray[Any]]]:
    pages = [_grey() + i for i in range(3)]
    return _tiff(np.stack(pages), photometric="minisblack"), [page[None] for page in pages]


def _make_imagej() -> tuple[bytes, list[NDArray[Any]]]:
    pixels = np.stack([_grey() + z for z in range(4)])
    return _tiff(pixels, imagej=True, metadata={"axes": "ZYX"}), [page[None] for page in pixels]


def _make_fake() -> tuple[bytes, list[NDArray[Any]]]:
    pixels = _grey()[:32, :8]
    body = pixels.tobytes()
    content = b"FAKE" + body + bytes([sum(body) % 251])
    return content, [pixels[None, :16], pixels[None, 16:]]


# name -> (file, what it decodes to by an independent decoder)
CASES: dict[str, Callable[[], tuple[bytes, list[NDArray[Any]]]]] = {
    "png grey": lambda: _make_png(_grey()),
    "png rgb": lambda: _make_png(_rgb()),
    "png rgba": lambda: _make_png(np.dstack([_rgb(), _grey()])),
    "png 16 bit": lambda: _make_png(_grey().astype(np.uint16) * 257),
    "jpeg grey": lambda: _make_jpeg(_grey()),
    "jpeg rgb": lambda: _make_jpeg(_rgb(), quality=90),
    "jpeg progressive": lambda: _make_jpeg(_rgb(), progressive=True),
    "tiff one strip": lambda: _make_tiff(_grey()),
    "tiff strips lzw": lambda: _make_tiff(
        _rgb(), compression="lzw", rowsperstrip=7, predictor=True
    ),
    "tiff tiles deflate": lambda: _make_tiff(_rgb(), compression="zlib", tile=(32, 48)),
    "tiff tiles zstd": lambda: _make_tiff(_grey(), compression="zstd", tile=(16, 16)),
    "tiff packbits": lambda: _make_tiff(_grey(), compression="packbits"),
    "tiff float predicted": lambda: _make_tiff(
        _grey().astype(np.float32) / 7, compression="zlib", predictor=True
    ),
    "tiff big big-endian": lambda: _make_tiff(
        _grey().astype(np.uint16), bigtiff=True, byteorder=">"
    ),
    "tiff pages": _make_pages,
    "tiff ome": _make_stack,
    "tiff imagej": _make_imagej,
    "fake": _make_fake,
}

OWN = {
    f"{key} {sample.name}": sample
    for key, known in formats().items()
    for sample in samples_of(known)
}
"""Samples that modules of formats bring along, those of installed packages too."""

CASES |= {name: lambda one=one: (one.content, list(one.planes)) for name, one in OWN.items()}

WITH_CHECKSUM = {name for name in CASES if name.startswith(("png", "fake"))}
WITH_CHECKSUM |= {name for name, sample in OWN.items() if sample.checked}
"""Without, a flipped bit may give other pixels, but never another exception."""


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, bytes, list[NDArray[Any]]]:
    return (request.param, *CASES[request.param]())


def _read_all(content: bytes) -> list[NDArray[Any]]:
    with open_source(io.BytesIO(content), "image") as source:
        return [source.read(i) for i in range(len(source.planes))]


def _outcome(content: bytes) -> list[NDArray[Any]] | str:
    """Return the pixels, or the code of a failure; any other exception fails the test."""
    try:
        return _read_all(content)
    except SourceUnreadable as raised:
        error = raised
    assert error.reason in REASONS
    assert CANARY.decode() not in str(error)
    # A chained exception would bring the decoder's own text into the log.
    assert error.__suppress_context__ or error.__context__ is None
    return error.reason


def _equal(found: list[NDArray[Any]], due: list[NDArray[Any]]) -> bool:
    return len(found) == len(due) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(found, due, strict=True)
    )


def test_pixels_are_those_of_an_independent_decoder(
    case: tuple[str, bytes, list[NDArray[Any]]],
) -> None:
    _, content, due = case
    assert _equal(_read_all(content), due)


def test_header_says_what_is_read(case: tuple[str, bytes, list[NDArray[Any]]]) -> None:
    _, content, due = case
    with open_source(io.BytesIO(content), "image") as source:
        assert [plane.shape for plane in source.planes] == [page.shape for page in due]
        assert len({plane.fragment for plane in source.planes}) == len(due)
        assert len(due) > 1 or source.planes[0].fragment == ""
        for i, plane in enumerate(source.planes):
            pixels = source.read(i)
            assert (pixels.shape, pixels.dtype.name) == (plane.shape, plane.dtype)
            assert pixels.nbytes == plane.nbytes
            assert pixels.flags.c_contiguous
            assert pixels.dtype.isnative


def test_planes_read_in_any_order_and_again(case: tuple[str, bytes, list[NDArray[Any]]]) -> None:
    _, content, due = case
    with open_source(io.BytesIO(content), "image") as source:
        for i in [*reversed(range(len(due))), *range(len(due))]:
            assert np.array_equal(source.read(i), due[i])


def test_a_region_is_a_part_of_the_whole(case: tuple[str, bytes, list[NDArray[Any]]]) -> None:
    _, content, due = case
    chance = random.Random(SEED)
    with open_source(io.BytesIO(content), "image") as source:
        for i, plane in enumerate(source.planes):
            if not plane.streams:
                with pytest.raises(ParameterError):
                    source.read_region(i, Region((0, 0), (1, 1)))
                continue
            for _ in range(10):
                y, x = (sorted(chance.sample(range(side + 1), 2)) for side in plane.shape[1:])
                region = Region((y[0], x[0]), (y[1], x[1]))
                pixels = source.read_region(i, region)
                assert pixels.flags.c_contiguous
                assert np.array_equal(pixels, due[i][:, *region.slices])
            for wrong in (
                Region((0, 0), (0, 5)),
                Region((-1, 0), (2, 2)),
                Region((0, 0), (99, 999)),
            ):
                with pytest.raises(ParameterError):
                    source.read_region(i, wrong)


def test_a_plane_that_is_not_there_is_the_callers_error(
    case: tuple[str, bytes, list[NDArray[Any]]],
) -> None:
    _, content, due = case
    with open_source(io.BytesIO(content), "image") as source:
        for index in (-1, len(due)):
            with pytest.raises(ParameterError):
                source.read(index)


def test_the_callers_file_stays_open(case: tuple[str, bytes, list[NDArray[Any]]]) -> None:
    _, content, _ = case
    file = io.BytesIO(content)
    with open_source(file, "image") as source:
        pass
    source.close()
    assert not file.closed


def test_cut_anywhere_gives_a_name_or_equal_pixels(
    case: tuple[str, bytes, list[NDArray[Any]]],
) -> None:
    """Fault 15."""
    name, content, due = case
    chance = random.Random(SEED)
    offsets = {0, 1, 3, 7, 8, 16, len(content) - 1, len(content) - 5, len(content) - 13}
    offsets |= {chance.randrange(len(content)) for _ in range(24)}
    for offset in offsets:
        found = _outcome(content[:offset])
        assert isinstance(found, str) or _equal(found, due), f"{name} cut at {offset} (seed {SEED})"
        assert offset > 0 or found == "empty"


def test_flipped_bits_give_a_name_or_pixels(case: tuple[str, bytes, list[NDArray[Any]]]) -> None:
    name, content, due = case
    chance = random.Random(SEED)
    for _ in range(200 if name.startswith("png") else 60):
        flipped = bytearray(content)
        at = chance.randrange(len(content))
        flipped[at] ^= 1 << chance.randrange(8)
        found = _outcome(bytes(flipped))
        if name in WITH_CHECKSUM:
            assert isinstance(found, str) or _equal(found, due), f"{name} at {at} (seed {SEED})"


class _Dribble(io.BytesIO):
    """Return at most 1000 bytes a call, as raw files and object stores may."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(1000 if size is None or size < 0 else min(size, 1000))


def test_short_reads_are_completed(case: tuple[str, bytes, list[NDArray[Any]]]) -> None:
    _, content, due = case
    with open_source(_Dribble(content), "image") as source:
        assert _equal([source.read(i) for i in range(len(due))], due)


class _Failing(io.BytesIO):
    """Fail after a number of reads, with a path in the message as the system does."""

    def __init__(self, content: bytes, after: int, error: OSError) -> None:
        super().__init__(content)
        self._left = after
        self._error = error

    def read(self, size: int | None = -1) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return super().read(size)


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "denied", CANARY.decode()), "unreadable"),
        (OSError(5, "Input/output error", CANARY.decode()), "unreadable"),
        (FileNotFoundError(2, "gone", CANARY.decode()), "vanished"),
        (TimeoutError(CANARY.decode()), "unreadable"),
    ],
)
def test_failures_of_the_disk_are_named(
    case: tuple[str, bytes, list[NDArray[Any]]], after: int, error: OSError, reason: str
) -> None:
    _, content, due = case

    def read_thrice() -> None:
        with open_source(_Failing(content, after, error), "image") as source:
            for _ in range(3):
                for i in range(len(due)):
                    source.read(i)

    with pytest.raises(SourceUnreadable) as caught:
        read_thrice()
    assert caught.value.reason == reason
    assert CANARY.decode() not in str(caught.value)


def test_limit_is_known_from_the_header(case: tuple[str, bytes, list[NDArray[Any]]]) -> None:
    _, content, due = case
    limit = due[0].nbytes - 1
    with pytest.raises(SourceUnreadable) as caught:
        open_source(io.BytesIO(content), "image", max_decoded_bytes=limit).read(0)
    assert caught.value.reason == "too_large"


@pytest.fixture(params=[".png", ".tif", ".jpg", ".fake", ".PNG", ".tiff"])
def suffix(request: pytest.FixtureRequest) -> Iterator[str]:
    return request.param


def test_text_under_an_images_suffix(suffix: str) -> None:
    """Fault 17."""
    for content, reason in ((CANARY * 40, "not_an_image"), (b"", "empty"), (b"\0", "not_an_image")):
        assert detect_format("a" + suffix, content) is not None
        with pytest.raises(SourceUnreadable) as caught:
            open_source(io.BytesIO(content), "a" + suffix)
        assert caught.value.reason == reason
        assert "DOE" not in str(caught.value)


def test_first_bytes_count_before_the_suffix(
    case: tuple[str, bytes, list[NDArray[Any]]], suffix: str
) -> None:
    name, content, due = case
    assert detect_format("a" + suffix, content[:512]) == name.split()[0]
    with open_source(io.BytesIO(content), "a" + suffix) as source:
        assert np.array_equal(source.read(0), due[0])
