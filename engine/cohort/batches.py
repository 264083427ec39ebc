"""Training batches of a cohort: the public interface to `engine.learning.datasets.batches`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.cohort.images import Images, chosen_images
from engine.learning.datasets.batches import BUFFER_BYTES, Batches, BatchOptions
from engine.learning.datasets.create import create_batches
from engine.learning.datasets.left_out import LeftOut, find_left_out
from engine.learning.datasets.masks import ContourMasks, MaskSource
from engine.runs.selection import with_sources
from engine.store.backend.base import Store
from engine.store.catalog.tables import read_images, read_shards


class Batching:
    """Mixin of `Cohort` for training on its images."""

    store: Store

    def batches(
        self,
        images: str | Sequence[str] | Images | None = None,
        masks: MaskSource | Mapping[str, int] | None = None,
        *,
        batch_size: int = 8,
        shuffle: bool = True,
        seed: int = 0,
        augment: Callable[..., Any] | None = None,
        drop_last: bool = False,
        buffer_bytes: int = BUFFER_BYTES,
        workers: int = 0,
        with_orphaned: bool = False,
    ) -> Batches:
        """Return batches of images for training: every image once per epoch, in an order by seed.

        If torch is installed, they are an `IterableDataset` of tensors; ``.numpy()`` always gives
        arrays. Each batch is a dict of ``image`` (b, c, y, x) float32 in modality units, ``mask``
        (b, y, x) uint8, ``image_id``, ``epoch`` and ``batch``.

        Parameters
        ----------
        images
            A condition on the catalog's columns, image_ids, or the result of `images`; by default
            all images, or all with a mask if ``masks`` is given.
        masks
            Source of masks: `ContourMasks`, `MaskFolders`, `LayeredFiles`, `LabelImages`; or the
            label of each annotated structure, e.g. ``{"outer": 2, "inner": 1}``.
        batch_size
            Images per batch, which all have one shape. The remaining images of a shape at the end
            of an epoch form a shorter batch.
        shuffle
            Read shards in random order, and draw images from a buffer of them; otherwise in storage
            order.
        seed
            The same seed gives the same batches, with any number of workers.
        augment
            Called with an image and its mask as tv_tensors, e.g. a transform of
            `torchvision.transforms.v2` or MONAI; deterministic by seed too, even if it has random
            states of its own (`engine.learning.datasets.seeding`).
        drop_last
            Omit shorter batches.
        buffer_bytes
            Decoded size of the shuffle buffer; bounds the memory.
        workers
            Number of processes that read and augment ahead.
        with_orphaned
            Include images whose source is gone.

        Returns
        -------
        The batches; if all images were requested, ``left_out`` lists those without a mask.

        Raises
        ------
        NothingFound, ParameterError
            If there is no such image, or one too large for a batch.
        NoMask
            If a chosen image has no mask, or a mask that does not fit.
        MissingExtra
            If torch is needed, and not installed.
        """
        options = BatchOptions(batch_size, shuffle, seed, drop_last, buffer_bytes, workers)
        rows = read_images(self.store)[1]
        meant = rows if with_orphaned else with_sources(rows)
        source = ContourMasks(masks) if isinstance(masks, Mapping) else masks
        opened = None if source is None else source.open(self.store, meant)
        left: tuple[LeftOut, ...] = ()
        if images is None and opened is not None:
            images = opened.image_ids
            every = chosen_images(self.store, meant, None, with_orphaned=True)
            left = find_left_out(every, frozenset(images), opened)
        chosen = chosen_images(self.store, rows, images, with_orphaned)
        made = create_batches(self.store, read_shards(self.store), chosen, opened, augment, options)
        made.left_out = left
        return made
