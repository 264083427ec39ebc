"""Interface of the readers of foreign formats, and the reason codes of their failures.

A reader turns one seekable binary file into planes. Its header pass decodes no pixels, so the
engine can plan, and refuse a decompression bomb, before it spends memory. Errors of decoders are
raised as `SourceUnreadable` with a code of `REASONS` and a detail without any content of the file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError, SourceUnreadable
from engine.geometry import YX, Region
from engine.header import Header
from engine.sources.affine import Affine
from engine.sources.failures import decoder_errors

MAX_DECODED_BYTES = 2 * 1024**3
"""Default limit of one decoded plane, bytes (more is ``too_large``)."""

REASONS: Mapping[str, str] = MappingProxyType(
    {
        "empty": "The file has no bytes.",
        "not_an_image": "The suffix claims an image format, but the first bytes are not of it.",
        "truncated": "The file ends before its image does.",
        "corrupt": "The file contradicts its checksums or its format.",
        "too_large": "Decoded, it would be larger than the limit, and it can't be read in tiles.",
        "unsupported": "The format allows this variant, but no reader here decodes it.",
        "out_of_memory": "A worker has less memory than decoding it needs.",
        "not_installed": "The packages that read this format are not installed.",
        "unreadable": "The file can't be read now: permission, or an error of disk or network.",
        "vanished": "The file was listed, but is gone.",
        "outside_root": "A symbolic link leads out of the source's root; it is not followed.",
        "link_loop": "A symbolic link leads to a folder that holds it, or to itself.",
        "no_pixels": "A DICOM object of another kind (report, label of a slide); it is ignored.",
        "not_a_file": "A pipe, socket or device, which has no bytes to ingest.",
    }
)


@dataclass(frozen=True, slots=True)
class Plane:
    """One 2-D image of a source, as described by the header, without decoding.

    Attributes
    ----------
    fragment
        "" for the only plane of a file, else "#0", "#1", ...; appended to the image_id.
    shape
        (c, y, x), pixels. Colour is c = 3 (RGB), alpha is the last channel.
    separate
        True if channels are independent measurements, such as stains, not colours or alpha.
    dtype
        numpy name of the type of `read`, in native byte order. One-bit images are ``uint8`` with
        the values 0 and 255.
    spacing_um
        Pixel spacing (y, x), micrometres; None if the file states no calibrated unit.
    place
        (t, z) within a series, if the file's metadata state it.
    series
        Number of the series, in the file, of ``place``; an OME-TIFF may hold several.
    streams
        True if `read_region` works without decoding the whole plane.
    header
        Header of a medical image, see `Header`; not yet pseudonymised.
    downsample
        Pixels of the file (y, x) per pixel of the plane, if it is read at a lower resolution.
    orientation
        Orientation in viewers, as TIFF 6.0 numbers it (field 274); 1 is upright. The pixels are as
        stored.
    step_um, step_ms
        Of its series: distance between slices, micrometres, and time between frames, milliseconds;
        None if the file does not state them.
    affine
        From the voxels of its series to the patient, see `engine.sources.affine`, if a file without
        a header states it. ``spacing_um`` and ``step_um`` follow from it, and need not be given.
    channel_names
        Names from the file, one per channel, "" for a channel without; empty if it has none.
    channel_colours
        Colours from the file, RRGGBB, one per channel, likewise.
    findings
        Codes of oddities, see `engine.header.FINDINGS`.
    rescale
        (slope, intercept) from the values to units, if a file without a header states them.
    companions
        Names of files in the same folder that hold the rest of its series.
    marks_bright
        True if a mask marks its brighter pixels; None if programs differ.
    """

    fragment: str
    shape: tuple[int, int, int]
    dtype: str
    spacing_um: tuple[float, float] | None = None
    place: tuple[int, int] | None = None
    series: int = 0
    streams: bool = False
    header: Header | None = None
    separate: bool = False
    downsample: tuple[float, float] | None = None
    orientation: int = 1
    step_um: float | None = None
    step_ms: float | None = None
    channel_names: tuple[str, ...] = ()
    channel_colours: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    rescale: tuple[float, float] | None = None
    companions: tuple[str, ...] = ()
    marks_bright: bool | None = True
    affine: Affine | None = None

    @property
    def nbytes(self) -> int:
        """Decoded size, bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


MOST_OF_A_NAME = 80
"""Maximum length of a channel's name, characters."""


def tidy_name(text: str) -> str:
    """Return a channel's name on one line and of bounded length."""
    return " ".join(text.split())[:MOST_OF_A_NAME]


Indexed = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Indices (y, x), and the palette of their colours: (256, 4) RGBA."""

PALETTE_ENTRIES = 256


def full_palette(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Extend a palette (n, 3) RGB to (256, 4) RGBA; missing entries are black."""
    palette = np.zeros((PALETTE_ENTRIES, 4), np.uint8)
    palette[:, 3] = 255
    palette[: len(colours), :3] = colours[:PALETTE_ENTRIES]
    return palette


class OpenSource(Protocol):
    """Open source: a context manager that closes its own resources, never the caller's file.

    Not thread-safe; the file's position is shared.
    """

    @property
    def planes(self) -> tuple[Plane, ...]:
        """Planes in the order of the file, at least one."""

    @property
    def slow_to_open(self) -> bool:
        """True if a first plane costs about as much as all, so that it should stay open."""

    def read(self, index: int) -> NDArray[Any]:
        """Decode plane ``index``: (c, y, x), C-contiguous, with the header's shape and dtype."""

    def read_region(self, index: int, region: Region) -> NDArray[Any]:
        """Decode a region of a streamable plane, with memory bound by the tiles it touches."""

    def read_indices(self, index: int) -> Indexed | None:
        """Decode a plane's indices and its palette; None without a palette of colours."""

    def close(self) -> None:
        """Release the reader's resources. May be called twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Reader(Protocol):
    """Interface of a format module's attribute ``reader``."""

    def open(self, file: BinaryIO, *, max_decoded_bytes: int) -> OpenSource:
        """Read the header of a file, at any position. Raises only `SourceUnreadable`."""


