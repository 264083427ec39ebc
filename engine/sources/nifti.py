"""NIfTI-1 and NIfTI-2 in one file, plain or gzipped; nibabel reads the header.

Each slice (z) and time point (t) is a plane: x is NIfTI's first axis, y its second one. Values are
as stored, ``scl_slope`` and ``scl_inter`` are the plane's rescale. Spacings are ``pixdim`` in the
unit of ``xyzt_units``; a file without one is in millimetres, as other programs take it, with a
finding. The affine is that of the sform, else of the qform, with its axes turned to DICOM's; one
that shears planes or scales them differently than ``pixdim`` leads to a template, not to the
patient, and is left out. Extensions and texts of the header are not read.

A gzipped file is read to its end before its first plane, since its checksum is there; then it is
held in memory if it is small, else inflated once more, so its planes are best read in order.
"""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.sources.affine import Affine, affine_of_ras, place_series
from engine.sources.base import (
    OpenSource,
    Plane,
    PlanesSource,
    channels_first,
    check_size,
    measure_file,
    read_at,
    read_head,
)
from engine.sources.failures import READ_BYTES, decoder_errors
from engine.sources.registry import Sample

HELD_BYTES = 256 * 1024**2
"""Largest inflated file that is held in memory, bytes."""

MOST_IMAGES = 100_000
"""Maximum number of images in one file; each has a row in the catalog."""

_GZIP = b"\x1f\x8b"
_MOST_GROWTH = 1032  # deflate's limit
_SPARE_BYTES = 16 * 1024**2  # after the pixels of a gzipped file; more is damage or an attack
_HEADERS = {348: Nifti1Header, 540: Nifti2Header}
_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8",
    1280: "u8",
}  # fmt: skip
_COLOURS = {128: 3, 2304: 4}  # RGB24, RGBA32
_REFUSED = {1: "single bits", 32: "complex", 1536: "float128", 1792: "complex", 2048: "complex"}
_NO_UNIT = 0
_UM = {_NO_UNIT: 1000.0, 1: 1e6, 2: 1000.0, 3: 1.0}  # metre, millimetre, micrometre
_MS = {8: 1000.0, 16: 1.0, 24: 0.001}  # second, millisecond, microsecond


class NiftiSource(PlanesSource):
    """Open NIfTI file."""

    format = "NIfTI"

    def __init__(
        self, data: _Plain | _Gzipped, start: int, dtype: np.dtype[Any], planes: tuple[Plane, ...]
    ) -> None:
        super().__init__(planes)
        self._data = data
        self._start = start
        self._dtype = dtype
        self.slow_to_open = isinstance(data, _Gzipped)

    def _decode(self, index: int) -> NDArray[Any]:
        plane = self.planes[index]
        content = self._data.read(self._start + index * plane.nbytes, plane.nbytes)
        channels, height, width = plane.shape
        values = np.frombuffer(content, self._dtype).reshape(height, width, channels)
        return channels_first(values.astype(plane.dtype))


class _Plain:
    def __init__(self, file: BinaryIO, end: int) -> None:
        if measure_file(file) < end:
            raise SourceUnreadable("truncated", f"the pixels end at {end} bytes, the file earlier")
        self._file = file

    def read(self, offset: int, count: int) -> bytes:
        return read_at(self._file, offset, count)


class _Gzipped:
    def __init__(self, file: BinaryIO, end: int) -> None:
        if measure_file(file) * _MOST_GROWTH < end:
            raise SourceUnreadable("truncated", f"no gzip file of this size holds {end} bytes")
        self._file = file
        self._end = end
        self._stream: BinaryIO | None = None

    def read(self, offset: int, count: int) -> bytes:
        with _ends_named():
            if self._stream is None:
                self._stream = self._open_checked()
            return read_at(self._stream, offset, count)

    def _open_checked(self) -> BinaryIO:
        """Read the file to its checksum; return it inflated, or a stream that inflates it again."""
        held = io.BytesIO() if self._end <= HELD_BYTES else None
        done = 0
        stream = _inflated(self._file)
        while piece := stream.read(READ_BYTES):
            if held is not None and done < self._end:
                held.write(piece)
            done += len(piece)
            if done > self._end + _SPARE_BYTES:
                raise SourceUnreadable("corrupt", "the file is longer than its header says")
        if done < self._end:
            raise SourceUnreadable("truncated", f"{self._end} bytes are needed, {done} are there")
        return _inflated(self._file) if held is None else held


