"""Texts of results: sentences and small tables for people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from engine.execution.progress import format_duration, pluralise
from engine.header import FINDINGS
from engine.operations.failure_reasons import explain
from engine.operations.spacings import spacing_text
from engine.runs.causes import REASONS_TO_COMPUTE, REASONS_TO_SKIP
from engine.runs.plan import Plan
from engine.sources import REASONS
from engine.status.key_status import Failure
from engine.status.status import DRAWINGS, Status
from engine.store.delta.torn import TORN
from engine.store.maintenance.gc import UnreferencedFile
from engine.store.maintenance.problems import CORRUPT, MISSING
from engine.store.maintenance.repair import Repaired
from engine.visible import visible
from jobs.messages import annotations as drawings

if TYPE_CHECKING:
    import pandas as pd

    from engine.ingest.report import IngestReport
    from engine.qc.driver import QcReport
    from engine.runs.driver import RunReport
    from engine.store.maintenance.verify import VerifyReport

NAMED = 20
"""Maximum failures and problems listed; --json lists all."""


def ingest_lines(report: IngestReport) -> list[str]:
    """Say what an ingest did."""
    from engine.ingest.report import LOST

    told = [
        f"{report.new} new",
        f"{report.changed} changed",
        f"{report.unchanged} unchanged",
    ]
    for count, what in (
        (report.touched, "read again, same pixels"),
        (report.duplicates, "with the pixels of another image"),
        (report.returned, "back again"),
        (report.orphaned, "orphaned (source is gone, pixels stay)"),
        (report.left, "left for the next ingest"),
        (report.withheld, "withheld (they name patients, their root is not confidential)"),
    ):
        if count:
            told.append(f"{count:,} {what}")
    if report.ignored:
        told.append(f"{pluralise(report.ignored, 'files')} ignored")
    lines = [f"Ingested images: {', '.join(told)} ({format_duration(report.elapsed_s)})."]
    if report.untaken:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(report.untaken.items()))
        lines.append(
            f"Ignored files that are images of formats not read here: {kinds}. Convert them to "
            "TIFF or PNG."
        )
    if report.failed:
        lines.append(
            f"{pluralise(report.failed, 'sources')} can't be read; cohort status names all:"
        )
    for code, count in report.reasons.items():
        named = [one["source"] for one in report.failed_first if one["reason"] == code]
        lines.append(f"  {count:,} {code}: {_some(named, count)}. {REASONS.get(code, '')}".rstrip())
    if report.unmatched:
        many = "does" if report.unmatched == 1 else "do"
        lines.append(
            f"{pluralise(report.unmatched, 'images')} {many} not match the layout, so subject, "
            f"date and so on are empty: {_some(report.unmatched_first, report.unmatched)}. If that "
            "is not intended, change layout in cohort.toml, then: cohort ingest COHORT --rehash"
        )
    if report.healed:
        many = pluralise(report.healed, "images")
        lines.append(f"Pixels of {many} were damaged or missing, and have been restored.")
    if report.replaced:
        lines.append(
            f"Pixels of {pluralise(len(report.replaced), 'images')} were damaged or gone, and "
            "their sources have other content now, which was taken as a change: "
            f"{_some(report.replaced[:NAMED], len(report.replaced))}"
        )
    if report.lost:
        lines.append(
            f"Pixels of {pluralise(len(report.lost), 'images')} are still damaged or gone:"
        )
    for reason, advice in LOST.items():
        named = [one["source"] for one in report.lost if one["reason"] == reason]
        if named:
            lines.append(f"  {len(named):,}: {_some(named[:NAMED], len(named))}. {advice}")
    if report.findings:
        lines.append("Odd (column findings of the catalog):")
    lines += [f"  {n:,} {code}: {FINDINGS.get(code, code)}" for code, n in report.findings.items()]
    lines += drawings.ingest_lines(report.annotations)
    return lines


def reveal_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Show the catalog names of files."""
    lines = [
        f"{row['path']}: {row['source']}, image {row['image_id']}, {row['state']}"
        + (f" ({row['reason']})" if row["reason"] else "")
        + (f", subject {row['subject']}" if row["subject"] else "")
        for row in rows
    ]
    return lines or ["No file was found."]


