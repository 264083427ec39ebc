"""Texts about annotations, which are ingested with the images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.ingest.annotations.driver import AnnotationReport
from engine.ingest.annotations.matching import MATCHING_REASONS
from engine.sources.annotations import DRAWING_REASONS
from engine.store.catalog.annotations import AnnotationState

REASONS = {**DRAWING_REASONS, **MATCHING_REASONS}

NAMED = 20
"""Maximum unusable annotations listed; --json lists all."""


def ingest_lines(report: AnnotationReport | None) -> Iterator[str]:
    """Describe the outcome of an ingest of annotations."""
    if report is None:
        return
    told = [f"{report.new} new", f"{report.changed} changed"]
    if report.retired:
        told.append(f"{report.retired} gone")
    files = f"{report.listed} files, {report.unchanged} unchanged"
    if report.ignored:
        files += f", {report.ignored:,} ignored"
    yield f"Drawings: {', '.join(told)} ({files})."
    if report.untaken:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(report.untaken.items()))
        yield (
            f"Ignored files that may be drawings, but not of the format that is declared: {kinds}."
        )
    if report.unmatched or report.failed:
        trouble = f"{report.unmatched} of no image, {report.failed} that can't be used"
        yield f"{trouble} (cohort status names them):"
    for code, count in sorted(report.reasons.items()):
        named = [_told(row) for row in report.refused_first if row["reason"] == code]
        those = f": {'; '.join(named)}" if named else ""
        more = f" and {count - len(named):,} more" if named and count > len(named) else ""
        yield f"  {count:,} {code}{those}{more}. {REASONS.get(code, '')}".rstrip()


def _told(row: Mapping[str, Any]) -> str:
    return f"{row['source']}, {row['structure']}" if row["structure"] else str(row["source"])


def status_lines(state: AnnotationState | None) -> Iterator[str]:
    """Describe the annotations of a cohort, and name the unusable ones."""
    if state is None:
        return
    counts = ", ".join(f"{count} {name}" for name, count in state.states.items())
    yield f"Drawings: {counts or 'none'}."
    for row in state.troubled[:NAMED]:
        yield f"  {_told(row)}: {row['state']}, {row['reason']}"
    if len(state.troubled) > NAMED:
        yield f"  and {len(state.troubled) - NAMED} more (--json names all)."
