"""TIFF: every coding against tifffile's own reader, metadata, and what tifffile would repair."""

from __future__ import annotations

import io
import itertools
import logging
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import tifffile
from numpy.typing import NDArray
from PIL import Image

from engine.errors import SourceUnreadable
from engine.geometry import Region
from engine.sources import Plane, open_source

DATA = Path(skimage.__file__).parent / "data"
Y, X = 50, 70


def write(pixels: NDArray[Any], **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **options)
    return out.getvalue()


def read(content: bytes) -> list[NDArray[Any]]:
    with open_source(io.BytesIO(content), "a.tif") as source:
        return [source.read(i) for i in range(len(source.planes))]


def planes(content: bytes) -> tuple[Plane, ...]:
    with open_source(io.BytesIO(content), "a.tif") as source:
        return source.planes


def read_by_tifffile(content: bytes) -> list[NDArray[Any]]:
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        found = [(page.asarray(), page.axes) for page in file.pages]
    moved = [
        pixels[None] if axes == "YX" else np.moveaxis(pixels, -1, 0) if axes == "YXS" else pixels
        for pixels, axes in found
    ]
    return [p * np.uint8(255) if p.dtype == bool else p for p in moved]


def assert_same(content: bytes) -> None:
    found, due = read(content), read_by_tifffile(content)
    assert [(a.shape, a.dtype) for a in found] == [(b.shape, b.dtype) for b in due]
    assert all(np.array_equal(a, b) for a, b in zip(found, due, strict=True))
    with open_source(io.BytesIO(content), "a.tif") as source:
        if source.planes[0].streams:
            _, y, x = source.planes[0].shape
            region = Region((3, 5), (max(4, y - 9), max(6, x - 19)))
            part = source.read_region(0, region)
            assert np.array_equal(part, found[0][:, *region.slices])


def noise(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    return (np.random.default_rng(7).random(shape) * 200).astype(dtype)


DTYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "?")
LAYOUTS: tuple[dict[str, Any], ...] = ({}, {"tile": (16, 32)}, {"rowsperstrip": 7})
COLOURS: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((Y, X), {"photometric": "minisblack"}),
    ((Y, X, 3), {"photometric": "rgb", "planarconfig": "contig"}),
    ((3, Y, X), {"photometric": "rgb", "planarconfig": "separate"}),
    ((Y, X, 4), {"photometric": "rgb", "planarconfig": "contig"}),
)


RGB, GREY = {"photometric": "rgb"}, {"photometric": "minisblack"}


@pytest.mark.parametrize(
    ("separate", "shape", "options"),
    [
        (False, (Y, X), GREY),
        (False, (Y, X, 3), RGB),
        (False, (Y, X, 4), RGB),
        (False, (Y, X, 4), {**RGB, "extrasamples": ["unspecified"]}),
        (False, (Y, X, 2), {**GREY, "planarconfig": "contig", "extrasamples": ["unassalpha"]}),
        (True, (Y, X, 2), {**GREY, "planarconfig": "contig"}),
        (True, (Y, X, 3), {**GREY, "planarconfig": "contig"}),
        (True, (Y, X, 5), RGB),
        (True, (3, Y, X), {**GREY, "planarconfig": "separate"}),
        (True, (3, Y, X), {"imagej": True, "metadata": {"axes": "CYX"}}),
        (True, (4, Y, X), {**GREY, "ome": True, "metadata": {"axes": "CYX"}}),
        (False, (Y, X, 3), {**RGB, "ome": True, "metadata": {"axes": "YXS"}}),
    ],
)
def test_stains_are_told_from_colours(
    separate: bool, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    (plane,) = planes(write(noise(shape, "u1"), **options))
    assert plane.shape[0] == min(shape) if len(shape) == 3 else 1
    assert plane.separate == separate


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_codings(dtype: str, compression: str | None) -> None:
    for (shape, colour), layout, order in itertools.product(COLOURS, LAYOUTS, "<>"):
        if dtype == "?" and shape != (Y, X):
            continue
        pixels = noise(shape, dtype)
        options = {"compression": compression, "byteorder": order, **colour, **layout}
        assert_same(write(pixels, **options))
        if compression is not None and dtype not in ("?", "u8", "i8"):
            assert_same(write(pixels, predictor=True, **options))


def test_lzma() -> None:
    assert_same(write(noise((Y, X, 3), "u2"), compression="lzma", predictor=True, tile=(32, 32)))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 7, 9, 10, 12, 14])
