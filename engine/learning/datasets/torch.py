"""Batches as torch's loaders know them: an `IterableDataset` of tensors. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from engine.learning.datasets.batches import Batch, Batches


class TorchBatches(Batches, IterableDataset):
    """The batches of some images as tensors, see `Batches`.

    Iterated by itself it reads in this process, or ahead in ``workers`` others, and keeps count. A
    `torch.utils.data.DataLoader` takes it with ``batch_size=None``; its workers share the batches,
    which come in the same order for any number of them. As with torch's samplers, such a loader
    must be told which epoch it is, by `epoch`, unless its workers are persistent; what it gave out
    is counted in its workers and not here.
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
        there = copy(self)  # to begin where this one does
        self._begin()
        # The client of an object store has threads of its own, which a fork would leave behind.
        local = self._root.local_path("") is not None
        return DataLoader(
            there,
            batch_size=None,
            num_workers=self.options.workers,
            multiprocessing_context=None if local else "spawn",
        )


def as_tensors(batch: Batch) -> Batch:
    """Return a batch whose arrays are tensors, of the same memory."""
    tensors: Batch = {**batch, "image": torch.from_numpy(batch["image"])}
    if "mask" in batch:
        tensors["mask"] = torch.from_numpy(batch["mask"])
    return tensors
