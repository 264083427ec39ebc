"""Batches as torch's `IterableDataset` of tensors. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from engine.learning.datasets.batches import Batch, Batches


class TorchBatches(Batches, IterableDataset):
    """Batches of images as tensors, see `Batches`.

    Iterated directly it reads in this process, or ahead in ``workers`` others, and tracks the
    position. Pass it to a `torch.utils.data.DataLoader` with ``batch_size=None``; the loader's
    workers share the batches, in the same order for any number of workers. As with torch's
    samplers, set `epoch` before each epoch of such a loader, unless its workers are persistent; the
    position is tracked in its workers and not here.
    """

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of an epoch as tensors."""
        worker = get_worker_info()
        if worker is not None:
            made = self.make(self.epoch, self._begin(), worker.id, worker.num_workers)
            yield from map(as_tensors, made)
            self.epoch += 1
        elif self.options.workers:
            yield from self._follow(iter(self._loader()))
        else:
            yield from self._follow(map(as_tensors, self.make(self.epoch, self._begin())))

    def _loader(self) -> DataLoader:
        there = copy(self)  # with the same start position
        self._begin()
        # The client of an object store has threads of its own, which a fork would not copy.
        local = self._store.as_local_path("") is not None
        return DataLoader(
            there,
            batch_size=None,
            num_workers=self.options.workers,
            multiprocessing_context=None if local else "spawn",
        )


def as_tensors(batch: Batch) -> Batch:
    """Return a batch with its arrays as tensors that share their memory."""
    tensors: Batch = {**batch, "image": torch.from_numpy(batch["image"])}
    if "mask" in batch:
        tensors["mask"] = torch.from_numpy(batch["mask"])
    return tensors