@pytest.mark.parametrize("x", [X, 33])
def test_packed_integers_keep_their_values(bits: int, x: int) -> None:
    pixels = noise((Y, x), "u2") % 2**bits
    content = write(pixels.astype("u1" if bits <= 8 else "u2"), bitspersample=bits)
    assert np.array_equal(read(content)[0][0], pixels)
    assert_same(content)


@pytest.mark.parametrize("options", [{}, {"tile": (32, 32)}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
def test_jpeg_inside(photometric: str, options: dict[str, Any]) -> None:
    assert_same(
        write(noise((64, 96, 3), "u1"), compression="jpeg", photometric=photometric, **options)
    )


def test_jpeg_inside_subsampled_grey_and_deep() -> None:
    rgb = noise((64, 96, 3), "u1")
    assert_same(write(rgb, compression="jpeg", photometric="ycbcr", subsampling=(2, 2)))
    assert_same(write(rgb[..., 0], compression="jpeg", tile=(32, 32)))
    assert_same(write(rgb[..., 0].astype("u2") * 16, compression="jpeg", bitspersample=12))


def test_jpeg2000_inside() -> None:
    assert_same(write(noise((64, 96, 3), "u1"), compression="jpeg2000", tile=(32, 32)))
    assert_same(write(noise((64, 96), "u2"), compression="jpeg2000"))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "tiff_lzw", None])
@pytest.mark.parametrize("x", [130, 96])
def test_one_bit_is_0_and_255(compression: str | None, x: int) -> None:
    image = Image.open(DATA / "coins.png").crop((0, 0, x, 96)).point(lambda v: 255 * (v > 100), "1")
    out = io.BytesIO()
    image.save(out, "TIFF", compression=compression)
    pixels = read(out.getvalue())[0]
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels[0], np.asarray(image) * np.uint8(255))


@pytest.mark.parametrize("path", sorted(DATA.glob("*.tif")), ids=lambda path: path.name)
def test_real_files(path: Path) -> None:
    assert_same(path.read_bytes())


def test_white_is_zero_is_inverted() -> None:
    pixels = noise((Y, X), "u2")
    assert np.array_equal(read(write(pixels, photometric="miniswhite"))[0][0], 65535 - pixels)
    signed = noise((Y, X), "i2")
    assert np.array_equal(read(write(signed, photometric="miniswhite"))[0][0], signed)


def test_palette_is_expanded_but_not_imagejs() -> None:
    index = noise((Y, X), "u1")
    table = np.random.default_rng(1).integers(0, 65536, (3, 256), np.uint16)
    content = write(index, photometric="palette", colormap=table)
    assert np.array_equal(read(content)[0], (table >> 8).astype(np.uint8)[:, index])
    assert planes(content)[0].shape == (3, Y, X)
    shown = write(
        index, photometric="palette", colormap=table, description="ImageJ=1.54f\n", metadata=None
    )
    assert np.array_equal(read(shown)[0][0], index)


def test_pages_are_images() -> None:
    content = write(noise((3, Y, X), "u1"), photometric="minisblack")
    assert [(p.fragment, p.place) for p in planes(content)] == [
        ("#0", None),
        ("#1", None),
        ("#2", None),
    ]


def test_ome_axes_places_and_spacing() -> None:
    pixels = noise((2, 3, 4, 32, 40), "u1")
    metadata = {"axes": "TZCYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
    metadata |= {"PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"}
    content = write(pixels, ome=True, metadata=metadata)
    found = planes(content)
    assert [p.place for p in found] == list(itertools.product(range(2), range(3)))
    assert {p.spacing_um for p in found} == {(0.25, 0.5)}
    assert {p.shape for p in found} == {(4, 32, 40)}
    assert np.array_equal(np.stack(read(content)).reshape(pixels.shape), pixels)


def test_ome_channels_slowest() -> None:
    pixels = noise((2, 3, 4, 32, 40), "u1")
    found = read(write(pixels, ome=True, metadata={"axes": "CTZYX"}))
    assert np.array_equal(np.stack(found), np.moveaxis(pixels, 0, 2).reshape(12, 2, 32, 40))


def test_ome_of_several_images_and_levels() -> None:
    rgb, stack = noise((64, 96, 3), "u1"), noise((3, 32, 40), "u1")
    out = io.BytesIO()
    with tifffile.TiffWriter(out, ome=True) as file:
        file.write(rgb, subifds=1, tile=(32, 32), photometric="rgb")
        file.write(rgb[::2, ::2], subfiletype=1, tile=(32, 32), photometric="rgb")
        file.write(stack, metadata={"axes": "ZYX"})
    found = planes(out.getvalue())
    assert [(p.fragment, p.series, p.place) for p in found] == [
        ("#0", 0, None),
        ("#1", 1, (0, 0)),
        ("#2", 1, (0, 1)),
        ("#3", 1, (0, 2)),
    ]
    assert np.array_equal(read(out.getvalue())[0], np.moveaxis(rgb, -1, 0))


OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
    ' UUID="urn:uuid:1"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZTC"'
    ' SizeX="70" SizeY="50" SizeC="1" SizeZ="{z}" SizeT="1" Type="uint8">{data}</Pixels>'
    "</Image></OME>"
)
ELSEWHERE = '<TiffData IFD="0" FirstZ="{z}"><UUID FileName="b.tif">urn:uuid:2</UUID></TiffData>'


