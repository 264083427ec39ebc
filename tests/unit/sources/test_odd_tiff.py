"""TIFF that others read: orders, sets, missing lists, inks, and colours that are no colours."""

from __future__ import annotations

import io
import itertools
import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from engine.errors import SourceUnreadable
from engine.geometry import Region
from engine.sources import Plane, open_source
from tests.support.icc import cmyk_icc

Y, X = 32, 48


def noise(shape: tuple[int, ...], dtype: str = "u1") -> NDArray[Any]:
    return (np.random.default_rng(7).random(shape) * 200).astype(dtype)


def write(pixels: NDArray[Any], **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **options)
    return out.getvalue()


def pages(given: list[tuple[NDArray[Any], dict[str, Any]]], text: str) -> bytes:
    out = io.BytesIO()
    with tifffile.TiffWriter(out, ome=False) as file:
        for i, (pixels, options) in enumerate(given):
            description = text if i == 0 else None
            file.write(pixels, description=description, metadata=None, contiguous=False, **options)
    return out.getvalue()


def read(content: bytes, name: str = "a.tif") -> list[tuple[Plane, NDArray[Any]]]:
    with open_source(io.BytesIO(content), name) as source:
        return [(plane, source.read(i)) for i, plane in enumerate(source.planes)]


def one(content: bytes) -> tuple[Plane, NDArray[Any]]:
    (found,) = read(content)
    return found


# ImageJ


@pytest.mark.parametrize("order", ["".join(axes) for axes in itertools.permutations("czt")])
def test_imagej_stacks_in_every_order(order: str) -> None:
    counts = {"c": 2, "z": 3, "t": 4}
    names = {"c": "channels", "z": "slices", "t": "frames"}
    lines = [f"{names[axis]}={count}" for axis, count in counts.items()]
    text = "\n".join(["ImageJ=1.53c", "images=24", *lines, "unit=micron", "spacing=2.5",
                      "finterval=0.5", f"order={order}", ""])  # fmt: skip
    planes = []
    for slow, middle, fast in np.ndindex(*(counts[axis] for axis in order[::-1])):
        at = dict(zip(order[::-1], (slow, middle, fast), strict=True))
        planes.append((np.full((8, 8), at["c"] * 100 + at["z"] * 10 + at["t"], np.uint16), {}))
    found = read(pages(planes, text))
    assert [plane.place for plane, _ in found] == list(itertools.product(range(4), range(3)))
    for plane, pixels in found:
        t, z = plane.place or (9, 9)
        assert pixels[:, 0, 0].tolist() == [10 * z + t, 100 + 10 * z + t]
        assert (plane.step_um, plane.step_ms, plane.findings) == (2.5, 500.0, ())


@pytest.mark.parametrize(
    ("text", "odd"),
    [
        ("images=5\nchannels=2\nslices=3\n", True),
        ("images=5\nslices=7\n", True),
        ("images=5\nslices=5\norder=cat\n", True),
        ("images=5\n", False),
    ],
)
def test_counts_of_imagej_that_do_not_fit_are_said(text: str, odd: bool) -> None:
    found = read(pages([(np.full((8, 8), i, np.uint8), {}) for i in range(5)], "ImageJ=1\n" + text))
    assert [plane.findings for plane, _ in found] == [("counts_differ",) if odd else ()] * 5
    assert [plane.place for plane, _ in found] == [None] * 5
    assert [int(pixels.max()) for _, pixels in found] == list(range(5))


def test_colours_that_imagej_counts_as_channels() -> None:
    rgb = {"photometric": "rgb"}
    text = "ImageJ=1\nimages=3\nchannels=3\nslices=3\n"
    found = read(pages([(noise((8, 8, 3)) + i, rgb) for i in range(3)], text))
    assert [(p.place, p.shape, p.findings) for p, _ in found] == [
        ((0, z), (3, 8, 8), ()) for z in range(3)
    ]


