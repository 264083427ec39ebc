"""Section of all experiments on the quality control page, or on separate pages for many images.

A page of a thousand thumbnails, loaded lazily, opens at once; a page of a million does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.qc.outliers import EVERY, SAMPLE
from engine.qc.page.cards import PageContext, card, experiment_text, foot, head
from engine.qc.page.histograms import number
from engine.qc.plan import experiment_name, experiment_path
from engine.qc.render import OVERLAY_PX, PALETTE, WINDOW_PERCENT
from engine.qc.statistics import COUNT, QcStatistics
from engine.store.pictures import EXPERIMENTS, MONTAGE, PAGE, Noted, Picture, publish_picture
from engine.store.results import FAILED
from engine.tables.build import UNREADABLE
from engine.visible import escape

Pages = Mapping[int, Sequence[Picture]]
"""Pages of each experiment by its number; empty if everything is on the first page."""


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


def publish_pages(context: PageContext) -> tuple[Pages, Noted]:
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
            text = "".join(_own_page(inner, experiment, some, start, len(shown)))
            path = f"{EXPERIMENTS}/{experiment_path(context.facts, experiment)}"
            data = text.encode()
            name = publish_picture(context.store, context.folder, path, data, "html")
            of = f"{experiment_name(context.facts, experiment)}\n{start}"
            page = Picture(PAGE, of, "", name, len(data), outlines=len(some))
            pages.setdefault(experiment, []).append(page)
    return pages, {(PAGE, one.name): one for all_of in pages.values() for one in all_of}


def _own_page(
    context: PageContext, experiment: int, images: Sequence[int], start: int, total: int
) -> Iterator[str]:
    name = experiment_text(context.facts, experiment)
    yield head(f"{name}: {context.operation.name}")
    yield (
        f"<header>\n<h1>{escape(name)} <span>{escape(context.operation.name)}, overlays "
        f"{start + 1:,} to {start + len(images):,} of {total:,}</span></h1>\n"
        '<p><a href="../index.html#experiments">All experiments</a></p>\n</header>\n<main>'
        '<article><div class="cards">\n'
    )
    for image in images:
        yield card(context, image)
    yield "</div></article></main>\n"
    yield foot()


def experiments_section(context: PageContext, pages: Pages) -> Iterator[str]:
    """Yield the section of all experiments: a montage of each, and its overlays or their pages."""
    facts = context.facts
    shown, computed = len(context.overlays), int(facts.computed.sum())
    yield (
        f'<section id="experiments">\n<h2>Experiments <span>{len(facts.experiments):,}</span></h2>'
        "\n<p>"
    )
    if shown < computed:
        yield (
            f"Overlays of {shown:,} of {computed:,} images: with more than {EVERY:,}, those that "
            f"failed, the extremes, and {SAMPLE} of each experiment. <code>cohort qc COHORT "
            f"{escape(context.operation.name)} --all</code> makes the rest. "
        )
    low, high = WINDOW_PERCENT
    yield (
        f"Black and white are the {low:g} and {high:g} percentiles of each image's grey values, "
        "given below it; 8-bit colour is unchanged. Pictures are at most "
        f"{OVERLAY_PX:,} pixels wide or high. In a montage all crops have one size, the smallest "
        f"{escape(context.operation.singular)} first.</p>\n"
    )
    labels = list(dict.fromkeys(label for one in context.noted.values() for label in one.labels))
    if any(labels):
        yield "<p>"
        classes = {c.name: c.colour for c in context.operation.label_classes}
        for n, label in enumerate(labels):
            colour = classes.get(label, "rgb({},{},{})".format(*PALETTE[n % len(PALETTE)]))
            yield f'<span class="key"><i style="background:{colour}"></i>{escape(label)}</span>'
        yield "</p>\n"
    for experiment, images in _of_experiments(facts):
        yield from _experiment(context, experiment, images, pages)
    yield "<p data-none hidden>None in this selection.</p>\n</section>\n"


def _experiment(
    context: PageContext, experiment: int, images: NDArray[np.int64], pages: Pages
) -> Iterator[str]:
    facts = context.facts
    failed = int(np.isin(facts.status[images], [FAILED, UNREADABLE]).sum())
    count = facts.measures[COUNT][images]
    told = [f"{len(images):,} {'image' if len(images) == 1 else 'images'}"]
    told.append(f"{number(float(np.nansum(count)))} {context.objects}")
    if failed:
        told.append(f"{failed:,} failed")
    mixed = len(np.unique(facts.group[images[np.isfinite(count)]])) > 1  # several spacings
    for measure in context.operation.quantities:
        if measure not in facts.measures or (mixed and measure in context.operation.pixel_sizes):
            continue
        values = facts.measures[measure][images]
        weights = np.where(np.isfinite(values), np.nan_to_num(count), 0.0)
        if weights.sum():
            name, unit = context.caption(measure)
            mean = float(np.average(np.nan_to_num(values), weights=weights))
            told.append(f"{name} {number(mean)} {unit}".strip())
    yield (
        f"<article {context.tags(int(images[0]))}><h3>{escape(experiment_text(facts, experiment))} "
        f"<span>{escape(', '.join(told))}</span></h3>\n"
    )
    sheet = context.noted.get((MONTAGE, experiment_name(facts, experiment)))
    if sheet is not None:
        yield (
            f'<a data-big href="{sheet.path}"><img class="montage" loading="lazy" '
            f'decoding="async" src="{sheet.path}" width="{sheet.width}" height="{sheet.height}" '
            f'alt="{sheet.outlines} {escape(context.objects)} of '
            f'{escape(experiment_text(facts, experiment))}"></a>\n'
        )
    if pages:
        start = 0
        yield "<p>Overlays: "
        for page in pages.get(experiment, ()):
            yield f'<a href="{page.path}">{start + 1:,} to {start + page.outlines:,}</a> '
            start += page.outlines
        yield "</p></article>\n"
        return
    yield '<div class="cards">\n'
    for image in _shown(context, images):
        yield card(context, image)
    yield "</div></article>\n"
