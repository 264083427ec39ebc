"""Report of an ingest, as data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from engine.ingest.annotations.driver import AnnotationReport

NAMED = 5
"""Failed and unmatched sources that a report lists; it counts all."""

LOST = {
    "source_gone": "Their sources are gone: put these files back, or the damaged shard from a "
    "backup, then: cohort ingest COHORT --rehash",
    "source_not_taken": "Their sources were not ingested this time, or can't be read: "
    "cohort ingest COHORT --rehash ingests all roots, and cohort status names unreadable sources.",
    "source_differs": "Their sources changed during the ingest: cohort ingest COHORT --rehash",
    "too_many": "More pixels were lost than one ingest can repair: cohort ingest COHORT --rehash",
    "metadata": "The zarr.json of their stack is damaged or gone: put it back from a backup, then: "
    "cohort ingest COHORT --rehash",
}
"""Reasons why pixels could not be repaired, with remedies."""


@dataclass
class IngestReport:
    """Result of an ingest. ``failed`` counts the sources and images that became unreadable.

    ``new``, ``changed``, ``touched`` (other times, same pixels), ``duplicates`` (same pixels as
    another image, part of new or changed) and ``returned`` (were missing) count images.
    ``unmatched`` counts new and changed images whose path the layout does not match.
    ``unmatched_first`` names the first of these, and ``failed_first`` the first failures for each
    reason. ``withheld`` counts confidential files in roots that are not confidential (nothing of
    them is recorded), ``findings`` images with anomalies (`engine.header.FINDINGS`), and
    ``untaken`` ignored files with the suffix of an image format, by suffix.

    ``healed`` counts images whose stored pixels were damaged, missing or not in the catalog of
    shards, and were restored from their sources. With ``rehash``: ``lost`` names the images that
    were not restored, with reasons (`LOST`), and ``replaced`` those whose source has other content
    now, which counts as a change.
    """

    listed: int = 0
    unchanged: int = 0
    ignored: int = 0
    new: int = 0
    changed: int = 0
    touched: int = 0
    duplicates: int = 0
    returned: int = 0
    orphaned: int = 0
    failed: int = 0
    left: int = 0
    withheld: int = 0
    unmatched: int = 0
    elapsed_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    untaken: Counter[str] = field(default_factory=Counter)
    failed_first: list[dict[str, str]] = field(default_factory=list)
    unmatched_first: list[str] = field(default_factory=list)
    healed: int = 0
    lost: list[dict[str, str]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    annotations: AnnotationReport | None = None

    @property
    def refused(self) -> int:
        """Number of newly unusable annotations."""
        return 0 if self.annotations is None else self.annotations.refused

    @property
    def taken(self) -> int:
        """Number of images that were catalogued."""
        return self.new + self.changed + self.touched

    def as_json(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        values = {n: dict(v) if isinstance(v, Counter) else v for n, v in vars(self).items()}
        values["annotations"] = self.annotations and self.annotations.as_json()
        return {**values, "elapsed_s": round(self.elapsed_s, 3)}
