"""Quality control page: failures, unusual images, distributions and all experiments.

Plain HTML with relative links, so it works from a file share. All text from files, especially their
names, is escaped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from engine.operations.failure_reasons import explain
from engine.qc.outliers import MOST_UNUSUAL, UNUSUAL
from engine.qc.page.cards import (
    PageContext,
    alt_text,
    experiment_text,
    extreme_text,
    foot,
    head,
    measure_title,
    place_text,
    thumb,
)
from engine.qc.page.experiments import Pages, experiments_section, first_images
from engine.qc.page.histograms import chart, number
from engine.qc.statistics import COUNT
from engine.store.digests import digest_bytes
from engine.store.pictures import INDEX, page_problem, sealed
from engine.store.results import FAILED
from engine.tables.build import MISSING, UNREADABLE
from engine.visible import escape

MOST_NAMED = 500
"""Maximum failed images named on the page; all are counted, and named by status."""


def write_page(context: PageContext, pages: Pages) -> bool:
    """Write the page, unless it exists with the same content; return whether it was written.

    Parameters
    ----------
    pages
        The separate pages of experiments, see `publish_pages`.
    """
    body = "".join(_body(context, pages))
    end = f"<!-- made of {digest_bytes(body.encode())} -->\n"
    path = f"{context.folder}/{INDEX}"
    if context.store.size(path) is not None:
        there = context.store.read(path)
        if end.encode() in there[-200:] and page_problem(there) is None:
            return False
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    context.store.replace(path, sealed(body.replace("<!-- now -->", now, 1) + end))
    return True


def _body(context: PageContext, pages: Pages) -> Iterator[str]:
    facts = context.facts
    yield head(f"{context.operation.name}: quality control")
    yield from _header(context)
    yield from _navigation(context)
    yield "<main>\n"
    yield from _failed(context)
    yield from _unusual(context)
    yield from _distributions(context)
    yield from experiments_section(context, pages)
    yield "</main>\n"
    of = {n: int(facts.subject[image]) for n, image in first_images(facts).items()}
    yield f'<script type="application/json" id="of">{json.dumps(of)}</script>\n'
    yield foot()


def _header(context: PageContext) -> Iterator[str]:
    facts, operation = context.facts, context.operation
    status = Counter(facts.status.tolist())
    given = ", ".join(
        f"{name} {_shown(value)}"
        for name, value in operation.parameters.items()
        if value is not None
    )
    kind = "a trial: other parameters than the declared ones" if context.trial else "as declared"
    name = context.store.url.rstrip("/").rsplit("/", 1)[-1]
    yield (
        f"<header>\n<h1>{escape(operation.name)} <span>quality control of {escape(name)}</span>"
        f'</h1>\n<p class="dim">{escape(given)} ({kind}, key {operation.key[:8]}). '
        "Made <!-- now -->.</p>\n"
    )
    failed = status[FAILED] + status[UNREADABLE]
    figures = [
        (f"{len(facts):,}", "images", ""),
        (f"{facts.objects:,}", context.objects, ""),
        (f"{failed:,}", "failed", "bad" if failed else ""),
        (f"{context.extremes.count:,}", "unusual", "warn" if context.extremes.count else ""),
    ]
    if status[MISSING]:
        figures.append((f"{status[MISSING]:,}", "without a result yet", "warn"))
    yield '<dl class="figures">'
    for value, what, tone in figures:
        yield f'<div><dt>{escape(what)}</dt><dd class="{tone}">{value}</dd></div>'
    yield "</dl>\n"
    if status[MISSING]:
        yield (
            f"<p>{status[MISSING]:,} images have no result yet: "
            f"<code>cohort run COHORT {escape(operation.name)}</code></p>\n"
        )
    yield "</header>\n"


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ":".join(_shown(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _navigation(context: PageContext) -> Iterator[str]:
    facts = context.facts
    yield (
        '<nav aria-label="Sections and filter"><div><a href="#failed">Failed</a>'
        '<a href="#unusual">Unusual</a><a href="#distributions">Distributions</a>'
        '<a href="#experiments">Experiments</a><form hidden><span id="told" class="dim" '
        'role="status"></span>'
    )
    yield '<label>Subject <select id="subject"><option value="">all</option>'
    for n, name in enumerate(facts.subjects):
        yield f'<option value="{n}">{escape(name or "(none)")}</option>'
    yield "</select></label>"
    yield '<label>Experiment <select id="experiment"><option value="">all</option>'
    for n in range(len(facts.experiments)):
        yield f'<option value="{n}">{escape(experiment_text(facts, n))}</option>'
    yield '</select></label><button type="reset">All</button></form></div></nav>\n'


def _failed(context: PageContext) -> Iterator[str]:
    facts, operation = context.facts, context.operation.name
    images = np.flatnonzero(np.isin(facts.status, [FAILED, UNREADABLE]))
    yield f'<section id="failed">\n<h2>Failed <span>{len(images):,}</span></h2>\n'
    if not len(images):
        yield "<p>None: every image that was read has a result.</p>\n</section>\n"
        return
    reasons = Counter(
        (str(facts.columns["reason"][int(n)].as_py() or ""), bool(facts.status[n] == UNREADABLE))
        for n in images
    )
    yield "<p>"
    yield "; ".join(
        f"{count:,} {escape(reason.replace('_', ' '))}"
        for (reason, _), count in reasons.most_common()
    )
    if len(images) > MOST_NAMED:
        yield f". The first {MOST_NAMED} are named; cohort status --json COHORT names all"
    yield (
        '.</p>\n<table class="rows"><thead><tr><th></th><th>Image</th><th>What happened</th>'
        "<th>What to do</th></tr></thead><tbody>\n"
    )
    for n in images[:MOST_NAMED].tolist():
        of_source = facts.status[n] == UNREADABLE
        reason = str(facts.columns["reason"][n].as_py() or "")
        told, advice = explain(reason, operation, of_source=of_source)
        image = context.text("source" if of_source else "image_id", n)
        yield (
            f"<tr {context.tags(n)}><td>{thumb(context, n)}</td>"
            f'<td class="file"><b>{image}</b><br><small>{escape(place_text(facts, n))}</small></td>'
            f'<td data-of="What happened:">{escape(told)} <small>({escape(reason)})</small></td>'
            f'<td data-of="What to do:">{escape(advice)}</td></tr>\n'
        )
    yield "</tbody></table>\n<p data-none hidden>None in this selection.</p>\n</section>\n"


def _unusual(context: PageContext) -> Iterator[str]:
    extremes = context.extremes
    yield f'<section id="unusual">\n<h2>Unusual <span>{extremes.count:,}</span></h2>\n'
    yield (
        f"<p>An image is unusual if one of its figures is {UNUSUAL:g} spreads or more from "
        "the median of its subject's images"
    )
    if context.facts.mixed:
        yield " of the same pixel spacing, since there are several spacings"
    yield ". " if extremes.count else ": no image is. "
    if extremes.count > MOST_UNUSUAL:
        yield f"The furthest {MOST_UNUSUAL} are shown. "
    yield "The lowest and highest of all follow.</p>\n"
    if extremes.unusual:
        yield '<div class="cards large">\n'
        for image, found in extremes.unusual.items():
            told = "<br>".join(extreme_text(context, extreme) for extreme in found)
            yield (
                f"<figure {context.tags(image)}>{thumb(context, image)}<figcaption>"
                f"{told}<small>{alt_text(context, image)}</small></figcaption></figure>\n"
            )
        yield "</div>\n<p data-none hidden>None in this selection.</p>\n"
    if extremes.ends:
        yield (
            '<table class="rows ends"><thead><tr><th>By image</th><th>Lowest</th><th>Highest</th>'
            "</tr></thead><tbody>\n"
        )
        for measure, pair in extremes.ends.items():
            yield f"<tr><td><b>{escape(measure_title(context, measure, by_image=True))}</b></td>"
            if pair[0].value == pair[1].value:
                yield f'<td colspan="2">{number(pair[0].value)} in every image</td></tr>\n'
                continue
            for end, what in zip(pair, ("Lowest:", "Highest:"), strict=True):
                yield (
                    f'<td><div class="end">{thumb(context, end.image)}'
                    f'<span data-of="{what}">{number(end.value)}<br>'
                    f"<small>{alt_text(context, end.image)}</small></span></div></td>"
                )
            yield "</tr>\n"
        yield "</tbody></table>\n"
    yield "</section>\n"


def _distributions(context: PageContext) -> Iterator[str]:
    by = "By subject and pixel spacing" if context.facts.mixed else "By subject"
    yield (
        f'<section id="distributions">\n<h2>Distributions</h2>\n<p>{by}; the dashed line is '
        'the mean, the figures at the left are counts.</p>\n<div class="charts">\n'
    )
    for histogram in context.facts.histograms:
        of = "images" if histogram.measure == COUNT else context.objects
        title = measure_title(context, histogram.measure, by_image=False)
        yield chart(histogram, context.facts.groups, title, of) + "\n"
    yield "</div>\n</section>\n"