@pytest.mark.parametrize(
    ("axes", "places", "channels"),
    [
        ("TZCYX", [(t, z) for t in range(2) for z in range(3)], 4),
        ("CZTYX", [(t, z) for t in range(4) for z in range(3)], 2),
        ("ZYX", [(0, z) for z in range(2)], 1),
        ("CYX", [None], 2),
        ("TYXS", [(t, 0) for t in range(2)], 3),
        ("QYX", [None] * 2, 1),  # axes that nobody knows
        ("", [None] * 2, 1),
    ],
)
def test_axes_that_tifffile_writes(
    axes: str, places: list[tuple[int, int] | None], channels: int
) -> None:
    slow = axes.removesuffix("S").removesuffix("YX") or "Q"
    shape = (2, 3, 4)[: len(slow)] + ((8, 16, 3) if axes.endswith("S") else (8, 16))
    pixels = noise(shape)
    colours = "rgb" if axes.endswith("S") else "minisblack"
    metadata = {"axes": axes, "spacing": 2.0, "unit": "um"} if axes else {}
    found = read(write(pixels, photometric=colours, metadata=metadata))
    assert [plane.place for plane, _ in found] == places
    assert {plane.shape[0] for plane, _ in found} == {channels}
    if "Z" in axes:
        assert found[0][0].step_um == 2.0
    for plane, values in found:
        if plane.place is not None and not axes.endswith("S"):
            at = {"T": plane.place[0], "Z": plane.place[1], "C": slice(None)}
            due = pixels[tuple(at[axis] for axis in slow)]
            assert np.array_equal(values, due.reshape(values.shape))


# OME


def ome(images: str, uuid: str = "") -> str:
    start = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
    return f"{start}{uuid}>{images}</OME>"


def image(c: int, z: int, t: int, data: str, channels: str = "", attributes: str = "") -> str:
    return (
        f'<Image><Pixels DimensionOrder="XYCZT" Type="uint8" SizeX="48" SizeY="32" SizeC="{c}"'
        f' SizeZ="{z}" SizeT="{t}"{attributes}>{channels}{data}</Pixels></Image>'
    )


def block(file: str, uuid: str, **first: int) -> str:
    at = "".join(f' First{axis}="{n}"' for axis, n in first.items())
    return f'<TiffData IFD="0" PlaneCount="1"{at}><UUID FileName="{file}">{uuid}</UUID></TiffData>'


def test_files_of_a_set_are_known_by_uuid_name_or_being_alone() -> None:
    blocks = "".join(block(f"p{z}.ome.tif", f"urn:uuid:{z}", Z=z) for z in range(3))
    xml = ome(image(1, 3, 1, blocks))
    content = pages([(noise((Y, X)), {})], xml)
    for z in range(3):
        ((plane, _),) = read(content, f"folder/p{z}.ome.tif")
        assert (plane.place, plane.findings) == ((0, z), ())
    ((plane, _),) = read(content, "renamed.tif")
    assert (plane.place, plane.findings) == (None, ("metadata_elsewhere",))
    named = ome(image(1, 3, 1, blocks), ' UUID="urn:uuid:2"')
    ((plane, _),) = read(pages([(noise((Y, X)), {})], named), "p0.ome.tif")
    assert plane.place == (0, 2), "a UUID counts before a name, which anybody may change"
    alone = ome(image(1, 3, 1, block("only.tif", "urn:uuid:7", Z=1)))
    ((plane, _),) = read(pages([(noise((Y, X)), {})], alone), "renamed.tif")
    assert plane.place == (0, 1)
    elsewhere = ome('<BinaryOnly MetadataFile="p0.ome.tif" UUID="urn:uuid:0"/>', ' UUID="urn:1"')
    assert [p.findings for p, _ in read(pages([(noise((Y, X)), {})] * 2, elsewhere))] == [
        ("metadata_elsewhere",)
    ] * 2


