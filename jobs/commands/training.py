"""``cohort train``, ``evaluate`` and ``diff``: train networks and measure their quality."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import UsageError
from engine.execution.progress import format_duration, pluralise
from engine.learning.datasets.label_images import LabelImages
from engine.learning.datasets.left_out import LeftOut, told_left_out
from engine.learning.datasets.mask_files import LayeredFiles, MaskFolders
from engine.learning.datasets.masks import ContourMasks, MaskSource
from engine.learning.evaluation.bootstrap import Interval
from engine.learning.evaluation.comparison import (
    DIFFERENCES,
    Difference,
    compare,
    table_of,
    worst_pictures,
)
from engine.learning.evaluation.evaluation import read_evaluation
from engine.learning.evaluation.page import (
    PAGE,
    label_of,
    signed,
    told,
    told_interval,
    told_sureness,
    write_comparison,
)
from engine.learning.training.settings import TrainingSettings
from engine.learning_drivers.train import cores
from engine.store.backend.atomic_write import atomic_write
from jobs.commands.core import graceful_interrupt, open_client
from jobs.framework import app, command
from jobs.opening import opened
from jobs.options import ClusterArguments, CohortPath, Limit, Where, WithOrphaned, read_parameters
from jobs.output import Output

Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default CUDA if available.")]


@dataclass(frozen=True, slots=True)
class MaskArguments:
    """Options for the source of masks, of which exactly one is given."""

    masks: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folders bone, fat and other of masks.")
    ] = None
    psd: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Layered drawings.")] = None
    contours: Annotated[
        str | None, typer.Option(metavar="NAME=LABEL,...", help="Drawn contours, outer=2,inner=1.")
    ] = None
    labels: Annotated[
        str | None, typer.Option(metavar="NAME", help="A label image beside the pixels.")
    ] = None

    def source(self) -> MaskSource:
        """Return the source of masks.

        Raises
        ------
        UsageError
            If not exactly one option is given.
        """
        given = [n for n in ("masks", "psd", "contours", "labels") if getattr(self, n) is not None]
        if len(given) != 1:
            raise UsageError(
                "Give the source of masks by one of --masks FOLDER, --psd FOLDER, "
                "--contours NAME=LABEL and --labels NAME."
            )
        if self.masks is not None:
            return MaskFolders(str(self.masks.absolute()))
        if self.psd is not None:
            return LayeredFiles(str(self.psd.absolute()))
        if self.contours is not None:
            return ContourMasks(_labels(self.contours))
        return LabelImages(str(self.labels))


def _labels(text: str) -> dict[str, int]:
    pairs = [item.partition("=") for item in text.split(",")]
    try:
        return {name.strip(): int(label) for name, _, label in pairs}
    except ValueError:
        raise UsageError(f"--contours {text!r} must be like outer=2,inner=1.") from None


def as_typed(words: Sequence[str]) -> str:
    """Format a command for a shell, with double quotes around words that contain single ones.

    Examples
    --------
    >>> print(as_typed(["cohort", "train", "--where", "subject != 's3'"]))
    cohort train --where "subject != 's3'"
    """
    return " ".join(
        f'"{word}"' if "'" in word and not set(word) & set('"$`\\') else shlex.quote(word)
        for word in words
    )


def whole_machine(cluster: ClusterArguments) -> ClusterArguments:
    """Return a cluster's arguments, by default one worker with all cores for the single task."""
    if cluster.scheduler or cluster.workers or cluster.threads_per_worker:
        return cluster
    return replace(cluster, workers=1, threads_per_worker=cores())


@command(app, parameters=True)
def train(
    output: Output,
    context: typer.Context,
    place: CohortPath,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Of the training.")],
    *,
    where: Where = None,
    limit: Limit = None,
    with_orphaned: WithOrphaned = False,
    start: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Fine-tune this model: a folder, or marrow."),
    ] = None,
    device: Device = None,
    mask: MaskArguments,
    cluster: ClusterArguments,
) -> int:
    """Train a network on the images with masks; the same command resumes a stopped training.

    Accepts settings as options, e.g. --steps 4000 --batch 8 --crop-px 256 --architecture unet
    --options '{"width": 16}' --learning-rate 0.002 --holdout 0.25 --seed 0 --augmentation
    '{"scale": 1.4, "colour": 1}'.
    """
    settings = TrainingSettings(**{"name": folder.name, **read_parameters(context.args)})
    cohort, source = opened(output, place), mask.source()
    with graceful_interrupt(output) as stop, open_client(output, whole_machine(cluster)) as client:
        report = cohort.train(
            folder,
            source,
            settings,
            client=client,
            where=where,
            limit=limit,
            with_orphaned=with_orphaned,
            start=start,
            device=device,
            made_by=as_typed(["cohort", *sys.argv[1:]]),
            events=output.events,
            stop=stop,
        )
    output.result(report, *_lines(report))
    return 0


