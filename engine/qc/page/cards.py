"""Parts of the quality control page: thumbnails, cards and captions of images.

All text from files, especially their names, is escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from engine.operations.base import Operation
from engine.qc.outliers import Extreme, Outliers
from engine.qc.page.histograms import number
from engine.qc.page.style import SCRIPT, STYLE
from engine.qc.render import THUMB_PX
from engine.qc.statistics import COUNT, QcStatistics
from engine.store.backend.base import Store
from engine.store.pictures import OVERLAY, Noted, Picture
from engine.store.results import DONE
from engine.visible import escape


@dataclass(frozen=True)
class PageContext:
    """Contents of a page; ``up`` is the relative path from it to the folder of pictures."""

    store: Store
    operation: Operation
    folder: str
    trial: bool
    facts: QcStatistics
    extremes: Outliers
    noted: Noted
    up: str = ""

    @cached_property
    def objects(self) -> str:
        """Plural name of the objects."""
        return f"{self.operation.singular}s"

    @cached_property
    def overlays(self) -> Mapping[int, Picture]:
        """Overlays by image number, for images in the tables."""
        found = [one for (kind, _), one in self.noted.items() if kind == OVERLAY]
        names = pa.array([one.name for one in found], pa.string())
        ids = self.facts.columns["image_id"].combine_chunks()
        numbers = pc.index_in(names, value_set=ids).to_pylist()
        return {n: one for n, one in zip(numbers, found, strict=True) if n is not None}

    def text(self, column: str, image: int) -> str:
        """Return a table value of an image, escaped."""
        value = self.facts.columns[column][image].as_py()
        return escape("" if value is None else str(value))

    def caption(self, measure: str) -> tuple[str, str]:
        """Return a measure's label and unit."""
        name, _, unit = self.operation.captions.get(measure, measure.replace("_", " ")).partition(
            ", "
        )
        return name, unit

    def tags(self, image: int) -> str:
        """Return the HTML attributes that the filter uses."""
        return f'data-s="{self.facts.subject[image]}" data-e="{self.facts.experiment[image]}"'


def head(title: str) -> str:
    """Return the beginning of a page."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n"
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n"
    )


def foot() -> str:
    """Return the end of a page: the dialog for enlarged pictures, and the script."""
    return (
        '<dialog aria-label="Picture"><img alt=""><p></p></dialog>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def experiment_text(facts: QcStatistics, experiment: int) -> str:
    """Return an experiment's date, subject and name, not escaped."""
    return " · ".join(part for part in facts.experiments[experiment] if part) or "(no experiment)"


def place_text(facts: QcStatistics, image: int) -> str:
    """Return an image's experiment, not escaped."""
    return experiment_text(facts, int(facts.experiment[image]))


def alt_text(context: PageContext, image: int) -> str:
    """Return the alternative text of an image's picture."""
    name = context.text("name", image) or context.text("image_id", image)
    return f"{name}, {escape(place_text(context.facts, image))}"


def thumb(context: PageContext, image: int) -> str:
    """Return an image's thumbnail, linked to its overlay; empty if it has none."""
    picture = context.overlays.get(image)
    if picture is None:
        return ""
    factor = -(-max(picture.height, picture.width) // THUMB_PX)
    height, width = -(-picture.height // factor), -(-picture.width // factor)
    return (
        f'<a data-big href="{context.up}{picture.path}"><img loading="lazy" decoding="async" '
        f'src="{context.up}{picture.thumb}" width="{width}" height="{height}" '
        f'alt="{alt_text(context, image)}"></a>'
    )


def extreme_text(context: PageContext, extreme: Extreme) -> str:
    """Describe an image's measure and the usual value."""
    facts = context.facts
    who = escape(facts.groups[int(facts.group[extreme.image])] or "all")
    value, median = number(extreme.value), number(extreme.median)
    if extreme.measure == COUNT:
        return f"<b>{value} {escape(context.objects)}</b> (median of {who}: {median})"
    name, unit = (escape(part) for part in context.caption(extreme.measure))
    return f"<b>{name} {value} {_short(unit)}</b> on average (median of {who}: {median})"


def _short(unit: str) -> str:
    return unit if len(unit) <= 12 else ""


def measure_title(context: PageContext, measure: str, *, by_image: bool) -> str:
    """Return a measure's name with its unit."""
    if measure == COUNT:
        return f"{context.objects} an image"
    name, unit = context.caption(measure)
    mean = "mean " if by_image and not name.startswith("mean ") else ""
    return f"{mean}{name}, {unit}" if unit else f"{mean}{name}"


def card(context: PageContext, image: int) -> str:
    """Return an image's overlay with its caption."""
    facts, picture = context.facts, context.overlays[image]
    done = facts.status[image] == DONE
    if done:
        told = f"{number(float(facts.measures[COUNT][image]))} {escape(context.objects)}"
    else:
        told = f'<span class="bad">failed: {context.text("reason", image).replace("_", " ")}</span>'
    small = []
    if picture.low is not None and picture.high is not None:
        small.append(f"grey {number(picture.low)} to {number(picture.high)}")
    if picture.scale > 1:
        small.append(f"1:{picture.scale:g}")
    name = context.text("name", image) or context.text("image_id", image)
    return (
        f'<figure class="{"" if done else "failed"}" {context.tags(image)}>'
        f"{thumb(context, image)}<figcaption><b>{name}</b>{told}"
        f"<small>{', '.join(small)}</small></figcaption></figure>\n"
    )