def test_channels_in_other_files_leave_an_image_of_those_that_are_here() -> None:
    channels = '<Channel Name="DAPI"/><Channel Name="GFP"/>'
    blocks = "".join(
        f'<TiffData IFD="{z}" FirstZ="{z}" FirstC="{c}"><UUID FileName="c{c}.tif">u{c}</UUID>'
        "</TiffData>"
        for c in range(2)
        for z in range(3)
    )
    content = pages(
        [(noise((Y, X)) + z, {}) for z in range(3)], ome(image(2, 3, 1, blocks, channels))
    )
    for c, name in enumerate(("DAPI", "GFP")):
        found = read(content, f"c{c}.tif")
        assert [(p.place, p.channel_names, p.findings) for p, _ in found] == [
            ((0, z), (name,), ("channels_elsewhere",)) for z in range(3)
        ]


def test_sets_of_channels_are_series_of_their_own() -> None:
    """A file that was full in the midst of a plane: the rest of it is in the next one."""
    blocks = "".join(
        f'<TiffData IFD="{n}" FirstT="{t}" FirstC="{c}"/>'
        for n, (t, c) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)])
    )
    found = read(pages([(noise((Y, X)), {})] * 5, ome(image(2, 1, 3, blocks))))
    assert [(p.shape[0], p.place, p.series, p.findings) for p, _ in found] == [
        (2, (0, 0), 0, ("missing_planes",)),
        (2, (1, 0), 0, ("missing_planes",)),
        (1, (2, 0), 1, ("channels_elsewhere", "missing_planes")),
    ]


@pytest.mark.parametrize("first", ["rgb", "grey"])
@pytest.mark.parametrize("blocks", [True, False])
def test_pages_of_several_samples_beside_pages_of_one(first: str, blocks: bool) -> None:
    rgb = (noise((Y, X, 3)), {"photometric": "rgb"})
    grey = [(np.full((Y, X), 10 + c, np.uint8), {}) for c in range(3)]
    at = 0 if first == "rgb" else 3
    colour = image(3, 1, 1, f'<TiffData IFD="{at}"/>' if blocks else "")
    start = 1 if first == "rgb" else 0
    data = "".join(f'<TiffData IFD="{start + c}" FirstC="{c}"/>' for c in range(3))
    stains = image(3, 1, 1, data if blocks else "")
    images = [colour, stains] if first == "rgb" else [stains, colour]
    found = read(pages([rgb, *grey] if first == "rgb" else [*grey, rgb], ome("".join(images))))
    assert [plane.shape for plane, _ in found] == [(3, Y, X)] * 2
    pixels = [p for _, p in found][:: 1 if first == "rgb" else -1]
    assert np.array_equal(pixels[0], np.moveaxis(rgb[0], -1, 0))
    assert pixels[1][:, 0, 0].tolist() == [10, 11, 12]


@pytest.mark.parametrize(
    ("attributes", "planes", "steps"),
    [
        (' PhysicalSizeZ="2" TimeIncrement="30"', "", (2.0, 30_000.0)),
        (' PhysicalSizeZ="900" PhysicalSizeZUnit="nm" TimeIncrement="2"'
         ' TimeIncrementUnit="min"', "", (0.9, 120_000.0)),
        ("", "".join(f'<Plane TheC="0" TheZ="0" TheT="{t}" DeltaT="{30 * t}"/>' for t in range(3)),
         (None, 30_000.0)),
        (' PhysicalSizeZ="x" TimeIncrement="-1"',
         '<Plane TheC="0" TheZ="0" DeltaT="soon"/>', (None, None)),
        (' PhysicalSizeZ="2" PhysicalSizeZUnit="pixel"', "", (None, None)),
    ],
)  # fmt: skip
def test_steps_of_ome(
    attributes: str, planes: str, steps: tuple[float | None, float | None]
) -> None:
    xml = ome(image(1, 2, 3, planes, attributes=attributes))
    found = read(pages([(noise((Y, X)), {})] * 6, xml))
    assert {(p.step_um, p.step_ms) for p, _ in found} == {steps}


