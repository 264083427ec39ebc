"""A cohort as batches to learn from: the door to `engine.learning.datasets.batches`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.cohort.images import Images, chosen_images
from engine.learning.datasets.batches import BUFFER_BYTES, Batches, BatchOptions
from engine.learning.datasets.create import create_batches
from engine.learning.datasets.left_out import LeftOut, find_left_out
from engine.learning.datasets.masks import ContourMasks, MaskSource
from engine.runs.selection import with_sources
from engine.store.catalog.tables import read_images, read_shards
from engine.store.root.base import Root


class Batching:
    """What a cohort offers to who trains on it."""

    root: Root

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
        """Return batches of images for training: every image once an epoch, in an order by seed.

        Where torch is installed they are an `IterableDataset` of tensors; ``.numpy()`` gives arrays
        in any case. Each is a dict of ``image`` (b, c, y, x) float32 in modality units, ``mask``
        (b, y, x) uint8, ``image_id``, ``epoch`` and ``batch``.

        Parameters
        ----------
        images
            A condition on the catalog's columns, image_ids, or what `images` gives; by default all,
            or all that have a mask where masks are asked for.
        masks
            Where masks come from: `ContourMasks`, `MaskFolders`, `LayeredFiles`, `LabelImages`; or
            the label of each structure that was drawn, e.g. ``{"outer": 2, "inner": 1}``.
        batch_size
            Images of a batch, which all have one shape. What is left of a shape at the end of an
            epoch is a shorter batch.
        shuffle
            Take shards in random order, and images from a buffer of them; else as they lie.
        seed
            The same seed gives the same batches, with any number of workers.
        augment
            Called with an image and its mask as tv_tensors, e.g. a transform of
            `torchvision.transforms.v2` or MONAI; deterministic by seed too, also where it has
            random states of its own (`engine.learning.datasets.seeding`).
        drop_last
            Leave shorter batches out.
        buffer_bytes
            Decoded size of the images among which the next one is chosen; bounds the memory.
        workers
            Processes that read and augment ahead.
        with_orphaned
            Take images too whose source is gone.

        Returns
        -------
        The batches; their ``left_out`` says which images have no mask, where all were meant.

        Raises
        ------
        NothingFound, ParameterError
            If there is no such image, or one too large for a batch.
        NoMask
            If a chosen image has no mask, or one that does not fit.
        MissingExtra
            If torch is needed, and not installed.
        """
        options = BatchOptions(batch_size, shuffle, seed, drop_last, buffer_bytes, workers)
        rows = read_images(self.root)[1]
        meant = rows if with_orphaned else with_sources(rows)
        source = ContourMasks(masks) if isinstance(masks, Mapping) else masks
        opened = None if source is None else source.open(self.root, meant)
        left: tuple[LeftOut, ...] = ()
        if images is None and opened is not None:
            images = opened.image_ids
            every = chosen_images(self.root, meant, None, with_orphaned=True)
            left = find_left_out(every, frozenset(images), opened)
        chosen = chosen_images(self.root, rows, images, with_orphaned)
        made = create_batches(self.root, read_shards(self.root), chosen, opened, augment, options)
        made.left_out = left
        return made