@command(app, parameters=True)
def evaluate(
    output: Output,
    context: typer.Context,
    place: CohortPath,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="For tables, plots and a page.")],
    *,
    stored: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Use stored labels, e.g. segment@1a2b3c4d."),
    ] = None,
    where: Where = None,
    limit: Limit = None,
    with_orphaned: WithOrphaned = False,
    mask: MaskArguments,
    cluster: ClusterArguments,
) -> int:
    """Compare predictions of segment with masks: DSC, bone density, and pictures of errors.

    Accepts the parameters of segment as options, e.g. --model marrow.
    """
    given = read_parameters(context.args)
    if stored is not None and given:
        raise UsageError("Give --stored or parameters of segment, not both.")
    cohort, source = opened(output, place), mask.source()
    answer = cohort.operation("segment", **given) if stored is None else LabelImages(stored)
    with graceful_interrupt(output) as stop, open_client(output, cluster) as client:
        made = cohort.evaluate(
            folder,
            source,
            answer,  # type: ignore[arg-type]
            client=client,
            where=where,
            limit=limit,
            with_orphaned=with_orphaned,
            events=output.events,
            stop=stop,
        )
    figures = made.summary()
    worst = made.images.iloc[0]
    name = f"{worst['subject']} {worst['name']}".strip()
    values = {
        "of": made.of,
        "images": len(made.images),
        "figures": {name: _finite(interval) for name, interval in figures.items()},
        "worst": worst["image_id"],
        "flattered": made.overlap_warning,
        "left_out": [one.as_json() for one in made.left_out],
        "page": str(folder / PAGE),
    }
    output.result(
        values,
        f"{made.of} against masks of {pluralise(len(made.images), 'images')}:",
        *(f"  {label_of(n)}: {told_interval(n, i)}" for n, i in figures.items()),
        told_sureness(len(made.images)),
        *filter(None, [made.overlap_warning]),
        *told_left_out(made.left_out),
        f"Worst: {name}, DSC {told('dsc', worst['dsc'])}",
        f"Page: {folder / PAGE}",
    )
    return 0


@command(app)
def diff(
    output: Output,
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Of another one.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="For a table and a page; none by default.")
    ] = None,
) -> int:
    """Compare two evaluations of the same images: two models, or two keys, side by side."""
    pair = read_evaluation(first), read_evaluation(second)
    differences, both = compare(*pair)
    if folder is not None:
        atomic_write(folder / DIFFERENCES, table_of(both))
        write_comparison(folder, pair, differences, worst_pictures(both, (first, second), folder))
    values = {
        "a": pair[0].of,
        "b": pair[1].of,
        "images": len(both),
        "figures": {d.figure: _both(d) for d in differences},
        "page": None if folder is None else str(folder / PAGE),
    }
    lines = [
        f"  {label_of(d.figure)}: {told(d.figure, d.first)} and {told(d.figure, d.second)}, "
        f"apart by {signed(d.figure, d.change)}"
        for d in differences
    ]
    page = [] if folder is None else [f"Page: {folder / PAGE}"]
    head = f"{pair[0].of} and {pair[1].of} on {pluralise(len(both), 'images')}:"
    output.result(values, head, *lines, *page)
    return 0


def _finite(interval: Interval) -> dict[str, float | None]:
    return {n: v if math.isfinite(v) else None for n, v in interval._asdict().items()}


def _both(difference: Difference) -> dict[str, Any]:
    ends = _finite(Interval(difference.first, difference.second, 0.0))
    return {"a": ends["value"], "b": ends["low"], "change": _finite(difference.change)}


def _lines(report: dict[str, Any]) -> list[str]:
    begun = f" (from step {report['resumed_at']:,})" if report["resumed_at"] else ""
    lines = [
        f"Trained {pluralise(report['step'], 'steps')}{begun} on "
        f"{pluralise(report['trained'], 'images')}, {report['held_out']:,} held out, in "
        f"{format_duration(report['elapsed_s'])}. Curves: {report['folder']}/curves.png",
        f"  Held out, so fit to evaluate on: {_few(report['subjects_held_out'])}",
    ]
    lines += told_left_out([LeftOut(**one) for one in report["left_out"]])
    for name, path in report["models"].items():
        found = report["metrics"][name]
        density = found["density_error"]
        told = f", bone density off by {100 * density:.1f} %" if density == density else ""
        lines.append(f"  {name}: DSC {found['dsc']:.3f}{told}  {path}")
    return [*lines, f"Use one: cohort run COHORT segment --model {report['folder']}/best-dsc"]


def _few(names: Sequence[str], most: int = 10) -> str:
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left:,} more (--json has all)" if left > 0 else "")