def _ome(pages: int, xml: str) -> bytes:
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        for i in range(pages):
            text = xml if i == 0 else None
            file.write(noise((Y, X), "u1") + i, description=text, metadata=None)
    return out.getvalue()


def test_ome_planes_in_other_files_are_theirs() -> None:
    data = '<TiffData IFD="0" FirstZ="1"><UUID FileName="a.tif">urn:uuid:1</UUID></TiffData>'
    xml = OME.format(z=2, data=data + ELSEWHERE.format(z=0))
    assert [p.place for p in planes(_ome(1, xml))] == [(0, 1)]


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (OME.format(z=3, data="<TiffData/>"), "truncated"),
        (OME.format(z=3, data=""), "truncated"),
        (OME.format(z=-3, data=""), "corrupt"),
        (OME.format(z=1, data='<TiffData IFD="0" FirstZ="7"/>'), "corrupt"),
        (OME.format(z=1, data='<TiffData IFD="x"/>'), "corrupt"),
        (OME.format(z=999_999_999, data=""), "unsupported"),
        (OME.format(z=1, data="")[:-9], "corrupt"),
        (OME.format(z=1, data="").replace("<OME", "<!DOCTYPE a [<!ENTITY b 'c'>]><OME"), "corrupt"),
    ],
)
def test_ome_that_makes_no_sense(xml: str, reason: str) -> None:
    with pytest.raises(SourceUnreadable) as caught:
        planes(_ome(2, xml))
    assert caught.value.reason == reason


def test_imagej_hyperstack() -> None:
    pixels = noise((2, 3, 4, 32, 40), "u2")
    metadata = {"axes": "TZCYX", "unit": "um"}
    content = write(pixels, imagej=True, resolution=(2, 4), metadata=metadata)
    found = planes(content)
    assert [p.place for p in found] == list(itertools.product(range(2), range(3)))
    assert {p.spacing_um for p in found} == {(0.25, 0.5)}
    assert np.array_equal(np.stack(read(content)).reshape(pixels.shape), pixels)


def test_imagej_planes_without_directories() -> None:
    """ImageJ writes stacks over 4 GB with one directory; here a small one in the same way."""
    pixels = noise((5, 32, 40), "u2")
    text = "ImageJ=1.54f\nimages=5\nslices=5\nunit=\\u00B5m\n"
    content = write(pixels[0], description=text, metadata=None, byteorder=">")
    content += pixels[1:].astype(">u2").tobytes()
    assert [p.place for p in planes(content)] == [(0, z) for z in range(5)]
    assert np.array_equal(np.stack(read(content))[:, 0], pixels)
    with pytest.raises(SourceUnreadable, match="truncated"):
        read(content[:-1])


@pytest.mark.parametrize(
    ("resolution", "unit", "spacing"),
    [
        ((20_000, 40_000), "CENTIMETER", (0.25, 0.5)),
        ((25_400, 50_800), "INCH", (0.5, 1.0)),
        ((72, 72), "INCH", None),
        ((300, 300), "INCH", None),
        ((28.35, 28.35), "CENTIMETER", None),
        ((1, 1), "INCH", None),
        ((4000, 4000), "NONE", None),
    ],
)
def test_resolution(
    resolution: tuple[float, float], unit: str, spacing: tuple[float, float] | None
) -> None:
    found = planes(write(noise((Y, X), "u1"), resolution=resolution, resolutionunit=unit))
    assert found[0].spacing_um == (spacing if spacing is None else pytest.approx(spacing))


def test_thumbnails_and_masks_are_not_images() -> None:
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(noise((Y, X), "u1"), metadata=None)
        file.write(noise((9, 9), "u1"), subfiletype=1, metadata=None)
        file.write(noise((Y, X), "?"), subfiletype=4, metadata=None)
        file.write(noise((Y, X), "u2"), metadata=None)
    assert [(p.fragment, p.dtype) for p in planes(out.getvalue())] == [
        ("#0", "uint8"),
        ("#1", "uint16"),
    ]


