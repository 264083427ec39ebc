"""What an ingest did, as data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from engine.ingest.annotations.driver import AnnotationReport

NAMED = 5
"""Failed sources, and those that do not match the layout, that a report names; it counts all."""

LOST = {
    "source_gone": "Their sources are gone: put these files back, or the damaged shard from a "
    "backup, then: cohort ingest COHORT --rehash",
    "source_not_taken": "Their sources were not among what was taken, or can't be read: "
    "cohort ingest COHORT --rehash takes all roots, and cohort status names what can't be read.",
    "source_differs": "Their sources gave other pixels than a moment before: "
    "cohort ingest COHORT --rehash",
    "too_many": "More was lost than one ingest takes at a time: cohort ingest COHORT --rehash",
    "metadata": "The zarr.json of their stack is damaged or gone: put it back from a backup, then: "
    "cohort ingest COHORT --rehash",
}
"""Why pixels could not be written anew, and what to do."""


@dataclass
class IngestReport:
    """What an ingest did. ``failed`` counts the sources and images that newly can't be read.

    ``new``, ``changed``, ``touched`` (other times, same pixels), ``duplicates`` (same pixels as
    another image, part of new or changed) and ``returned`` (were gone) count images. ``unmatched``
    counts new and changed ones whose path the layout does not match. The first of these, and the
    first that failed for each reason, are named in ``unmatched_first`` and ``failed_first``.
    ``withheld`` counts confidential files in roots that are not, of which nothing was written down,
    ``findings`` images about which something is odd (`engine.header.FINDINGS`), and ``untaken``
    ignored files by their suffix, where it is that of images.

    ``healed`` counts images whose stored pixels were damaged, gone or in no catalog of shards, and
    were written anew from their sources. With ``rehash``: ``lost`` names those that were not, and
    why (`LOST`), and ``replaced`` those whose source has other content now, which was taken as a
    change.
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
        """Drawings that newly can't be used."""
        return 0 if self.annotations is None else self.annotations.refused

    @property
    def taken(self) -> int:
        """Images that were catalogued."""
        return self.new + self.changed + self.touched

    def as_json(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        values = {n: dict(v) if isinstance(v, Counter) else v for n, v in vars(self).items()}
        values["annotations"] = self.annotations and self.annotations.as_json()
        return {**values, "elapsed_s": round(self.elapsed_s, 3)}