def _inflated(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    return gzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[return-value]


@contextmanager
def _ends_named() -> Iterator[None]:
    try:
        yield
    except EOFError:
        raise SourceUnreadable("truncated", "the gzip file ends before its data") from None


class NiftiReader:
    """Reader of NIfTI files."""

    def open(self, file: BinaryIO, *, max_decoded_bytes: int) -> OpenSource:
        """Read the header. Raises only `SourceUnreadable`."""
        with decoder_errors("NIfTI"):
            zipped = read_head(file, len(_GZIP)) == _GZIP
            header = _read_header(file, zipped)
            layout = _layout_of(header)
            check_size(layout.plane_bytes, max_decoded_bytes)
            data = (_Gzipped if zipped else _Plain)(file, layout.end)
            return NiftiSource(data, layout.start, layout.dtype, tuple(_planes(header, layout)))


reader = NiftiReader()


def _read_header(file: BinaryIO, zipped: bool) -> Nifti1Header:
    most = max(_HEADERS)
    if zipped:
        with _ends_named():
            block = _inflated(file).read(most)
    else:
        block = read_head(file, most)
    for order in ("<", ">"):
        size = int(np.frombuffer(block[:4].ljust(4, b"\0"), f"{order}i4")[0])
        if size not in _HEADERS:
            continue
        if len(block) < size:
            raise SourceUnreadable("truncated", "the file ends within its header")
        header = _HEADERS[size](block[:size], endianness=order, check=False)
        magic = bytes(header["magic"])
        if magic.startswith(b"ni"):
            raise SourceUnreadable("unsupported", "a pair of .hdr and .img; save it as one .nii")
        if not magic.startswith(b"n+"):
            break
        return header
    raise SourceUnreadable("corrupt", "the header's size and mark are not those of NIfTI")


class _Layout(NamedTuple):
    """Position of the planes: x, y, z and t, values of a pixel, type as stored, and first byte."""

    sides: tuple[int, ...]
    samples: int
    dtype: np.dtype[Any]
    start: int

    @property
    def plane_bytes(self) -> int:
        return self.sides[0] * self.sides[1] * self.samples * self.dtype.itemsize

    @property
    def end(self) -> int:
        return self.start + self.plane_bytes * self.sides[2] * self.sides[3]


def _layout_of(header: Nifti1Header) -> _Layout:
    count, *sides = (int(n) for n in header["dim"])
    if not (1 <= count <= len(sides) and min(sides[:count]) > 0):
        raise SourceUnreadable("corrupt", "the dimensions are not those of an image")
    if any(side > 1 for side in sides[4:count]):
        raise SourceUnreadable("unsupported", "more than x, y, z and t: vectors or tensors")
    sides = [*sides[:count], 1, 1, 1][:4]
    if sides[2] * sides[3] > MOST_IMAGES:
        raise SourceUnreadable("unsupported", f"{sides[2] * sides[3]} planes in a file")
    code = int(header["datatype"])
    if code in _REFUSED:
        raise SourceUnreadable("unsupported", f"values of type {_REFUSED[code]}")
    if code not in _TYPES and code not in _COLOURS:
        raise SourceUnreadable("corrupt", f"data type {code}")
    samples = _COLOURS.get(code, 1)
    dtype = np.dtype(_TYPES.get(code, "u1")).newbyteorder(header.endianness)
    if int(header["bitpix"]) != 8 * samples * dtype.itemsize:
        raise SourceUnreadable("corrupt", "bitpix does not fit the data type")
    least = int(header["sizeof_hdr"]) + 4  # four bytes announce extensions
    start = float(header["vox_offset"]) or least
    if not least <= start < 2**62:
        raise SourceUnreadable("corrupt", f"the pixels begin at {start:g}")
    return _Layout(tuple(sides), samples, dtype, int(start))


def _planes(header: Nifti1Header, layout: _Layout) -> Iterator[Plane]:
    width, height, slices, times = layout.sides
    units = int(header["xyzt_units"])
    um, ms = _UM.get(units & 0x07), _MS.get(units & 0x38)
    x, y, z, t = (_positive(step) for step in header["pixdim"][1:5])
    spacing = (y * um, x * um) if x and y and um else None
    rescale, findings = _rescale_of(header, layout.samples)
    if spacing is None:
        findings.append("spacing_invalid")
    elif units & 0x07 == _NO_UNIT:
        findings.append("unit_assumed")
    affine, odd = _affine_of(header, um, spacing)
    plane = Plane(
        "",
        (layout.samples, height, width),
        layout.dtype.newbyteorder("=").name,
        spacing,
        step_um=z * um if z and um and slices > 1 else None,
        step_ms=t * ms if t and ms and times > 1 else None,
        rescale=rescale,
        findings=tuple(sorted({*findings, *odd})),
        affine=affine,
    )
    for n in range(slices * times):
        several = slices * times > 1
        place = divmod(n, slices) if several else None
        yield replace(plane, fragment=f"#{n}" if several else "", place=place)


def _positive(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) and number > 0 else None


def _rescale_of(header: Nifti1Header, samples: int) -> tuple[tuple[float, float] | None, list[str]]:
    if samples > 1:
        return None, []  # colours have no scale
    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError:
        return None, ["rescale_invalid"]
    return (None if slope is None or (slope, inter) == (1.0, 0.0) else (slope, inter)), []


def _affine_of(
    header: Nifti1Header, um: float | None, spacing: tuple[float, float] | None
) -> tuple[Affine | None, list[str]]:
    if um is None or not (header["sform_code"] > 0 or header["qform_code"] > 0):
        return None, []
    if header["pixdim"][0] != -1:
        header["pixdim"][0] = 1  # any other sign of the z axis means 1
    for read in (header.get_sform, header.get_qform):
        with suppress(HeaderDataError, ValueError):  # a quaternion that is none
            matrix, code = read(coded=True)
            if code > 0:
                affine = affine_of_ras(matrix, um / 1000.0)
                if place_series(affine, spacing) is not None:
                    return affine, []
    return None, ["orientation_invalid"]


def samples() -> Iterator[Sample]:
    """Yield files that nibabel writes, for the contract suite of readers."""
    values = np.arange(5 * 7 * 3 * 2).reshape(5, 7, 3, 2)
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    colours = np.zeros((5, 7, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"], colours["B"] = values[..., 0], values[..., 1]
    big = Nifti1Header(endianness=">")
    big.set_data_dtype("int16")
    cases = {
        "plane": Nifti1Image(values[:, :, 0, 0].astype("u1"), affine),
        "volume": Nifti1Image(values[..., 0].astype("f4"), affine),
        "big-endian": Nifti1Image(values[..., 0].astype("i2"), affine, big),
        "cine": Nifti2Image(values.astype("u2"), affine),
        "colour": Nifti1Image(colours, affine),
        "gzipped": Nifti1Image(values.astype("i4"), affine),
    }
    for name, image in cases.items():
        pixels = np.asarray(image.dataobj)
        parts = [pixels[part] for part in pixels.dtype.names or ()] or [pixels]
        # From x, y, z and t to planes of c, y and x.
        slices = np.stack(parts).swapaxes(1, 2).reshape(len(parts), 7, 5, -1, order="F")
        planes = np.moveaxis(slices.astype(slices.dtype.newbyteorder("=")), -1, 0)
        zipped = name == "gzipped"
        content = gzip.compress(image.to_bytes()) if zipped else image.to_bytes()
        yield Sample(name, content, tuple(planes), checked=zipped)
