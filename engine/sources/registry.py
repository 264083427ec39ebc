"""Formats and their detection; opening of sources. Readers are imported on first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.geometry import Region
from engine.sources.base import (
    MAX_DECODED_BYTES,
    Indexed,
    OpenSource,
    Plane,
    Reader,
    coded,
    read_head,
)
from engine.sources.failures import reads_named

MAGIC_BYTES = 512
"""Bytes of a file that `detect_format` needs; DICOM's mark ends at 132."""


@dataclass(frozen=True, slots=True)
class Format:
    """Foreign format: its detection, and the module with the ``reader`` that opens it.

    Attributes
    ----------
    begins
        Predicate of a file's first bytes.
    suffixes
        Lower case, with the dot; used if no format matches the first bytes.
    module
        Module imported on first use, so that a missing extra affects only its own format.
    extra
        Extra that installs the module's packages.
    confidential
        True if its files name patients, so that not even their paths may be written down.
    """

    begins: Callable[[bytes], bool]
    suffixes: tuple[str, ...]
    module: str
    extra: str | None = None
    confidential: bool = False


_GROUPS = (b"\x08\0", b"\x02\0", b"\0\x08")
_VRS = frozenset(b"AE AS CS DA DT IS LO OB OW PN SH SQ ST TM UI UL UN US".split())
_MOST_FIRST_BYTES = 256


def _begins_dicom(head: bytes) -> bool:
    if head[128:132] == b"DICM":  # PS3.10, 7.1
        return True
    # Older files lack preamble and mark, and begin with an element of group 2 or 8.
    if head[:2] not in _GROUPS or len(head) < 8:
        return False
    order: Literal["little", "big"] = "big" if head[:2] == b"\0\x08" else "little"
    if int.from_bytes(head[2:4], order) > 0x1199:
        return False
    return head[4:6] in _VRS or int.from_bytes(head[4:8], order) <= _MOST_FIRST_BYTES


def _begins_png(head: bytes) -> bool:
    return head.startswith(b"\x89PNG\r\n\x1a\n")  # ISO/IEC 15948, 5.2


def _begins_tiff(head: bytes) -> bool:
    # TIFF 6.0, section 2, and BigTIFF (43). A DICOM file may carry a TIFF header in its preamble
    # (PS3.10, 7.1); read as TIFF, its patient would not be hidden.
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") and head[128:132] != b"DICM"


def _begins_jpeg(head: bytes) -> bool:
    return head.startswith(b"\xff\xd8\xff")  # ITU-T T.81, B.1.1.3: SOI and the next marker


FORMATS: dict[str, Format] = {
    # First, so that a file that is both DICOM and another format stays confidential.
    "dicom": Format(
        _begins_dicom,
        (".dcm", ".dicom", ".ima"),
        "engine.sources.dicom.reader",
        extra="dicom",
        confidential=True,
    ),
    "png": Format(_begins_png, (".png",), "engine.sources.png"),
    "tiff": Format(
        _begins_tiff,
        (".tif", ".tiff", ".btf", ".tf8", ".svs", ".ndpi", ".scn", ".bif"),
        "engine.sources.tiff.reader",
    ),
    "jpeg": Format(_begins_jpeg, (".jpg", ".jpeg", ".jpe", ".jfif"), "engine.sources.jpeg"),
}
"""Formats by name, tried in this order; extensions add theirs here."""

UNTAKEN = frozenset({
    ".avif", ".bmp", ".czi", ".dv", ".fits", ".gif", ".heic", ".heif", ".ims", ".jp2", ".lif",
    ".mha", ".mrxs", ".nd2", ".nii", ".nrrd", ".oib", ".oif", ".vsi", ".webp", ".zvi",
})  # fmt: skip
"""Suffixes of unsupported image formats: such files are ignored like others, but reported."""

SLIDES = (".svs", ".ndpi", ".scn", ".bif")
"""Suffixes of slides with a TIFF header that OpenSlide reads better."""


def detect_format(name: str, head: bytes) -> str | None:
    """Return the format of a file, by its first bytes or else its suffix.

    Parameters
    ----------
    name
        File name or path; only its suffix is used, in any case.
    head
        The first bytes, up to `MAGIC_BYTES`.

    Returns
    -------
    Key of `FORMATS`, or None: the file is ignored.

    Examples
    --------
    >>> detect_format("slide.png", bytes.fromhex("ffd8ffe0"))
    'jpeg'
    >>> detect_format("notes.PNG", b"hello")
    'png'
    >>> detect_format("notes.txt", b"hello") is None
    True
    """
    for key, known in FORMATS.items():
        if known.begins(head):
            return key
    lowered = name.lower()
    for key, known in FORMATS.items():
        if lowered.endswith(known.suffixes):
            return key
    return None


def open_source(
    file: BinaryIO,
    name: str,
    *,
    max_decoded_bytes: int = MAX_DECODED_BYTES,
    slide_spacing_um: float | None = None,
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

    Returns
    -------
    Open source, a context manager.

    Raises
    ------
    SourceUnreadable
        With one of `engine.sources.REASONS`; no other error is raised.
    """
    with reads_named(file):
        return Guarded(_open(file, name, max_decoded_bytes, slide_spacing_um), file)


def _open(
    file: BinaryIO, name: str, max_decoded_bytes: int, slide_spacing_um: float | None
) -> OpenSource:
    with coded("file"):
        head = read_head(file, MAGIC_BYTES)
    key = detect_format(name, head)
    if key is None:
        raise SourceUnreadable("not_an_image", "neither first bytes nor suffix are of a format")
    if not FORMATS[key].begins(head):
        raise SourceUnreadable("not_an_image", f"the suffix says {key}, the first bytes do not")
    if key == "tiff" and (slide_spacing_um is not None or name.lower().endswith(SLIDES)):
        slide = _open_slide(file, max_decoded_bytes, slide_spacing_um)
        if slide is not None:
            return slide
    chosen: dict[str, Any] = {"spacing_um": slide_spacing_um} if key == "dicom" else {}
    if key == "tiff":
        chosen["name"] = name
    return reader_of(key).open(file, max_decoded_bytes=max_decoded_bytes, **chosen)


def _open_slide(file: BinaryIO, limit: int, spacing_um: float | None) -> OpenSource | None:
    try:
        from engine.sources.slides import reader
    except ImportError:
        raise SourceUnreadable(
            "not_installed",
            "the packages to read slides are not installed: pip install 'cohort-engine[slides]'",
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


def reader_of(key: str) -> Reader:
    """Return the reader of a format.

    Raises
    ------
    SourceUnreadable
        ``not_installed`` if a package of its module is not installed.
    """
    try:
        reader: Reader = import_module(FORMATS[key].module).reader
    except ImportError:
        extra = FORMATS[key].extra
        hint = "" if extra is None else f": pip install 'cohort-engine[{extra}]'"
        raise SourceUnreadable(
            "not_installed", f"the packages to read {key} are not installed{hint}"
        ) from None
    return reader
