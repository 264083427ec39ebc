"""Creation of batches: a torch dataset if torch is installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import pyarrow as pa

from engine.errors import MissingExtra
from engine.learning.datasets.batches import Augment, Batches, BatchOptions
from engine.learning.datasets.items import items_of
from engine.learning.datasets.masks import Masks, NoMask
from engine.store.backend.base import Store
from engine.store.catalog.tables import ShardRow


def create_batches(
    store: Store,
    files: Sequence[ShardRow],
    images: pa.Table,
    masks: Masks | None,
    augment: Augment | None,
    options: BatchOptions,
) -> Batches:
    """Return the batches of the images in some catalog rows, as a torch dataset if possible.

    Raises
    ------
    NothingFound, ParameterError
        If there are no images, or an image is too large for a batch.
    NoMask
        If an image has no mask.
    MissingExtra
        If torch is needed and not installed.
    """
    if masks is not None:
        _check_masks(images, masks)
    items = items_of(images)
    if find_spec("torch") is None:
        if options.workers:
            raise MissingExtra("torch", "segment", "to read batches in other processes")
        return Batches(store, files, items, masks, augment, options)
    from engine.learning.datasets.torch import TorchBatches

    return TorchBatches(store, files, items, masks, augment, options)


def _check_masks(images: pa.Table, masks: Masks) -> None:
    chosen = images["image_id"].to_pylist()
    lacking = sorted({*chosen} - {*masks.image_ids})
    if lacking:
        try:
            masks.digest(lacking[0])
        except NoMask as error:
            image_id, why = error.args
            hint = f"{len(lacking)} of the {len(chosen)} images lack a mask"
            raise NoMask(
                image_id, f"{why}. {hint}; without images=, those with one are taken"
            ) from None
