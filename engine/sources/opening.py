"""Opening of sources: the reader of a file's format, and named failures of its reads."""

from __future__ import annotations

from types import TracebackType
from typing import Any, BinaryIO, Self

from numpy.typing import NDArray

from engine.errors import SourceUnreadable, install_command
from engine.geometry import Region
from engine.sources.base import MAX_DECODED_BYTES, Indexed, OpenSource, Plane, read_head
from engine.sources.failures import decoder_errors, reads_named
from engine.sources.registry import MAGIC_BYTES, Detected, detect, load_reader

SLIDES = (".svs", ".ndpi", ".scn", ".bif")
"""Suffixes of slides with a TIFF header that OpenSlide reads better."""


def open_source(
    file: BinaryIO,
    name: str,
    *,
    max_decoded_bytes: int = MAX_DECODED_BYTES,
    slide_spacing_um: float | None = None,
    detected: Detected | None = None,
) -> OpenSource:
    """Open a foreign file and read the description of its planes, without decoding.

    Parameters
    ----------
    file
        Seekable, opened and closed by the caller, and open for as long as the source is.
    name
        File name or path; only its suffix is used, and only if no format matches the first bytes.
    max_decoded_bytes
        Limit of one decoded plane, bytes. Planes that stream may be larger.
    slide_spacing_um
        Pixel size at which whole slides are read, micrometres; None means the scanner's own.
    detected
        The file's format if the caller detected it, see `detect_in`.

    Returns
    -------
    Open source, a context manager.

    Raises
    ------
    SourceUnreadable
        With one of `engine.sources.REASONS`; no other error is raised.
    """
    with reads_named(file):
        if detected is None:
            detected = detect_in(file, name)
        if detected is None:
            raise SourceUnreadable("not_an_image", "neither first bytes nor suffix are of a format")
        source = _open(file, name, detected, max_decoded_bytes, slide_spacing_um)
        return Guarded(source, file)


def detect_in(file: BinaryIO, name: str) -> Detected | None:
    """Return the format of an open file, by its first bytes or else its suffix; None if ignored.

    Raises
    ------
    SourceUnreadable
        ``empty`` if the file has no bytes, or if it can't be read.
    """
    with decoder_errors("file"):
        head = read_head(file, MAGIC_BYTES)
    return detect(name, head)


def _open(
    file: BinaryIO,
    name: str,
    detected: Detected,
    max_decoded_bytes: int,
    slide_spacing_um: float | None,
) -> OpenSource:
    key = detected.key
    if not detected.by_content:
        raise SourceUnreadable("not_an_image", f"the suffix says {key}, the first bytes do not")
    if key == "tiff" and (slide_spacing_um is not None or name.lower().endswith(SLIDES)):
        slide = _open_slide(file, max_decoded_bytes, slide_spacing_um)
        if slide is not None:
            return slide
    chosen: dict[str, Any] = {"spacing_um": slide_spacing_um} if key == "dicom" else {}
    if key == "tiff":
        chosen["name"] = name
    reader = load_reader(key, detected.format)
    return reader.open(file, max_decoded_bytes=max_decoded_bytes, **chosen)


def _open_slide(file: BinaryIO, limit: int, spacing_um: float | None) -> OpenSource | None:
    try:
        from engine.sources.slides import reader
    except ImportError:
        raise SourceUnreadable(
            "not_installed",
            f"the packages to read slides are not installed: {install_command('slides')}",
        ) from None
    return reader.open(file, max_decoded_bytes=limit, spacing_um=spacing_um)


class Guarded:
    """Open source that reports failed reads of its file, see `reads_named`."""

    def __init__(self, source: OpenSource, file: BinaryIO) -> None:
        self._source = source
        self._file = file

    @property
    def planes(self) -> tuple[Plane, ...]:
        """See `OpenSource`."""
        return self._source.planes

    @property
    def slow_to_open(self) -> bool:
        """See `OpenSource`; sources of packages may lack it."""
        return getattr(self._source, "slow_to_open", False)

    def read(self, index: int) -> NDArray[Any]:
        """See `OpenSource`."""
        with reads_named(self._file):
            return self._source.read(index)

    def read_region(self, index: int, region: Region) -> NDArray[Any]:
        """See `OpenSource`."""
        with reads_named(self._file):
            return self._source.read_region(index, region)

    def read_indices(self, index: int) -> Indexed | None:
        """See `OpenSource`."""
        with reads_named(self._file):
            return self._source.read_indices(index)

    def close(self) -> None:
        """See `OpenSource`."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
