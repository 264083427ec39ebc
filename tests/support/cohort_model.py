"""Model of a cohort as dictionaries, for comparison by the state machine."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.operations.base import Image, ImageFailed, Operation
from engine.store.digests import digest_plane
from tests.support.images import grey
from tests.support.operations import count_call

ROOT = "lab"

CONTENTS: list[NDArray[Any]] = [
    np.zeros((16, 16), np.uint8),
    *(grey(n, (16, 16)) for n in range(2)),
    grey(3, (16, 24), "uint16"),
]
"""Possible contents of an image: one is blank, one differs in shape and type. Few, so that images
have equal contents."""

DIGESTS = [digest_plane(pixels[None]) for pixels in CONTENTS]

BROKEN = {"empty": b"", "not_an_image": b"no image at all"}
"""Unreadable files, by reason; truncated images are added where they are written."""


def mark(pixels: NDArray[Any]) -> int:
    """Return a number that identifies the content."""
    return zlib.crc32(np.ascontiguousarray(pixels).tobytes())


MARKS = [mark(pixels) for pixels in CONTENTS]


class Asked(Operation):
    """Return as many objects as the content's mark, none for some; fail on configured contents."""

    name: ClassVar[str] = "asked"
    object_schema: ClassVar[pa.Schema] = pa.schema([("y", pa.float64()), ("value", pa.float64())])
    averaged_columns: ClassVar[tuple[str, ...]] = ("value",)
    non_key_parameters: ClassVar[frozenset[str]] = frozenset({"calls", "sick"})

    scale: int = 1
    calls: str = ""
    sick: tuple[int, ...] = ()

    def measure(self, image: Image) -> Mapping[str, Sequence[Any]]:
        """Count the call by its purpose, and measure."""
        found = mark(image.pixels[0])
        count_call(self.calls, str(MARKS.index(found)))
        if found in self.sick:
            raise ImageFailed("told_to")
        return answer(image.pixels[0], self.scale)


def answer(pixels: NDArray[Any], scale: int) -> dict[str, list[float]]:
    """Return the expected result of an image."""
    count = mark(pixels) % 3
    return {
        "y": [float(n) for n in range(count)],
        "value": [float(pixels.mean()) * scale + n for n in range(count)],
    }


@dataclass(frozen=True)
class File:
    """A source on disk: its content (None if unreadable), and the number of its write."""

    content: int | None
    writing: int


@dataclass(frozen=True)
class Known:
    """An image in the catalog: its state, its content, and the write that was read."""

    state: str
    content: int | None
    writing: int


@dataclass
class Model:
    """Files on disk, the catalog, and the status of each row by scale, (image, content)."""

    files: dict[str, File] = field(default_factory=dict)
    catalog: dict[str, Known] = field(default_factory=dict)
    rows: dict[int, dict[tuple[str, int], str]] = field(default_factory=dict)
    sick: set[int] = field(default_factory=set)

    def ingested(self) -> dict[str, Known]:
        """Return the catalog as the next ingest leaves it."""
        found = dict(self.catalog)
        for name, file in self.files.items():
            state = "failed" if file.content is None else "ready"
            found[name] = Known(state, file.content, file.writing)
        for name in self.catalog.keys() - self.files.keys():
            known = self.catalog[name]
            if known.state == "ready":
                found[name] = Known("orphaned", known.content, known.writing)
            elif known.state == "failed":
                found[name] = Known("retired", None, known.writing)
        return found

    def selected(self, limit: int | None) -> list[tuple[str, int]]:
        """Return the images that a run selects, with their contents."""
        there = {n: k.content for n, k in self.catalog.items() if k.content is not None}
        return sorted(there.items())[:limit]

    def computed(
        self, scale: int, limit: int | None, retry: bool
    ) -> tuple[dict[tuple[str, int], str], list[int]]:
        """Return the rows after a run, and the contents that it computes, sorted."""
        rows = dict(self.rows.get(scale, {}))
        needed = [
            row
            for row in self.selected(limit)
            if row not in rows or (retry and rows[row] == "failed")
        ]
        calls = []
        for content in sorted({content for _, content in needed}):
            there = {status for (_, shown), status in rows.items() if shown == content}
            if "done" in there:
                status = "done"
            elif there and not retry:
                status = "failed"
            else:
                calls.append(content)
                status = "failed" if content in self.sick else "done"
            rows.update({row: status for row in needed if row[1] == content})
        return rows, calls
