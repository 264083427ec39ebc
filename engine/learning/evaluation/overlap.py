"""Overlap of evaluated images with a model's training images, which makes figures optimistic."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterable, Sequence

import pyarrow as pa

from engine.learning.datasets.masked_images import MaskedImage
from engine.store.catalog.tables import expand_fields

IMAGE, SUBJECT, NEW = "image", "subject", "no"
"""Overlap of an image with the training images: itself, others of its subject, or none."""

SHOWN = 10
"""Most subjects that a condition names."""


def training_overlap(
    images: Sequence[MaskedImage], catalog: pa.Table, trained_on: Collection[str]
) -> dict[str, str]:
    """Return the overlap of each image by image_id: "image", "subject" or "no".

    Parameters
    ----------
    images
        Images to look up.
    catalog
        All rows of the cohort: they give the subjects of the training images.
    trained_on
        Content digests of the training images.
    """
    rows = expand_fields(catalog).select(["content", "subject"]).to_pylist()
    subjects = {r["subject"] for r in rows if r["subject"] and r["content"] in trained_on}
    return {
        image.image_id: IMAGE
        if image.content in trained_on
        else SUBJECT
        if image.subject in subjects
        else NEW
        for image in images
    }


def describe_overlap(found: Sequence[str | None], subjects: Iterable[str]) -> str | None:
    """Return a warning that figures are optimistic, and the new images; None if all are new.

    Parameters
    ----------
    found
        Overlap of each image, as from `training_overlap`; None if the training images are unknown.
    subjects
        Subject of each image.
    """
    met, related = (sum(each == what for each in found) for what in (IMAGE, SUBJECT))
    if not met + related:
        return None
    who = {s for s, each in zip(subjects, found, strict=True) if each == NEW and s}
    parts = [f"{met} {_are(met)} among the images that the model learnt from"] * (met > 0)
    parts += [f"{related} {_are(related)} of their subjects"] * (related > 0)
    told = f"Of the {len(found)} images, {' and '.join(parts)}: these figures flatter it."
    if not who:
        return f"{told} None is of a subject that is new to it."
    named = ", ".join(json.dumps(name, ensure_ascii=False) for name in sorted(who)[:SHOWN])
    more = f" ({len(who) - SHOWN} more are new to it)" if len(who) > SHOWN else ""
    return f"{told} Evaluate with --where {shlex.quote(f'subject in [{named}]')}{more}."


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
