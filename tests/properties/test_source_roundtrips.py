"""Round trips through independent writers, for arrays of any shape and content."""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.geometry import Region
from engine.sources import FORMATS, REASONS, detect_format, open_source

SIDES = st.integers(1, 40)
UNSIGNED = st.sampled_from([np.uint8, np.uint16])
ANY = st.sampled_from(
    [
        np.uint8,
        np.uint16,
        np.uint32,
        np.int8,
        np.int16,
        np.int32,
        np.float16,
        np.float32,
        np.float64,
    ]
)


@st.composite
def arrays(draw: st.DrawFn, dtypes: st.SearchStrategy[type]) -> NDArray[Any]:
    channels = draw(st.sampled_from([(), (3,), (4,)]))
    shape = (draw(SIDES), draw(SIDES), *channels)
    return draw(hnp.arrays(draw(dtypes), shape))


def _channels_first(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _same(found: NDArray[Any], due: NDArray[Any]) -> bool:
    # Bytes, since a NaN is not equal to itself.
    due = np.ascontiguousarray(_channels_first(due))
    return (
        found.dtype == due.dtype and found.shape == due.shape and found.tobytes() == due.tobytes()
    )


@given(pixels=arrays(UNSIGNED))
@settings(max_examples=60, deadline=None)
def test_png(pixels: NDArray[Any]) -> None:
    with open_source(io.BytesIO(imagecodecs.png_encode(pixels)), "") as source:
        assert _same(source.read(0), pixels)


@given(
    pixels=arrays(ANY),
    compression=st.sampled_from([None, "lzw", "zlib", "zstd", "packbits"]),
    predictor=st.booleans(),
    layout=st.sampled_from([{}, {"tile": (16, 16)}, {"rowsperstrip": 3}]),
    order=st.sampled_from("<>"),
    big=st.booleans(),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_tiff(
    pixels: NDArray[Any],
    compression: str | None,
    predictor: bool,
    layout: dict[str, Any],
    order: str,
    big: bool,
    data: st.DataObject,
) -> None:
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        pixels,
        photometric="minisblack" if pixels.ndim == 2 else "rgb",
        planarconfig=None if pixels.ndim == 2 else "contig",
        compression=compression,
        predictor=predictor and compression is not None,
        byteorder=order,
        bigtiff=big,
        metadata=None,
        **layout,
    )
    with open_source(out, "") as source:
        assert len(source.planes) == 1
        assert _same(source.read(0), pixels)
        if source.planes[0].streams:
            y, x = pixels.shape[:2]
            top, left = data.draw(st.integers(0, y - 1)), data.draw(st.integers(0, x - 1))
            stop = data.draw(st.integers(top + 1, y)), data.draw(st.integers(left + 1, x))
            region = Region((top, left), stop)
            assert _same(source.read_region(0, region), pixels[region.slices])


@given(
    shape=st.tuples(*[st.integers(1, 3)] * 3, st.just(5), st.just(7)),
    axes=st.permutations("TZC"),
)
@settings(max_examples=40, deadline=None)
def test_ome_places(shape: tuple[int, ...], axes: list[str]) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    out = io.BytesIO()
    tifffile.imwrite(
        out, pixels, ome=True, photometric="minisblack", metadata={"axes": "".join(axes) + "YX"}
    )
    ordered = np.moveaxis(pixels, [axes.index(axis) for axis in "TZC"], [0, 1, 2])
    with open_source(out, "") as source:
        assert len(source.planes) == ordered.shape[0] * ordered.shape[1]
        for i, plane in enumerate(source.planes):
            t, z = plane.place or (0, 0)
            assert np.array_equal(source.read(i), ordered[t, z])


HEADS = st.sampled_from(
    [b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"\xff\xd8\xff", b""]
)


@given(
    head=HEADS, rest=st.binary(max_size=300), name=st.sampled_from(["a.png", "a.tif", "a.jpg", "a"])
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_code(head: bytes, rest: bytes, name: str) -> None:
    content = head + rest
    claimed = detect_format(name, content[:512])
    assert claimed is None or claimed in FORMATS
    try:
        with open_source(io.BytesIO(content), name, max_decoded_bytes=2**24) as source:
            for i in range(min(5, len(source.planes))):
                source.read(i)
    except SourceUnreadable as error:
        reason = error.reason
        if reason not in REASONS:
            raise
