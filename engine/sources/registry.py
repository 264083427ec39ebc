"""Formats of images and their detection: the built-in ones, and those of installed packages.

Readers are imported on first use, and packages are searched for formats only if no built-in format
claims a file.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from engine import plugins
from engine.errors import EngineError, SourceUnreadable, install_command
from engine.sources.base import Reader

MAGIC_BYTES = 512
"""Bytes of a file that `detect` needs; DICOM's mark ends at 132."""


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
    title
        Name for people; the format's key in capitals by default.
    """

    begins: Callable[[bytes], bool]
    suffixes: tuple[str, ...]
    module: str
    extra: str | None = None
    confidential: bool = False
    title: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Small file of a format for the contract suite; a format's module yields some in ``samples``.

    Attributes
    ----------
    name
        Distinguishes it from the format's other samples.
    content
        The file's bytes.
    planes
        Its planes (c, y, x), known without the reader.
    checked
        True if a checksum covers the pixels, so that no damage may go unnoticed.
    """

    name: str
    content: bytes = field(repr=False)
    planes: tuple[NDArray[Any], ...] = field(repr=False)
    checked: bool = False


class Detected(NamedTuple):
    """Format of a file: its key, and whether the first bytes match or only the suffix."""

    key: str
    format: Format
    by_content: bool


class BrokenFormat(EngineError):
    """A package's format that can't be used: (name, entry point, problem)."""

    def __str__(self) -> str:
        name, value, problem = self.args
        return (
            f"The format {name!r} is offered as {value}, which can't be used: {problem}. Its files "
            "were ignored. Install its package again, or ask its author."
        )


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


def _begins_nifti(head: bytes) -> bool:
    zipped = head[:2] == b"\x1f\x8b"  # RFC 1952, 2.3.1
    if zipped:
        try:
            head = zlib.decompressobj(31).decompress(head, MAGIC_BYTES)
        except zlib.error:
            return False
    if head[:4] in (b"\x1c\2\0\0", b"\0\0\2\x1c"):
        return head[4:7] in (b"n+2", b"ni2")
    if head[:4] not in (b"\x5c\1\0\0", b"\0\0\1\x5c"):
        return False
    # The mark is the last field; of a header that hardly compresses, not all is inflated here.
    return head[344:347] in (b"n+1", b"ni1") or (zipped and len(head) < 348)


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
    "nifti": Format(
        _begins_nifti,
        (".nii", ".nii.gz"),
        "engine.sources.nifti",
        extra="nifti",
        title="NIfTI",
    ),
}
"""Built-in formats by name, tried in this order; `formats` adds those of packages."""

UNSUPPORTED_SUFFIXES = (
    ".avif", ".bmp", ".czi", ".dv", ".fits", ".gif", ".heic", ".heif", ".ims", ".jp2", ".lif",
    ".mha", ".mrxs", ".nd2", ".nrrd", ".oib", ".oif", ".vsi", ".webp", ".zattrs", ".zvi",
    "zarr.json",
)  # fmt: skip
"""Suffixes of image formats that no built-in reader claims: files that are ignored, but reported
unless the format of a package claims them. OME-Zarr is reported by its metadata."""


@lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> tuple[Mapping[str, Format], tuple[BrokenFormat, ...]]:
    """Load the formats of packages, once per process and ``sys.path``; return broken ones, too."""
    found: dict[str, Format] = {}
    broken = []
    for point in plugins.installed(plugins.FORMATS):
        try:
            found[point.name] = _loaded(point)
        except BrokenFormat as error:
            broken.append(error)
    return found, tuple(broken)


def _loaded(point: EntryPoint) -> Format:
    if point.name in FORMATS:
        raise BrokenFormat(point.name, point.value, "a built-in format has this name")
    try:
        loaded = point.load()
        if isinstance(loaded, Format):
            loaded.begins(b"")
            loaded.begins(bytes(MAGIC_BYTES))
    except Exception as error:  # a foreign module may raise anything on import
        problem = f"{type(error).__name__}: {error}"
        raise BrokenFormat(point.name, point.value, problem) from error
    if not isinstance(loaded, Format):
        raise BrokenFormat(point.name, point.value, "it is not an engine.sources.Format")
    return loaded


def _of_packages() -> Mapping[str, Format]:
    return _installed(tuple(sys.path))[0]


def formats() -> dict[str, Format]:
    """Return all formats by name; those of packages can't replace the built-in ones."""
    return {**FORMATS, **_of_packages(), **FORMATS}  # built-in ones first


def broken_formats() -> tuple[BrokenFormat, ...]:
    """Return the packages' formats that can't be used; they do not affect others."""
    return _installed(tuple(sys.path))[1]


def known_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all formats."""
    return tuple(suffix for known in formats().values() for suffix in known.suffixes)


def unsupported_suffix(name: str) -> str | None:
    """Return the suffix of an ignored file, if it is that of an image format.

    Examples
    --------
    >>> unsupported_suffix("field.CZI"), unsupported_suffix("notes.txt")
    ('.czi', None)
    """
    lowered = name.lower()
    return next((suffix for suffix in UNSUPPORTED_SUFFIXES if lowered.endswith(suffix)), None)


def detect(name: str, head: bytes) -> Detected | None:
    """Return the format of a file, by its first bytes or else its suffix; None if it is ignored.

    Parameters
    ----------
    name
        File name or path; only its suffix is used, in any case.
    head
        The first bytes, up to `MAGIC_BYTES`.
    """
    tables: tuple[Callable[[], Mapping[str, Format]], ...] = (lambda: FORMATS, _of_packages)
    if head:
        for table in tables:
            for key, known in table().items():
                if _begins(known, head):
                    return Detected(key, known, True)
    lowered = name.lower()
    for table in tables:
        for key, known in table().items():
            if lowered.endswith(known.suffixes):
                return Detected(key, known, False)
    return None


def _begins(known: Format, head: bytes) -> bool:
    try:
        return bool(known.begins(head))
    except Exception:  # a package's predicate must not affect the files of other formats
        return False


def detect_format(name: str, head: bytes) -> str | None:
    """Return the key of a file's format, see `detect`.

    Examples
    --------
    >>> detect_format("slide.png", bytes.fromhex("ffd8ffe0"))
    'jpeg'
    >>> detect_format("notes.PNG", b"hello")
    'png'
    >>> detect_format("notes.txt", b"hello") is None
    True
    """
    found = detect(name, head)
    return None if found is None else found.key


def format_titles() -> list[str]:
    """Return the names of all formats, for people."""
    return [known.title or key.upper() for key, known in formats().items()]


def load_reader(key: str, known: Format) -> Reader:
    """Return the reader of a format.

    Raises
    ------
    SourceUnreadable
        ``not_installed`` if a package of its module is not installed.
    """
    try:
        reader: Reader = import_module(known.module).reader
    except ImportError:
        hint = "" if known.extra is None else f": {install_command(known.extra)}"
        raise SourceUnreadable(
            "not_installed", f"the packages to read {key} are not installed{hint}"
        ) from None
    return reader


def samples_of(known: Format) -> Iterable[Sample]:
    """Return the samples of a format, if its module has any."""
    samples = getattr(import_module(known.module), "samples", None)
    return () if samples is None else samples()
