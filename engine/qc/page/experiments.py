"""Experiments on the quality control page, or on separate pages for many images.

A page of a thousand thumbnails, loaded lazily, opens at once; a page of a million does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.pages.rendering import render
from engine.qc.outliers import EVERY
from engine.qc.page.context import PageContext
from engine.qc.page.histograms import number
from engine.qc.plan import experiment_name, experiment_path
from engine.qc.render import PALETTE
from engine.qc.statistics import COUNT, QcStatistics
from engine.store.pictures import EXPERIMENTS, MONTAGE, PAGE, Picture, PictureIndex, publish_picture
from engine.store.results import FAILED
from engine.tables.build import UNREADABLE

Pages = Mapping[int, Sequence[Picture]]
"""Pages of each experiment by its number; empty if everything is on the first page."""


class Experiment(NamedTuple):
    """Summary of an experiment: some figures, its montage, and its images with an overlay."""

    number: int
    first: int
    figures: str
    montage: Picture | None
    shown: list[int]


def first_images(facts: QcStatistics) -> dict[int, int]:
    """Return the first image of each experiment."""
    experiments, first = np.unique(facts.experiment, return_index=True)
    return dict(zip(experiments.tolist(), first.tolist(), strict=True))


def _of_experiments(facts: QcStatistics) -> Iterator[tuple[int, NDArray[np.int64]]]:
    order = np.argsort(facts.experiment, kind="stable")
    bounds = np.searchsorted(facts.experiment[order], np.arange(len(facts.experiments) + 1))
    for experiment, (start, stop) in enumerate(pairwise(bounds)):
        yield experiment, order[start:stop]


def _shown(context: PageContext, images: NDArray[np.int64]) -> list[int]:
    """Return the images that have an overlay, by name."""
    found = [n for n in images.tolist() if n in context.overlays]
    return sorted(found, key=lambda n: str(context.facts.columns["name"][n].as_py()))


def publish_pages(context: PageContext) -> tuple[Pages, PictureIndex]:
    """Write one or more pages for each experiment, if there are too many overlays for one page.

    Returns
    -------
    The pages, and their entries for the index of pictures.
    """
    if len(context.overlays) <= EVERY:
        return {}, {}
    inner = replace(context, up="../")
    pages: dict[int, list[Picture]] = {}
    for experiment, images in _of_experiments(context.facts):
        shown = _shown(context, images)
        for start in range(0, len(shown), EVERY):
            some = shown[start : start + EVERY]
            data = render(
                "qc/page/experiment.html.jinja",
                page=inner,
                number=number,
                title=context.experiment(experiment),
                images=some,
                start=start,
                total=len(shown),
            ).encode()
            path = f"{EXPERIMENTS}/{experiment_path(context.facts, experiment)}"
            name = publish_picture(context.store, context.folder, path, data, "html")
            of = f"{experiment_name(context.facts, experiment)}\n{start}"
            page = Picture(PAGE, of, "", name, len(data), outlines=len(some))
            pages.setdefault(experiment, []).append(page)
    return pages, {(PAGE, one.name): one for all_of in pages.values() for one in all_of}


def label_colours(context: PageContext) -> list[tuple[str, str]]:
    """Return the kinds of outlines with their colours; none if the only kind has no name."""
    labels = dict.fromkeys(label for one in context.noted.values() for label in one.labels)
    if not any(labels):
        return []
    classes = {c.name: c.colour for c in context.operation.label_classes}
    return [
        (label, classes.get(label, "rgb({},{},{})".format(*PALETTE[n % len(PALETTE)])))
        for n, label in enumerate(labels)
    ]


def summarise_experiments(context: PageContext) -> Iterator[Experiment]:
    """Yield a summary of each experiment."""
    for experiment, images in _of_experiments(context.facts):
        name = experiment_name(context.facts, experiment)
        yield Experiment(
            experiment,
            int(images[0]),
            ", ".join(_figures(context, images)),
            context.noted.get((MONTAGE, name)),
            _shown(context, images),
        )


def _figures(context: PageContext, images: NDArray[np.int64]) -> Iterator[str]:
    facts = context.facts
    failed = int(np.isin(facts.status[images], [FAILED, UNREADABLE]).sum())
    count = facts.measures[COUNT][images]
    yield f"{len(images):,} {'image' if len(images) == 1 else 'images'}"
    yield f"{number(float(np.nansum(count)))} {context.objects}"
    if failed:
        yield f"{failed:,} failed"
    mixed = len(np.unique(facts.group[images[np.isfinite(count)]])) > 1  # several spacings
    for measure in context.operation.averaged_columns:
        if measure not in facts.measures or (mixed and measure in context.operation.pixel_sizes):
            continue
        values = facts.measures[measure][images]
        weights = np.where(np.isfinite(values), np.nan_to_num(count), 0.0)
        if weights.sum():
            name, unit = context.caption(measure)
            mean = float(np.average(np.nan_to_num(values), weights=weights))
            yield f"{name} {number(mean)} {unit}".strip()