def measure_file(file: BinaryIO) -> int:
    """Return the size of a seekable file, bytes; never zero.

    Raises
    ------
    SourceUnreadable
        ``empty`` if the file has no bytes.
    """
    size = file.seek(0, 2)
    if size == 0:
        raise SourceUnreadable("empty", "the file has no bytes")
    return size


def read_head(file: BinaryIO, most: int) -> bytes:
    """Return the first bytes of a file, at least one and up to ``most``.

    Raises
    ------
    SourceUnreadable
        ``empty`` if the file has no bytes.
    """
    file.seek(0)
    found = file.read(most)
    while found and len(found) < most:
        more = file.read(most - len(found))
        if not more:
            break
        found += more
    if not found:
        raise SourceUnreadable("empty", "the file has no bytes")
    return found


def read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    """Return exactly ``count`` bytes from ``offset``.

    Raises
    ------
    SourceUnreadable
        ``truncated`` if the file ends earlier.
    """
    file.seek(offset)
    found = file.read(count)
    # Raw files and object stores may return fewer bytes than requested before the end.
    while len(found) < count:
        more = file.read(count - len(found))
        if not more:
            raise SourceUnreadable(
                "truncated", f"{count} bytes are needed at offset {offset}, {len(found)} are there"
            )
        found += more
    return found


def check_size(nbytes: int, limit: int) -> None:
    """Refuse a size above the memory limit, before allocation.

    Raises
    ------
    SourceUnreadable
        ``too_large``.
    """
    if nbytes > limit:
        raise SourceUnreadable("too_large", f"{nbytes} bytes decoded, the limit is {limit}")


class PlanesSource(ABC):
    """Base class of open sources: checks around a reader's own decoding."""

    format = "image"
    slow_to_open = False

    def __init__(self, planes: tuple[Plane, ...]) -> None:
        self._planes = planes

    @property
    def planes(self) -> tuple[Plane, ...]:
        """Planes in the order of the file, at least one."""
        return self._planes

    def read(self, index: int) -> NDArray[Any]:
        """Decode plane ``index``: (c, y, x), C-contiguous, with the header's shape and dtype.

        Peak memory is the file's compressed bytes and twice the plane's `Plane.nbytes`.

        Raises
        ------
        SourceUnreadable
            With one of `REASONS`; also if the pixels differ from the header.
        ParameterError
            If the index is out of range.
        """
        plane = self._plane(index)
        with decoder_errors(self.format):
            return _checked(self._decode(index), plane.shape, plane.dtype)

    def read_region(self, index: int, region: Region) -> NDArray[Any]:
        """Decode a region of a streamable plane: (c, y, x), equal to that part of `read`.

        Raises
        ------
        SourceUnreadable
            With one of `REASONS`.
        ParameterError
            If the index is out of range, the plane does not stream, or the region is not inside it.
        """
        plane = self._plane(index)
        if not plane.streams:
            raise ParameterError("index", index, "a plane that streams")
        _check_inside(region, plane.shape[1:])
        with decoder_errors(self.format):
            shape = (plane.shape[0], *region.shape)
            return _checked(self._decode_region(index, region), shape, plane.dtype)

    def read_indices(self, index: int) -> Indexed | None:
        """Decode a plane's indices and its palette; None without a palette of colours.

        Raises
        ------
        SourceUnreadable
            With one of `REASONS`.
        ParameterError
            If the index is out of range.
        """
        self._plane(index)
        with decoder_errors(self.format):
            return self._decode_indices(index)

    def close(self) -> None:  # noqa: B027 - a reader that holds nothing need not close anything
        """Release the reader's resources. May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _plane(self, index: int) -> Plane:
        if not 0 <= index < len(self._planes):
            raise ParameterError("index", index, f"in [0, {len(self._planes)})")
        return self._planes[index]

    @abstractmethod
    def _decode(self, index: int) -> NDArray[Any]:
        """Return a plane as (c, y, x), in any memory order."""

    def _decode_indices(self, index: int) -> Indexed | None:
        """Return indices and palette; for readers of formats with palettes."""
        return None

    def _decode_region(self, index: int, region: Region) -> NDArray[Any]:
        """Return a region as (c, y, x), in any memory order; for readers that stream."""
        raise SourceUnreadable("unsupported", f"{self.format} is not read in tiles")


def channels_first(pixels: NDArray[Any]) -> NDArray[Any]:
    """View decoder output, (y, x) or (y, x, c), as (c, y, x)."""
    return pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _check_inside(region: Region, shape: YX) -> None:
    start, stop = region.start, region.stop
    inside = all(0 <= a < b <= size for a, b, size in zip(start, stop, shape, strict=True))
    if not inside:
        raise ParameterError("region", region, f"a box with pixels inside the plane {shape}")


def _checked(pixels: NDArray[Any], shape: tuple[int, int, int], dtype: str) -> NDArray[Any]:
    if pixels.shape != shape or pixels.dtype != np.dtype(dtype):
        raise SourceUnreadable(
            "corrupt",
            f"decoded {pixels.shape} {pixels.dtype.name}, the header says {shape} {dtype}",
        )
    return np.ascontiguousarray(pixels)
