"""Index of the catalog by source and by content, for ingest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator
from enum import Enum

import pyarrow as pa
import pyarrow.compute as pc

from engine.store.arrow import is_any
from engine.store.catalog.tables import FAILED, ORPHANED, READY, ImageRow, latest_versions
from engine.store.catalog.unnamed import read_shard_places, unnamed_images
from engine.store.delta.ledger import Ledger, Snapshot
from engine.store.rows import rows_of


class SourceState(Enum):
    """State of a source on disk, compared with the catalog."""

    UNCHANGED = "unchanged"
    RETURNED = "returned"
    """Unchanged, after it was missing."""
    CHANGED = "changed"
    """New, changed, or failed for a reason that may be transient."""


class CatalogIndex:
    """The newest row of each image, by source and by content.

    Rows stay in Arrow until they are requested, so a million of them cost only their columns.
    Images without a shard in the catalog are ingested again: see `engine.store.catalog.unnamed`.
    """

    def __init__(self, ledger: Ledger, snapshot: Snapshot) -> None:
        self._ledger = ledger
        self._parts = {part.path for part in snapshot.parts}
        self._table = latest_versions(ledger.read(snapshot.parts))
        lacking = unnamed_images(self._table, read_shard_places(ledger.store))
        self._unnamed = frozenset(lacking["image_id"].to_pylist())
        self._by_source: dict[str, list[int]] = {}
        self._by_content: dict[str, int] = {}
        self._others: dict[str, ImageRow] = {}
        sources, contents, states, ids = (
            self._table[name].to_pylist() for name in ("source", "content", "state", "image_id")
        )
        columns = zip(sources, contents, states, ids, strict=True)
        for n, (source, content, state, image_id) in enumerate(columns):
            self._by_source.setdefault(source, []).append(n)
            there = state in (READY, ORPHANED) and image_id not in self._unnamed
            if content is not None and there:
                self._by_content.setdefault(content, n)
        self._again = frozenset(n for n, i in enumerate(ids) if i in self._unnamed)
        self._states: list[str] = states
        self._reasons: list[str | None] = self._table["reason"].to_pylist()
        self._stats = list(
            zip(
                *(self._table[n].to_pylist() for n in ("size", "mtime_ns", "ctime_ns")), strict=True
            )
        )
        self._newer_content: dict[str, ImageRow] = {}
        self._newer_source: dict[str, dict[str, ImageRow]] = {}
        self._newer_id: dict[str, ImageRow] = {}
        self._facts: dict[str, pa.Table] = {}

    def _row(self, n: int) -> ImageRow:
        return rows_of(self._table.slice(n, 1), ImageRow)[0]

    def by_source(self, source: str) -> dict[str, ImageRow]:
        """Return the images of a source, by image_id."""
        rows = {row.image_id: row for row in map(self._row, self._by_source.get(source, []))}
        return {**rows, **self._newer_source.get(source, {})}

    def image(self, source: str, image_id: str) -> ImageRow | None:
        """Return one image of a source, in logarithmic time, for any number of pages."""
        newer = self._newer_source.get(source, {}).get(image_id)
        if newer is not None:
            return newer
        ids = self._table["image_id"]
        n = bisect_left(range(len(ids)), image_id, key=lambda i: ids[i].as_py())
        return self._row(n) if n < len(ids) and ids[n].as_py() == image_id else None

    def by_id(self, image_id: str) -> ImageRow | None:
        """Return the image with this id, from any source."""
        return self._newer_id.get(image_id) or self.image("", image_id)

    def state_of(
        self, source: str, stat: tuple[int, int, int], transient: Container[str]
    ) -> SourceState:
        """Compare a source with the catalog.

        Parameters
        ----------
        stat
            Size, mtime_ns and ctime_ns as listed.
        transient
            Reasons of failures that may be transient.
        """
        rows_of_source = self._by_source.get(source, ())
        here = [n for n in rows_of_source if self._states[n] in (READY, FAILED)]
        # A page that its file lost is orphaned, too, but does not describe the current file.
        rows = here or [n for n in rows_of_source if self._states[n] == ORPHANED]
        if not rows or any(self._stats[n] != stat or self._reasons[n] in transient for n in rows):
            return SourceState.CHANGED
        if not self._again.isdisjoint(rows):
            return SourceState.CHANGED
        return SourceState.UNCHANGED if here else SourceState.RETURNED

    def lacks_pixels(self, image_id: str) -> bool:
        """Return True if, at the start of this ingest, the catalog named no shard of an image."""
        return image_id in self._unnamed and image_id not in self._newer_id

    def by_content(self, content: str) -> ImageRow | None:
        """Return the image that holds the pixels of all images with this content."""
        if content in self._newer_content:
            return self._newer_content[content]
        n = self._by_content.get(content)
        return None if n is None else self._row(n)

    def facts_of(self, series: str, fact: str) -> dict[str, str]:
        """Return a header field of a series' ready images, by source."""
        if fact not in self._facts:
            values = pc.map_lookup(self._table["header"], pa.scalar(fact), "first")
            kept = pc.and_(pc.is_valid(values), is_any(self._table["state"], [READY]))
            rows = self._table.select(["series", "source"]).append_column("value", values)
            self._facts[fact] = rows.filter(kept)
        table = self._facts[fact]
        rows = table.filter(is_any(table["series"], [series])).to_pylist()
        found = {row["source"]: row["value"] for row in rows}
        for row in self._newer_id.values():
            if row.series == series and row.state == READY and fact in row.header:
                found[row.source] = row.header[fact]
        return found

    def sources(self) -> Iterator[str]:
        """Yield the sources that had images, or failed, before this ingest."""
        for source, rows in self._by_source.items():
            if any(self._states[n] in (READY, FAILED) for n in rows):
                yield source

    def add(self, rows: Iterable[ImageRow]) -> None:
        """Add committed rows."""
        for row in rows:
            self._newer_source.setdefault(row.source, {})[row.image_id] = row
            self._newer_id[row.image_id] = row
            known = row.content is None or row.content in self._by_content
            if row.state == READY and row.content is not None and not known:
                self._newer_content.setdefault(row.content, row)

    def add_concurrent(self, snapshot: Snapshot) -> None:
        """Add the rows that other writers committed since."""
        fresh = [part for part in snapshot.parts if part.path not in self._parts]
        rows = rows_of(latest_versions(self._ledger.read(fresh)), ImageRow)
        self._others.update({row.image_id: row for row in rows})
        self.mark_seen(snapshot)

    def mark_seen(self, snapshot: Snapshot) -> None:
        """Mark all parts of a snapshot as known."""
        self._parts |= {part.path for part in snapshot.parts}

    def concurrent_row(self, image_id: str) -> ImageRow | None:
        """Return the row that a concurrent ingest committed for an image."""
        return self._others.get(image_id)