def test_names_of_channels() -> None:
    content = write(
        noise((2, Y, X)), ome=True, photometric="minisblack",
        metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "µβ"]}},
    )  # fmt: skip
    assert one(content)[0].channel_names == ("DAPI", "µβ")
    assert one(write(noise((2, Y, X)), ome=True, photometric="minisblack",
                     metadata={"axes": "CYX"}))[0].channel_names == ()  # fmt: skip


# what is missing, or broken, and not needed


def make(fields: list[tuple[int, int, int, int | bytes]], data: bytes) -> bytes:
    """Write a classic TIFF of one strip; values of bytes lie behind the fields."""
    start = 8 + len(data)
    behind = start + 2 + 12 * len(fields) + 4
    entries, rest = b"", b""
    for tag, kind, count, value in sorted(fields, key=lambda field: field[0]):
        if isinstance(value, bytes):
            at = behind + len(rest)
            rest += value
        else:
            at = value
        entries += struct.pack("<HHII", tag, kind, count, at)
    head = b"II*\0" + struct.pack("<I", start)
    return head + data + struct.pack("<H", len(fields)) + entries + bytes(4) + rest


def fields(bits: int, photometric: int, compression: int = 1) -> list[tuple[int, int, int, Any]]:
    return [(256, 3, 1, X), (257, 3, 1, Y), (258, 3, 1, bits), (259, 3, 1, compression),
            (262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, Y)]  # fmt: skip


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_every_depth(bits: int) -> None:
    index = noise((Y, X)) % min(2**bits, 255)
    table = np.random.default_rng(1).integers(256, 65536, (3, 2**bits), np.uint16)
    data = imagecodecs.packints_encode(index.ravel(), bits) if bits > 1 else np.packbits(index)
    given = [*fields(bits, 3), (279, 4, 1, len(bytes(data))),
             (320, 3, table.size, table.astype("<u2").tobytes())]  # fmt: skip
    content = make(given, bytes(data))
    assert np.array_equal(one(content)[1], (table >> 8).astype(np.uint8)[:, index])
    shown = Image.open(io.BytesIO(content)).convert("RGB")
    assert np.array_equal(one(content)[1], np.moveaxis(np.asarray(shown), -1, 0))


