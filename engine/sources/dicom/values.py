"""Values of a DICOM data set, robust against invalid content."""

from __future__ import annotations

import math
import re

from pydicom.dataset import Dataset

NOTHING = Dataset()
"""Placeholder of a missing item."""


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...] | None:
    """Return the finite numbers of an element; None if it is missing, or holds anything else."""
    try:
        value = dataset.get(keyword)
        if value is None or value == "":
            return None
        found = tuple(float(v) for v in (value if hasattr(value, "__iter__") else [value]))
    except Exception:  # conversion raises many types, with the value's text
        return None
    return found if found and all(math.isfinite(v) for v in found) else None


def number(dataset: Dataset, keyword: str) -> float | None:
    """Return the first number of an element, or None."""
    found = numbers(dataset, keyword)
    return found[0] if found else None


def whole(dataset: Dataset, keyword: str, default: int | None = None) -> int | None:
    """Return the integer of an element that fits 32 bits, or the default."""
    found = number(dataset, keyword)
    if found is None or abs(found) >= 2**31:
        return default
    return int(found)


def text(dataset: Dataset, keyword: str) -> str:
    """Return the text of an element, in any encoding; for identifiers, to be hashed."""
    try:
        value = dataset.get_item(keyword).value
    except (KeyError, AttributeError):
        return ""
    if isinstance(value, bytes):
        # Raw, so that an odd character set can neither fail nor be quoted in a warning.
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            value = value.decode("latin-1")
    return str(value or "").strip(" \0")


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of an element of terms, such as ImageType."""
    return tuple(part.strip(" \0[]'") for part in re.split(r"[\\,]", text(dataset, keyword)))


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence, none of a broken one."""
    try:
        return list(dataset.get(keyword) or ())
    except Exception:  # of many types, with its text
        return []


def first_item(dataset: Dataset, keyword: str) -> Dataset:
    """Return the first item of a sequence, or an empty data set."""
    found = items(dataset, keyword)
    return found[0] if found else NOTHING
