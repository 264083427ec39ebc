"""Common part of SEG and RTSTRUCT: robust reading, and original UIDs.

Images may have UIDs that the standard forbids, and validators refuse an object that copies them.
Objects that Cohort wrote hold legal ones, and a private text (block ``COHORT UIDS``) maps each one
to its original, by which the readers find the image again.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from engine.errors import ParameterError, SourceUnreadable

BLOCK_GROUP, BLOCK = 0x0099, "COHORT UIDS"

DEFLATED = b"1.2.840.10008.1.2.1.99"
"""Transfer syntax with a few bytes that may inflate to gigabytes before the first element."""

SUFFIXES = (".dcm", ".dicom", ".seg", "")
"""Suffixes of candidate DICOM files; the content decides."""


@dataclass(frozen=True)
class DicomReader:
    """Base of the readers of DICOM objects: they depend only on the file, and have no options."""

    @property
    def context(self) -> str:
        """Empty: the result depends only on the file."""
        return ""

    def claims(self, path: str) -> bool:
        """Return True for candidates by suffix; other objects fail with a reason."""
        return Path(path).suffix.lower() in SUFFIXES


def refuse_options(options: Mapping[str, object]) -> None:
    """Raise `ParameterError` for options of a format that has none."""
    if options:
        name = min(options)
        raise ParameterError(name, options[name], "left out: this format has no options")


@contextmanager
def read_dataset(data: bytes, modality: str) -> Iterator[Dataset]:
    """Parse a DICOM object; translate all errors of the block.

    Raises
    ------
    SourceUnreadable
        ``empty``, ``unsupported`` (another modality, or deflated) or ``corrupt``.
    """
    if not data:
        raise SourceUnreadable("empty", "the file has no bytes")
    if DEFLATED in data[:4096]:
        raise SourceUnreadable("unsupported", "deflated objects are not read as drawings")
    try:
        with pydicom.config.disable_value_validation():
            dataset = pydicom.dcmread(io.BytesIO(data))
            if dataset.get("Modality") != modality:
                raise SourceUnreadable("unsupported", f"it is not a {modality} object")
            yield dataset
    except SourceUnreadable:
        raise
    except InvalidDicomError:
        raise SourceUnreadable("corrupt", "it is not a DICOM file") from None
    except Exception as error:  # broken bytes make parsers raise anything
        kind = type(error).__name__
        raise SourceUnreadable("corrupt", f"the {modality} can't be parsed ({kind})") from None


def noted_uids(dataset: Dataset) -> dict[str, str]:
    """Return the original of each replacement UID."""
    try:
        text = str(dataset.private_block(BLOCK_GROUP, BLOCK)[1].value)
    except KeyError:
        return {}
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
