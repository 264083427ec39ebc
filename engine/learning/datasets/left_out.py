"""Images excluded from a training, an evaluation or batches, by reason."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.learning.datasets.masks import Masks
from engine.store.catalog.tables import ORPHANED, READY

COPY = "copy"

LACKING: Mapping[str, str] = MappingProxyType(
    {
        "no_mask": "There is no mask of them.",
        "not_all_drawn": "Not all structures that their masks are made of are drawn on them.",
        "refused": "What is drawn on them can't be used; cohort status says why.",
        COPY: "They have the pixels of an image that is taken.",
    }
)
"""Reasons for leaving an image out, by code."""

NAMED = 5
"""Number of images named for each reason; all are counted."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Images left out for one reason (a code of `LACKING`); only the first are named."""

    reason: str
    count: int
    first: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON-compatible types."""
        return {**asdict(self), "first": list(self.first)}


def find_left_out(images: pa.Table, taken: Collection[str], masks: Masks) -> tuple[LeftOut, ...]:
    """Return the images with pixels that are not used, by reason.

    Parameters
    ----------
    images
        The catalog's rows of the selected images.
    taken
        The image_ids of the images used.
    masks
        Source of the masks, which gives the reason why an image has none.
    """
    there = pc.is_in(images["state"], value_set=pa.array([READY, ORPHANED]))
    found: dict[str, list[str]] = {}
    with_mask = frozenset(masks.image_ids)
    for image_id in sorted(images.filter(there)["image_id"].to_pylist()):
        if image_id not in taken:
            reason = COPY if image_id in with_mask else masks.lacking(image_id)
            found.setdefault(reason, []).append(image_id)
    return tuple(
        LeftOut(reason, len(found[reason]), tuple(found[reason][:NAMED]))
        for reason in LACKING
        if reason in found
    )


def told_left_out(left: Sequence[LeftOut]) -> Iterator[str]:
    """Yield one sentence per reason.

    Examples
    --------
    >>> list(told_left_out([LeftOut("copy", 2, ("a", "b"))]))
    ['Left out: 2 images (copy): a, b. They have the pixels of an image that is taken.']
    """
    for one in left:
        more = f" and {one.count - len(one.first):,} more" if one.count > len(one.first) else ""
        images = "image" if one.count == 1 else "images"
        yield (
            f"Left out: {one.count:,} {images} ({one.reason}): {', '.join(one.first)}{more}. "
            f"{LACKING[one.reason]}"
        )
