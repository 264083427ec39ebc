"""Models in memory: one load per worker process, whatever asks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from engine.errors import WorkerUnfit
from engine.learning.models.bundle import Bundle, Predictor, open_bundle
from engine.learning.models.card import CardError
from engine.learning.models.weights import NoPackage, WeightsRefused


@dataclass
class LoadedModels:
    """Keeps the model that was asked for last, by its digest.

    Attributes
    ----------
    loads
        How many models were loaded so far.
    """

    loads: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _kept: dict[tuple[str, str | None], tuple[Bundle, Predictor]] = field(default_factory=dict)

    def get(
        self, directory: str, digest: str, device: str | None = None
    ) -> tuple[Bundle, Predictor]:
        """Return a model, loaded by whichever thread asks first.

        Parameters
        ----------
        directory
            The bundle's folder, as this process sees it, or the name of one that is shipped.
        digest
            What it must be, since that is what the results are filed under.
        device
            "cpu" or "cuda"; None takes CUDA where it is.

        Raises
        ------
        WorkerUnfit
            If it is not there, is another one, or can't be loaded here.
        """
        place = (digest, device)
        with self._lock:
            if place not in self._kept:
                self._kept.clear()  # before the next one needs its room
                self._kept[place] = _load(directory, digest, device)
                self.loads += 1
            return self._kept[place]


def _load(directory: str, digest: str, device: str | None) -> tuple[Bundle, Predictor]:
    try:
        bundle = open_bundle(directory)
        if bundle.digest != digest:
            raise WorkerUnfit(f"the model at {directory} is another one than was planned with.")
        return bundle, bundle.load(device)
    except (CardError, WeightsRefused, NoPackage) as error:
        raise WorkerUnfit(str(error)) from None


LOADED = LoadedModels()
"""Of this process."""