def test_byte_counts_may_be_missing_or_zero() -> None:
    pixels = noise((Y, X))
    for counts in ([], [(279, 4, 1, 0)]):
        content = make([*fields(8, 1), *counts], pixels.tobytes())
        assert np.array_equal(one(content)[1][0], pixels)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)
    packed = imagecodecs.lzw_encode(pixels.tobytes())
    for counts in ([], [(279, 4, 1, 0)]):
        assert np.array_equal(one(make([*fields(8, 1, 5), *counts], packed))[1][0], pixels)
    for compression in ("group4", "tiff_lzw"):
        out = io.BytesIO()
        Image.fromarray(pixels > 99).save(out, "TIFF", compression=compression)
        whole = out.getvalue()
        entry = whole.index(struct.pack("<HHI", 279, 4, 1))
        found = one(whole[:entry] + struct.pack("<H", 280) + whole[entry + 2 :])[1][0]
        assert np.array_equal(found, (pixels > 99) * np.uint8(255))
    with pytest.raises(SourceUnreadable, match="truncated"):
        read(make(fields(8, 1), pixels.tobytes()[: -X * Y // 2]))


@pytest.mark.parametrize(
    "private",
    [(34377, 1, 0, 0), (34377, 7, 100, 0), (60_000, 7, 100, 2**31), (60_000, 99, 5, 5),
     (33432, 2, 2**31, 8), (42112, 2, 40, 0)],
)  # fmt: skip
def test_fields_that_nothing_is_read_of_may_be_broken(private: tuple[int, int, int, int]) -> None:
    pixels = noise((Y, X))
    content = make([*fields(8, 1), (279, 4, 1, X * Y), private], pixels.tobytes())
    assert np.array_equal(one(content)[1][0], pixels)


@pytest.mark.parametrize("nodata", [None, 7, -9999])
def test_sparse_tiles_are_what_the_file_says_is_no_data(nodata: int | None) -> None:
    pixels = noise((64, 64)) + 1
    extra = [] if nodata is None else [(42113, "s", 0, str(nodata), True)]
    content = bytearray(write(pixels, tile=(16, 16), compression="zlib", metadata=None,
                              extratags=extra))  # fmt: skip
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        tags = file.pages.first.tags
        for tag in (tags[324], tags[325]):
            size = {3: 2, 4: 4}[tag.dtype]
            for tile in (5, 6, 15):
                at = tag.valueoffset + size * tile
                content[at : at + size] = bytes(size)
    plane, found = one(bytes(content))
    due = pixels.copy()
    blank = 7 if nodata == 7 else 0
    due[16:32, 16:48] = due[48:, 48:] = blank
    assert np.array_equal(found[0], due)
    assert plane.findings == ("sparse",)
    with open_source(io.BytesIO(bytes(content)), "a.tif") as source:
        part = source.read_region(0, Region((10, 20), (40, 60)))
    assert np.array_equal(part[0], due[10:40, 20:60])


def test_pages_of_which_nothing_was_written_are_truncated() -> None:
    content = make([*fields(8, 1), (279, 4, 1, 0)], bytes(X * Y))
    entry = content.index(struct.pack("<HHI", 273, 4, 1))
    with pytest.raises(SourceUnreadable, match="truncated"):
        read(content[: entry + 8] + bytes(4) + content[entry + 12 :])


# colours


@pytest.mark.parametrize("dtype", ["i1", "i2", "f4"])
def test_white_as_zero_without_a_white_is_said(dtype: str) -> None:
    pixels = noise((Y, X), dtype)
    plane, found = one(write(pixels, photometric="miniswhite"))
    assert np.array_equal(found[0], pixels)
    assert plane.findings == ("white_is_zero",)


def test_white_as_zero_leaves_alpha_alone() -> None:
    pixels = noise((Y, X, 2))
    options = {"photometric": "miniswhite", "planarconfig": "contig"}
    found = one(write(pixels, extrasamples=["unassalpha"], **options))[1]
    assert np.array_equal(found, [255 - pixels[..., 0], pixels[..., 1]])
    found = one(write(pixels, **options))[1]
    assert np.array_equal(found, 255 - np.moveaxis(pixels, -1, 0))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"planarconfig": "separate"}])
def test_inks_become_rgb(dtype: str, options: dict[str, Any]) -> None:
    pixels = noise((64, 64, 4), dtype) * np.array(257 if dtype == "u2" else 1, dtype)
    given = np.moveaxis(pixels, -1, 0) if "planarconfig" in options else pixels
    content = write(given, photometric="separated", **options)
    plane, found = one(content)
    assert (plane.shape, plane.dtype, plane.separate) == ((3, 64, 64), found.dtype.name, False)
    assert plane.findings == ("cmyk_by_rule",)
    eight = (pixels >> (8 if dtype == "u2" else 0)).astype(np.uint8)
    due = np.asarray(Image.frombytes("CMYK", (64, 64), eight.tobytes()).convert("RGB"))
    scale = 257 if dtype == "u2" else 1
    assert np.abs(found / scale - np.moveaxis(due, -1, 0)).max() <= 1
    plane, by_profile = one(write(given, photometric="separated", iccprofile=cmyk_icc(), **options))
    assert plane.findings == ("cmyk_by_profile",)
    assert np.abs(by_profile.astype(float) - found).max() / scale > 20, "the profile counts"
    with pytest.raises(SourceUnreadable, match="corrupt"):
        read(write(given, photometric="separated", iccprofile=cmyk_icc()[:200], **options))


