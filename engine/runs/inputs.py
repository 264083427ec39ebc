"""Inputs that an operation reads in addition to pixels."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from engine.operations.base import ImageFailed, Operation
from engine.runs.plan import PlanItem
from engine.store.backend.base import Store
from engine.store.catalog.annotations import (
    AnnotationRef,
    Annotations,
    Contour,
    digest_refs,
    read_annotations,
    read_contours,
)
from engine.store.catalog.tables import read_images
from engine.store.delta.ledger import Snapshot

VERSION = b"cohort.annotations"
"""Schema metadata key for the version of the annotations that were joined to the rows."""


def read_inputs(store: Store, operation: Operation) -> tuple[Snapshot, pa.Table]:
    """Return the catalog as `read_images` does, with the inputs that an operation declares.

    Operations with "annotation" among their inputs get a column ``annotation``: the digest of each
    image's annotations, null for images without any.
    """
    snapshot, images = read_images(store)
    if "annotation" not in operation.inputs:
        return snapshot, images
    return snapshot, add_annotation_digests(images, read_annotations(store))


def add_annotation_digests(images: pa.Table, annotations: Annotations) -> pa.Table:
    """Return catalog rows with the column ``annotation``, if the cohort ever had annotations."""
    if annotations.version < 0:
        return images
    joined = annotations.joined(images)
    return joined.replace_schema_metadata({VERSION: str(annotations.version)})


def input_provenance(images: pa.Table) -> dict[str, Any]:
    """Return the provenance entry for the annotations that a table uses."""
    metadata = images.schema.metadata or {}
    return {"annotations": int(metadata[VERSION])} if VERSION in metadata else {}


class UnitAnnotations:
    """Annotations on the images of a unit, read once on first use.

    Parameters
    ----------
    store
        The cohort.
    refs
        Locations of the points, by image_id.
    """

    def __init__(self, store: Store, refs: dict[str, tuple[AnnotationRef, ...]]) -> None:
        self._store = store
        self._refs = refs
        self._found: dict[str, tuple[Contour, ...]] | None = None

    def on(self, item: PlanItem) -> tuple[Contour, ...]:
        """Return the annotations on an image.

        Raises
        ------
        ImageFailed
            ``annotation_changed`` if the annotations changed after planning; the next run uses the
            new ones.
        MissingObject, CorruptStore
        """
        refs = self._refs.get(item.image_ids[0], ())
        if (digest_refs(refs) if refs else None) != item.annotation:
            raise ImageFailed("annotation_changed")
        if not refs:
            return ()
        if self._found is None:
            self._found = read_contours(self._store, self._refs)
        return self._found[item.image_ids[0]]
