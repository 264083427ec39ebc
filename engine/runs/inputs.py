"""What an operation reads of a cohort's images, beside their pixels."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from engine.operations.base import ImageFailed, Operation
from engine.runs.plan import Item
from engine.store.catalog.annotations import (
    Annotations,
    Contour,
    Ref,
    digest_refs,
    read_annotations,
    read_contours,
)
from engine.store.catalog.tables import read_images
from engine.store.delta.ledger import Snapshot
from engine.store.root.base import Root

VERSION = b"cohort.annotations"
"""Name, in the schema's metadata, of the version of the annotations that rows were joined with."""


def read_inputs(root: Root, operation: Operation) -> tuple[Snapshot, pa.Table]:
    """Return the catalog as `read_images` does, with what an operation declares that it reads.

    Operations with "annotation" among their inputs get a column ``annotation``: the digest of what
    is drawn on each image, null where nothing is.
    """
    snapshot, images = read_images(root)
    if "annotation" not in operation.inputs:
        return snapshot, images
    return snapshot, join_annotations(images, read_annotations(root))


def join_annotations(images: pa.Table, annotations: Annotations) -> pa.Table:
    """Return catalog rows with the column ``annotation``, where anything was ever drawn."""
    if annotations.version < 0:
        return images
    joined = annotations.joined(images)
    return joined.replace_schema_metadata({VERSION: str(annotations.version)})


def origin_of_inputs(images: pa.Table) -> dict[str, Any]:
    """Return what a table's origin says of the annotations that it is made of."""
    metadata = images.schema.metadata or {}
    return {"annotations": int(metadata[VERSION])} if VERSION in metadata else {}


class Drawn:
    """What is drawn on the images of a unit; read once, when first asked for.

    Parameters
    ----------
    root
        The cohort.
    refs
        Where the points are, by image_id.
    """

    def __init__(self, root: Root, refs: dict[str, tuple[Ref, ...]]) -> None:
        self._root = root
        self._refs = refs
        self._found: dict[str, tuple[Contour, ...]] | None = None

    def on(self, item: Item) -> tuple[Contour, ...]:
        """Return what is drawn on an image.

        Raises
        ------
        ImageFailed
            ``annotation_changed`` if that is not what the run was planned for; the next one is.
        MissingObject, CorruptStore
        """
        refs = self._refs.get(item.image_ids[0], ())
        if (digest_refs(refs) if refs else None) != item.annotation:
            raise ImageFailed("annotation_changed")
        if not refs:
            return ()
        if self._found is None:
            self._found = read_contours(self._root, self._refs)
        return self._found[item.image_ids[0]]