def test_inks_by_profile_are_what_pillow_makes_of_them() -> None:
    from PIL import ImageCms

    pixels = noise((64, 64, 4))
    found = one(write(pixels, photometric="separated", iccprofile=cmyk_icc()))[1]
    due = ImageCms.profileToProfile(
        Image.frombytes("CMYK", (64, 64), pixels.tobytes()), io.BytesIO(cmyk_icc()),
        ImageCms.createProfile("sRGB"), renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
    )  # fmt: skip
    assert np.abs(found.astype(int) - np.moveaxis(np.asarray(due), -1, 0)).max() <= 1


def test_other_inks_are_refused() -> None:
    pixels = noise((Y, X, 4))
    content = write(pixels, photometric="separated", extratags=[(332, "H", 1, 2, True)])
    with pytest.raises(SourceUnreadable, match="unsupported"):
        read(content)


def four_in_jpeg(pixels: NDArray[Any], photometric: str, **options: Any) -> bytes:
    """Write tiles of JPEG with four samples, which tifffile does not encode itself."""
    height, width, _ = pixels.shape
    side = 32
    tiles = (
        imagecodecs.jpeg8_encode(
            np.ascontiguousarray(pixels[y : y + side, x : x + side]), level=98, colorspace="CMYK",
            outcolorspace="CMYK",
        )
        for y in range(0, height, side)
        for x in range(0, width, side)
    )  # fmt: skip
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(
            tiles, shape=pixels.shape, dtype=np.uint8, compression="jpeg", tile=(side, side),
            photometric=photometric, metadata=None, **options,
        )  # fmt: skip
    content = out.getvalue()
    if photometric == "rgb":  # tifffile makes YCbCr of it
        entry = content.index(struct.pack("<HHI", 262, 3, 1))
        content = content[: entry + 8] + struct.pack("<H", 2) + content[entry + 10 :]
    return content


SMOOTH = np.stack(
    np.broadcast_arrays(*np.mgrid[:64, :96].astype(np.uint8), np.uint8(90), np.uint8(200)), -1
)


@pytest.mark.parametrize("extra", ["unassalpha", "unspecified", None])
def test_jpeg_of_rgb_and_alpha_inside(extra: str | None) -> None:
    content = four_in_jpeg(SMOOTH, "rgb", extrasamples=[extra or "unspecified"])
    if extra is None:  # as writers do that forget the field
        entry = content.index(struct.pack("<HHI", 338, 3, 1))
        content = content[:entry] + struct.pack("<H", 337) + content[entry + 2 :]
    plane, found = one(content)
    assert plane.shape == (4, 64, 96)
    assert np.abs(found.astype(int) - np.moveaxis(SMOOTH, -1, 0)).max() < 8
    out = io.BytesIO()
    Image.fromarray(SMOOTH).save(out, "TIFF", compression="jpeg", quality=98)
    found = one(out.getvalue())[1]
    due = np.asarray(Image.open(io.BytesIO(out.getvalue())))
    assert np.abs(found.astype(int) - np.moveaxis(due, -1, 0)).max() <= 1


def test_jpeg_of_inks_inside() -> None:
    plane, found = one(four_in_jpeg(SMOOTH, "separated"))
    assert plane.findings == ("cmyk_by_rule",)
    due = Image.frombytes("CMYK", (96, 64), SMOOTH.tobytes()).convert("RGB")
    assert np.abs(found.astype(int) - np.moveaxis(np.asarray(due), -1, 0)).max() < 8


def test_orientation_is_told_and_not_applied() -> None:
    pixels = noise((Y, X))
    for turned in (1, 3, 6, 8):
        plane, found = one(write(pixels, extratags=[(274, "H", 1, turned, True)]))
        assert plane.orientation == turned
        assert plane.findings == (("oriented",) if turned > 1 else ())
        assert np.array_equal(found[0], pixels)