def _which(failure: Failure) -> str:
    """Return the file, with the plane if it has several."""
    named = failure.image_id.startswith(f"{failure.source}#")
    return failure.image_id if named else failure.source


def _some(first: Sequence[str], count: int) -> str:
    more = f" and {count - len(first):,} more" if count > len(first) else ""
    return ", ".join(sorted(first)) + more


def plan_lines(plan: Plan) -> list[str]:
    """Describe what a run would compute, and why."""
    given = ", ".join(f"{k} {_shown(v)}" for k, v in plan.parameters.items() if v is not None)
    lines = [f"{plan.operation} ({given}), key {plan.key[:8]}:"]
    if not plan.selected:
        lines.append("  No image is selected.")
    elif not plan.to_compute:
        lines.append(f"  Nothing to do: {pluralise(plan.selected, 'images')}, all settled.")
    for cause, count in plan.causes.items():
        why = REASONS_TO_COMPUTE[cause]
        if cause in ("parameters", "version", "weights") and plan.changes:
            why = "; ".join(f"{n} {_shown(a)} -> {_shown(b)}" for n, (a, b) in plan.changes.items())
        lines.append(f"  {count:>8} to compute: {cause} ({why})")
    lines += [f"  {count:>8} {REASONS_TO_SKIP[state]}" for state, count in plan.settled.items()]
    if plan.unreadable:
        noun = pluralise(plan.unreadable, "sources").split()[1]
        lines.append(f"  {plan.unreadable:>8} {noun} can't be read (cohort status names them)")
    if plan.orphaned:
        lines.append(f"  {plan.orphaned:>8} of them orphaned: source gone, pixels kept")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ":".join(_shown(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def run_lines(report: RunReport) -> list[str]:
    """Describe the outcome of a run."""
    name = f"{report.operation}, key {report.key[:8]}"
    if not report.selected:
        lines = [f"{name}: no image is selected."]
    elif not report.planned and not report.waiting:
        lines = [f"{name}: nothing to do, {pluralise(report.up_to_date, 'images')} up to date."]
    else:
        computed = report.published - report.failed
        lines = [
            f"{name}: {computed:,} of {pluralise(report.selected, 'images')} computed"
            + (f" ({report.copied:,} of them copied)" if report.copied else "")
            + (f", {report.up_to_date:,} up to date before" if report.up_to_date else "")
            + f" ({format_duration(report.elapsed_s)})."
        ]
    if report.failed:
        lines.append(f"  {report.failed} failed; cohort status names them:")
        for code, count in report.reasons.items():
            what, advice = explain(code, report.operation, of_source=False)
            lines.append(f"  {count:,} {code}: {what} {advice}")
    if report.failed_before:
        lines.append(f"  {report.failed_before} failed before; --failed tries them again.")
    if report.waiting:
        lines.append(
            f"  {pluralise(report.waiting, 'images')} have no result of {', '.join(report.reads)} "
            f"yet. First: cohort run COHORT {report.reads[0]}"
        )
    if report.unreadable_sources:
        lines.append(
            f"  {pluralise(report.unreadable_sources, 'sources')} can't be read; cohort status "
            "names which."
        )
    if report.declared:
        lines.append("  These parameters are now the declared ones (cohort.toml).")
    if report.trial:
        lines.append(
            "  A trial: these are not the declared parameters. --declare, asked of all images, "
            "makes them current."
        )
    return [*lines, f"  Tables: {', '.join(report.tables)}"] if report.tables else lines


def step_lines(report: object) -> list[str]:
    """Say what a step of a job did, by the kind of its report."""
    from engine.ingest.report import IngestReport
    from engine.qc.driver import QcReport
    from engine.runs.driver import RunReport

    if isinstance(report, IngestReport):
        return ingest_lines(report)
    if isinstance(report, QcReport):
        return qc_lines(report)
    return run_lines(report) if isinstance(report, RunReport) else []


def qc_lines(report: QcReport) -> list[str]:
    """Describe the pictures that were made, with the path of their page."""
    name = f"{report.operation}, key {report.key[:8]}"
    if report.made:
        told = f"{pluralise(report.made, 'pictures')} made, {report.up_to_date} were up to date"
        lines = [f"{name}: {told} ({format_duration(report.elapsed_s)})."]
    else:
        lines = [f"{name}: nothing to make, {report.up_to_date} pictures are up to date."]
    if report.failed:
        codes = ", ".join(f"{n} {code}" for code, n in report.reasons.items())
        lines.append(f"  {report.failed} images can't be shown: {codes}.")
    if report.unusual:
        lines.append(
            f"  {report.unusual} of {report.images} images are unusual; the page says why."
        )
    if report.page:
        lines.append(f"  Open in a browser: {report.page}")
    return lines


def status_lines(status: Status) -> list[str]:
    """Describe existing, missing and failed results, and name the most important."""
    states = ", ".join(f"{count:,} {state}" for state, count in status.images.items())
    lines = [f"Images: {states or 'none yet'}."]
    lines += spacing_lines(status)
    lines += drawings.status_lines(status.annotations)
    for key in status.keys:
        # Whether a key is the declared one is unknown if the declared operation can't be created.
        unknown = key.operation in status.unusable
        kind = "" if unknown else " (declared)" if key.declared else " (trial)"
        missing = "an unknown number" if key.missing is None else str(key.missing)
        lines.append(
            f"{key.operation}, key {key.key[:8]}{kind}: {key.done} done, {key.failed} failed, "
            f"{missing} missing" + (f" ({key.note})." if key.note else ".")
        )
        if key.gone:
            lines.append(
                f"  {pluralise(len(key.gone), 'files')} of its results are gone from the store, "
                f"{key.gone[0]} first: the next run computes their images again."
            )
        stale = [table.name for table in key.tables if table.stale or not table.there]
        if key.declared and stale:
            lines.append(f"  Not up to date: {', '.join(stale)}. cohort run makes them.")
    # Annotations are named above, with their state.
    failures = [one for one in status.failures if one.operation != DRAWINGS]
    if failures:
        lines.append(f"{len(failures)} failed:")
    trials = {(key.operation, key.key) for key in status.keys if not key.declared}
    for failure in failures[:NAMED]:
        of = failure.key or ""
        of_trial = f"@{of[:8]}" if (failure.operation, of) in trials else ""
        tried = f", {pluralise(failure.attempts, 'attempts')}" if failure.attempts else ""
        by = f"{failure.operation}{of_trial}"
        more = f" ({failure.detail})" if failure.detail else ""
        lines.append(f"  {_which(failure)}: {by}, {failure.reason}{more}{tried}")
    if len(failures) > NAMED:
        lines.append(f"  and {len(failures) - NAMED} more; --json names all.")
    lines += [*status.notes, *status.absent]
    if not (status.unusable or any(key.declared for key in status.keys)):
        lines.append(
            "No operation is declared; a first complete run declares it: cohort run COHORT circles"
        )
    if status.complete:
        lines.append("All declared operations are complete, and their tables are up to date.")
    return lines


def spacing_lines(status: Status) -> list[str]:
    """Describe the spacings of the images, if any is known, and warn if they are mixed."""
    if not any(status.spacings):
        return []
    told = [f"{count:,} {spacing_text(spacing)}" for spacing, count in status.spacings.items()]
    shown = told[:NAMED] + ([f"{len(told) - NAMED} more"] if len(told) > NAMED else [])
    mixed = " Mixed spacings: sizes in pixels can't be compared." if len(told) > 1 else ""
    return [f"Spacing (y x x): {', '.join(shown)}.{mixed}"]


ADVICE = (
    (
        r"pixels/.*/labels/",
        "Remove the label files that are named, if they are there: the next run of all images "
        "computes missing ones again.",
    ),
    (
        r"pixels/",
        "To restore pixels from their sources, where those still exist: "
        "cohort ingest COHORT --rehash; it names images whose sources are gone.",
    ),
    (
        r".*/(_head\.json|_delta_log/_last_checkpoint|_delta_log/.*\.parquet)$",
        "Head records and checkpoints are made again from the log: cohort verify COHORT --repair.",
    ),
    (
        r"catalog/",
        "The catalog can't be rebuilt: restore it from a backup, or ingest the sources "
        "into a new cohort.",
    ),
    (
        r"results/.*\.parquet$",
        "Restore the results that are named from a backup, or remove their files, if they are "
        "there: the next run computes missing ones again, where the images are not orphaned.",
    ),
    (
        r"results/",
        "Restore the log of the results from a backup, or remove their folder "
        "(results/OPERATION/VERSION) and the tables made of it, and run again: all of them are "
        "computed again.",
    ),
    (r"tables/", "Remove the tables that are named; the next run rebuilds them from the results."),
)
"""Advice about missing or corrupt files, by their path: the first pattern that fits."""


def advice_about(path: str) -> str | None:
    """Return what to do about a missing or corrupt file.

    Examples
    --------
    >>> advice_about("tables/circles.parquet")
    'Remove the tables that are named; the next run rebuilds them from the results.'
    """
    return next((advice for pattern, advice in ADVICE if re.match(pattern, path)), None)


def verify_lines(report: VerifyReport) -> list[str]:
    """Describe the outcome of a verification, and name the problems."""
    checked = ", ".join(pluralise(n, what.replace("_", " ")) for what, n in report.checked.items())
    lines = [f"Checked {checked}."]
    lines += [f"  {p.kind}: {p.path}: {p.text}" for p in report.problems[:NAMED]]
    if len(report.problems) > NAMED:
        lines.append(f"  and {len(report.problems) - NAMED} more; --json names all.")
    if report.leftovers:
        lines.append(
            f"{pluralise(len(report.leftovers), 'leftovers')} not referenced by any commit; cohort "
            "gc removes those that are old enough."
        )
    lines.append("All is well." if report.ok else f"{pluralise(len(report.problems), 'problems')}.")
    bad = [
        p.path
        for p in report.problems
        if p.kind in (MISSING, CORRUPT) and TORN not in p.text and "--repair" not in p.text
    ]
    fitting = dict.fromkeys(map(advice_about, bad))  # each once, in order
    return lines + [advice for advice in fitting if advice is not None]


def repair_lines(done: Sequence[Repaired], asked: bool) -> list[str]:
    """Describe the repairs of the ledgers, if they were requested."""
    if asked and not done:
        return ["Nothing to repair in the logs of the ledgers."]
    return [f"Repaired {one}" for one in done]


def gc_lines(left: Sequence[UnreferencedFile], dry_run: bool) -> list[str]:
    """Describe the files that were deleted, or would be."""
    done = "Would remove" if dry_run else "Removed"
    if not left:
        return [f"{done} nothing: no leftovers of that age."]
    size = sum(one.size for one in left) / 1024**2
    kinds = Counter(one.path.split("/", 1)[0] for one in left)
    told = ", ".join(f"{count} below {name}" for name, count in sorted(kinds.items()))
    return [f"{done} {pluralise(len(left), 'leftovers')} ({told}; {size:.1f} MiB)."]


def experiments_table(experiments: pd.DataFrame) -> Table:
    """Return a table of circles by experiment, for a first look."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in ("date", "subject", "experiment"):
        table.add_column(name, no_wrap=True)
    for name in ("images", "circles", "radius_px", "intensity"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in experiments.itertuples(index=False):
        table.add_row(
            *(
                Text(visible(str(getattr(row, name))))  # never interpreted as markup
                for name in ("date", "subject", "experiment", "images", "count")
            ),
            f"{row.radius_px_mean:.1f} ± {row.radius_px_sd:.1f}",
            f"{row.mean_intensity_mean:.0f} ± {row.mean_intensity_sd:.0f}",
        )
    return table
