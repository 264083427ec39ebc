"""Inputs that an operation reads in addition to pixels."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from engine.operations.base import ImageFailed, Operation
from engine.runs.plan import PlanItem
from engine.runs.upstream import UPSTREAM, upstream_states
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
from engine.store.digests import digest_of

VERSION = b"cohort.annotations"
"""Schema metadata key for the version of the annotations that were joined to the rows."""


UPSTREAM_STATE = b"cohort.upstream"
"""Schema metadata key for the digest of the column ``upstream``."""


def read_inputs(store: Store, operation: Operation) -> tuple[Snapshot, pa.Table]:
    """Return the catalog as `read_images` does, with the inputs that an operation declares.

    Operations with "annotation" among their inputs get a column ``annotation``: the digest of each
    image's annotations, null for images without any. Operations that read the results of others get
    a column ``upstream``, see `engine.runs.upstream`.
    """
    snapshot, images = read_images(store)
    return snapshot, join_inputs(store, operation, images)


def join_inputs(store: Store, operation: Operation, images: pa.Table) -> pa.Table:
    """Return catalog rows with the inputs that an operation declares; see `read_inputs`."""
    if "annotation" in operation.inputs and "annotation" not in images.column_names:
        images = add_annotation_digests(images, read_annotations(store))
    if not operation.upstream:
        return images
    states = {
        parameter: upstream_states(store, one, join_inputs(store, one, images))
        for parameter, one in operation.upstream.items()
    }
    column = [
        None if None in row else json.dumps(dict(zip(states, row, strict=True)))
        for row in zip(*states.values(), strict=True)
    ]
    joined = images.append_column(UPSTREAM, pa.array(column, pa.string()))
    metadata = {**(joined.schema.metadata or {}), UPSTREAM_STATE: digest_of(column)}
    return joined.replace_schema_metadata(metadata)


def add_annotation_digests(images: pa.Table, annotations: Annotations) -> pa.Table:
    """Return catalog rows with the column ``annotation``, if the cohort ever had annotations."""
    if annotations.version < 0:
        return images
    joined = annotations.joined(images)
    return joined.replace_schema_metadata({VERSION: str(annotations.version)})


def input_provenance(images: pa.Table) -> dict[str, Any]:
    """Return the provenance entries for the annotations and results that a table uses."""
    metadata = images.schema.metadata or {}
    origin: dict[str, Any] = {}
    if VERSION in metadata:
        origin["annotations"] = int(metadata[VERSION])
    if UPSTREAM_STATE in metadata:
        origin["upstream"] = metadata[UPSTREAM_STATE].decode()
    return origin


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