def test_levels_of_a_slide_are_not_images() -> None:
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(noise((128, 160), "u1"), tile=(32, 32), metadata=None)
        file.write(noise((9, 9), "u1"), metadata=None)
        file.write(noise((32, 40), "u1"), tile=(32, 32), metadata=None)
    assert [p.shape for p in planes(out.getvalue())] == [(1, 128, 160)]


def _patch(content: bytes, tag: int, value: int, *, at: int = 8) -> bytes:
    """Set the value (or the count: ``at`` 4) of a field of the first page; little endian."""
    (offset,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, offset)
    for i in range(count):
        entry = offset + 2 + 12 * i
        if struct.unpack_from("<H", content, entry)[0] == tag:
            changed = bytearray(content)
            struct.pack_into("<I", changed, entry + at, value)
            return bytes(changed)
    raise LookupError(tag)


def _link(content: bytes, offset: int) -> bytes:
    """Set the link from the first page to the next."""
    (first,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, first)
    changed = bytearray(content)
    struct.pack_into("<I", changed, first + 2 + 12 * count, offset)
    return bytes(changed)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: _patch(c, 273, 2**31), "truncated"),  # strip behind the end
        (lambda c: _patch(c, 273, 0), "corrupt"),  # missing strip: tifffile gives zeros
        (lambda c: _patch(c, 279, 17), "truncated"),  # fewer bytes than pixels
        (lambda c: _patch(c, 256, 0), "corrupt"),
        (lambda c: _patch(c, 256, 2**31 - 1), "too_large"),
        (lambda c: _patch(c, 257, 2**32 - 1), "corrupt"),
        (lambda c: _patch(c, 278, 1), "corrupt"),  # 50 strips, one listed
        (lambda c: _patch(c, 259, 34892), "unsupported"),
        (lambda c: _patch(c, 262, 8), "unsupported"),
        (lambda c: _patch(c, 339, 6), "unsupported"),
        (lambda c: _patch(c, 258, 24), "unsupported"),
        (lambda c: _patch(c, 277, 65535), "corrupt"),
        (lambda c: _link(c, 8), "corrupt"),  # a circle
        (lambda c: _link(c, len(c) + 4), "truncated"),  # tifffile ends the list here
        (lambda c: c[:4] + struct.pack("<I", 0) + c[8:], "truncated"),  # not closed
        (lambda c: c[:8] + struct.pack("<H", 5000) + c[10:], "corrupt"),
    ],
)
def test_structure_that_tifffile_would_repair(change: Any, reason: str) -> None:
    content = write(noise((Y, X), "i2"), metadata=None)
    with pytest.raises(SourceUnreadable) as caught:
        read(change(content))
    assert caught.value.reason == reason


def test_long_circle() -> None:
    pages = _ome(150, "no xml")
    offsets = []
    with tifffile.TiffFile(io.BytesIO(pages)) as file:
        offsets = [page.offset for page in file.pages]
    (count,) = struct.unpack_from("<H", pages, offsets[-1])
    changed = bytearray(pages)
    struct.pack_into("<I", changed, offsets[-1] + 2 + 12 * count, offsets[40])
    with pytest.raises(SourceUnreadable, match="circle"):
        planes(bytes(changed))


def test_a_huge_claim_of_a_small_file() -> None:
    content = write(noise((Y, X), "u1"), metadata=None)
    huge = _patch(_patch(content, 257, 2**30), 278, 2**30)
    with pytest.raises(SourceUnreadable, match="truncated"):
        planes(huge)


def test_large_strips_stream() -> None:
    pixels = noise((3000, 2000), "u1")
    with open_source(io.BytesIO(write(pixels)), "a.tif", max_decoded_bytes=10**6) as source:
        assert source.planes[0].streams
        part = source.read_region(0, Region((2990, 1000), (3000, 1999)))
        assert np.array_equal(part[0], pixels[2990:3000, 1000:1999])
        with pytest.raises(SourceUnreadable, match="too_large"):
            source.read(0)


class _Counting(io.BytesIO):
    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        self.taken += len(found)
        return found


@pytest.mark.parametrize("options", [{"tile": (256, 256), "compression": "zlib"}, {}])
def test_a_region_reads_only_what_it_touches(options: dict[str, Any]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4096, 4096), np.uint8)
    file = _Counting(write(pixels, **options))
    with open_source(file, "a.tif") as source:
        part = source.read_region(0, Region((1000, 1000), (1100, 1100)))
    assert np.array_equal(part[0], pixels[1000:1100, 1000:1100])
    assert file.taken < 1_000_000


