"""Cache of loaded models: one load per worker process and model."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from engine.errors import WorkerUnfit
from engine.learning.models.bundle import Bundle, Predictor, open_bundle
from engine.learning.models.card import CardError
from engine.learning.models.weights import NoPackage, WeightsRefused


@dataclass
class ModelCache:
    """Cache of the last model used, by its digest.

    Attributes
    ----------
    loads
        Number of models loaded so far.
    """

    loads: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _kept: dict[tuple[str, str | None], tuple[Bundle, Predictor]] = field(default_factory=dict)

    def get(
        self, directory: str, digest: str, device: str | None = None
    ) -> tuple[Bundle, Predictor]:
        """Return a model, loaded once by the first thread that requests it.

        Parameters
        ----------
        directory
            The bundle's folder, as this process sees it, or the name of a pretrained model.
        digest
            Required digest of the model, since results are stored under it.
        device
            "cpu" or "cuda"; None selects CUDA if available.

        Raises
        ------
        WorkerUnfit
            If the model is missing, has a different digest, or can't be loaded here.
        """
        place = (digest, device)
        with self._lock:
            if place not in self._kept:
                self._kept.clear()  # frees memory before the next model is loaded
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


MODEL_CACHE = ModelCache()
"""Cache of this process."""
