"""Inference on arrays with a torch network: pixels in, probabilities out, on CPU or CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.kernels.networks.base import Network
from engine.kernels.networks.ensembles import Ensemble, disagreement
from engine.kernels.tiling.memory import peak_rss_bytes


class NetworkPredictor:
    """Run a network on batches of pixels.

    Parameters
    ----------
    network
        Is moved to the device, set to channels-last layout and to evaluation mode.
    mean, sd
        Per channel, in the units of the pixels: subtracted, and then divided by.
    device
        "cpu" or "cuda"; None selects CUDA if available. On CUDA the network computes in mixed
        precision (autocast); probabilities are always float32.
    """

    def __init__(
        self,
        network: Network,
        mean: Sequence[float],
        sd: Sequence[float],
        device: str | None = None,
    ) -> None:
        if not len(mean) == len(sd) == network.channels or min(sd) <= 0:
            raise ParameterError(
                "mean, sd", (mean, sd), f"one for each of {network.channels} channels, sd positive"
            )
        name = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.device = torch.device(name)
        self.network = network.to(self.device, memory_format=torch.channels_last).eval()
        self._mean = torch.tensor(mean, device=self.device).reshape(-1, 1, 1)
        self._scale = 1 / torch.tensor(sd, device=self.device).reshape(-1, 1, 1)

    @property
    def planes(self) -> int:
        """Number of output planes: the classes, plus the members' disagreement for an ensemble."""
        return self.network.classes + isinstance(self.network, Ensemble)

    @property
    def multiple_px(self) -> int:
        """Required multiple of sides and positions of tiles, pixels."""
        return self.network.multiple_px

    @property
    def device_name(self) -> str:
        """The device: "cpu" or "cuda"."""
        return str(self.device.type)

    def own_threads(self, count: int) -> None:
        """Compute with this number of threads in this process."""
        if torch.get_num_threads() != count:
            torch.set_num_threads(count)

    def peak_bytes(self) -> int:
        """Return the peak memory: the device's, or the process's."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return peak_rss_bytes()

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return probabilities (n, planes, y, x) of pixels (n, channels, y, x).

        Raises
        ------
        MemoryError
            If a batch of this size does not fit into the device's memory; its memory is freed.
        """
        try:
            return self._predict(pixels)
        except torch.OutOfMemoryError:
            pass  # leave this block first: the error's frames hold the batch's memory
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # torch's text on a CPU
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        raise MemoryError(f"a batch of {len(pixels)} does not fit on {self.device}")

    @torch.inference_mode()
    def _predict(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        images = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
        images = (images.float() - self._mean) * self._scale
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            answer = self._answer(images)
        return answer.float().cpu().numpy()

    def _answer(self, images: torch.Tensor) -> torch.Tensor:
        if not isinstance(self.network, Ensemble):
            return self.network.probabilities(images)
        members = self.network.member_probabilities(images)
        return torch.cat((members.mean(dim=0), disagreement(members)[:, None]), dim=1)