def _with_fields(count: int, tag: int, kind: int, values: int) -> bytes:
    """A page of 8 x 8 with ``count`` more fields that all point to the same values."""
    fields = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    fields += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 8), (279, 4, 1, 64)]
    fields += [(tag, kind, values, 72)] * count
    entries = b"".join(struct.pack("<HHII", *field) for field in sorted(fields))
    body = bytes(64) + b"x" * (values * {2: 1, 3: 2}[kind])
    first = 8 + len(body)
    return (
        b"II*\0"
        + struct.pack("<I", first)
        + body
        + struct.pack("<H", len(fields))
        + (entries + bytes(4))
    )


def test_fields_that_share_their_values_are_not_read() -> None:
    assert read(_with_fields(1, 270, 2, 1000))[0].shape == (1, 8, 8)
    for content in (_with_fields(4000, 270, 2, 60_000), _with_fields(4000, 347, 3, 30_000)):
        with pytest.raises(SourceUnreadable, match="larger than the file"):
            planes(content)
    with pytest.raises(SourceUnreadable, match="unsupported"):
        planes(_with_fields(1, 330, 3, 5_000_000))


def test_unknown_fields_are_skipped_but_cut_ones_are_not() -> None:
    content = _with_fields(1, 60_000, 2, 8)
    entry = content.index(struct.pack("<HHI", 60_000, 2, 8))
    odd = content[: entry + 2] + struct.pack("<H", 99) + content[entry + 4 :]
    assert read(odd)[0].shape == (1, 8, 8)
    beyond = content[: entry + 4] + struct.pack("<I", 2**30) + content[entry + 8 :]
    assert read(beyond)[0].shape == (1, 8, 8), "nothing is read of a private field"
    content = _with_fields(1, 270, 2, 8)
    with pytest.raises(SourceUnreadable, match="truncated"):
        planes(_patch(content, 270, 2**30, at=4))


def test_slides_of_hamamatsu_are_read_in_tiles() -> None:
    """NDPI holds one JPEG strip; its restart intervals, listed in a field, are the tiles."""
    image = Image.open(DATA / "camera.png").crop((0, 0, 128, 64))
    out = io.BytesIO()
    image.save(out, "JPEG", restart_marker_blocks=8)
    jpeg = out.getvalue()
    starts = [jpeg.index(b"\xff\xda") + 10]
    starts += [
        i + 2
        for i in range(starts[0], len(jpeg))
        if jpeg[i] == 0xFF and 0xD0 <= jpeg[i + 1] <= 0xD7
    ]
    extra = [
        (271, "s", 0, "Hamamatsu", True),
        (65420, "I", 1, 1, True),
        (65426, "I", len(starts), starts, True),
    ]
    made = io.BytesIO()
    with tifffile.TiffWriter(made) as file:
        file.write(
            iter([jpeg]),
            shape=(64, 128),
            dtype=np.uint8,
            compression="jpeg",
            rowsperstrip=64,
            photometric="minisblack",
            metadata=None,
            extratags=extra,
        )
    with open_source(made, "a.ndpi") as source:
        assert source.planes[0].streams
        whole = source.read(0)
        part = source.read_region(0, Region((9, 60), (30, 70)))
    assert np.array_equal(whole[0], np.asarray(Image.open(io.BytesIO(jpeg))))
    assert np.array_equal(part, whole[:, 9:30, 60:70])


def test_what_tifffile_says_counts_even_where_its_logger_is_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("tifffile")
    level = logger.level
    content = write(noise((Y, X), "u1"), metadata=None, description="what it is of")
    broken = _patch(content, 270, 0)  # tifffile reads it without its description
    try:
        for logger.disabled, logger.level in ((True, 0), (False, logging.CRITICAL), (False, 0)):
            with pytest.raises(SourceUnreadable, match="corrupt"):
                planes(broken)
            assert not caplog.records
    finally:
        logger.disabled = False
        logger.setLevel(level)
    with caplog.at_level(logging.WARNING, logger="tifffile"):  # the root's level is anybody's
        logger.warning("of another user of tifffile")
    assert [record.message for record in caplog.records] == ["of another user of tifffile"]


def test_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    content = write(noise((Y, X), "u1"), compression="lzw", rowsperstrip=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for offset in range(0, len(content), 97):
            with pytest.raises(SourceUnreadable):
                read(content[:offset])
    assert capfd.readouterr() == ("", "")
