"""Quality control page: failures, unusual images, distributions and all experiments.

Plain HTML with relative links, so it works from a file share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from engine.operations.failure_reasons import explain
from engine.pages.rendering import render
from engine.qc.outliers import EVERY, MOST_UNUSUAL, SAMPLE, UNUSUAL
from engine.qc.page.context import PageContext
from engine.qc.page.experiments import Pages, first_images, label_colours, summarise_experiments
from engine.qc.page.histograms import Chart, chart, number
from engine.qc.render import OVERLAY_PX, WINDOW_PERCENT
from engine.qc.statistics import COUNT
from engine.store.digests import digest_bytes
from engine.store.pictures import INDEX, append_digest, check_page
from engine.store.results import FAILED
from engine.tables.build import MISSING, UNREADABLE

MOST_NAMED = 500
"""Maximum failed images named on the page; all are counted, and named by status."""


class Failure(NamedTuple):
    """A failed image or source, with an explanation and advice."""

    image: int
    name: str
    reason: str
    explanation: str
    advice: str


def write_page(context: PageContext, pages: Pages) -> bool:
    """Write the page, unless it exists with the same content; return whether it was written.

    Parameters
    ----------
    pages
        The separate pages of experiments, see `publish_pages`.
    """
    body = _body(context, pages)
    end = f"<!-- made of {digest_bytes(body.encode())} -->\n"
    path = f"{context.folder}/{INDEX}"
    if context.store.size(path) is not None:
        there = context.store.read(path)
        if end.encode() in there[-200:] and check_page(there) is None:
            return False
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    context.store.replace(path, append_digest(body.replace("<!-- now -->", now, 1) + end))
    return True


def _body(context: PageContext, pages: Pages) -> str:
    facts = context.facts
    failed = np.flatnonzero(np.isin(facts.status, [FAILED, UNREADABLE])).tolist()
    return render(
        "qc/page/index.html.jinja",
        page=context,
        facts=facts,
        number=number,
        cohort=context.store.url.rstrip("/").rsplit("/", 1)[-1],
        parameters=_parameters(context),
        missing=int((facts.status == MISSING).sum()),
        failed=len(failed),
        reasons=Counter(context.text("reason", n) for n in failed).most_common(),
        failures=[_failure(context, n) for n in failed[:MOST_NAMED]],
        charts=list(_charts(context)),
        experiments=list(summarise_experiments(context)),
        pages=pages,
        labels=label_colours(context),
        subject_of={n: facts.subject[image] for n, image in first_images(facts).items()},
        computed=int(facts.computed.sum()),
        window=WINDOW_PERCENT,
        OVERLAY_PX=OVERLAY_PX,
        UNUSUAL=UNUSUAL,
        MOST_UNUSUAL=MOST_UNUSUAL,
        MOST_NAMED=MOST_NAMED,
        EVERY=EVERY,
        SAMPLE=SAMPLE,
    )


def _parameters(context: PageContext) -> str:
    given = context.operation.parameters.items()
    return ", ".join(f"{name} {_value(value)}" for name, value in given if value is not None)


def _value(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ":".join(_value(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _failure(context: PageContext, image: int) -> Failure:
    of_source = bool(context.facts.status[image] == UNREADABLE)
    reason = context.text("reason", image)
    explanation, advice = explain(reason, context.operation.name, of_source=of_source)
    name = context.text("source" if of_source else "image_id", image)
    return Failure(image, name, reason, explanation, advice)


def _charts(context: PageContext) -> Iterator[Chart]:
    for histogram in context.facts.histograms:
        of = "images" if histogram.measure == COUNT else context.objects
        title = context.title(histogram.measure, by_image=False)
        made = chart(histogram, context.facts.groups, title, of)
        if made is not None:
            yield made
