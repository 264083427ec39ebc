"""Inference on arrays with an external ONNX graph, through onnxruntime, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.kernels.tiling.memory import peak_rss_bytes


class OnnxPredictor:
    """Run an ONNX graph (one input n,c,y,x; first output n,k,y,x) on batches of pixels.

    If the graph has fixed sides or needs multiples, images are padded with copies of their edge
    and the result is cropped. A single output plane for two classes is that of the second class.

    Parameters
    ----------
    graph
        The file's bytes. Weights in separate files are not read.
    classes
        Number of classes.
    mean, sd
        Per channel, in the units of the pixels.
    multiple_px
        Required multiple of the sides, pixels.
    gives_scores
        Whether the graph outputs scores instead of probabilities.
    device
        "cpu" or "cuda"; None selects CUDA if onnxruntime supports it.
    """

    def __init__(
        self,
        graph: bytes,
        classes: int,
        mean: Sequence[float],
        sd: Sequence[float],
        multiple_px: int = 1,
        gives_scores: bool = True,
        device: str | None = None,
    ) -> None:
        self._graph, self._device, self._threads = graph, device, 0
        self._session = self._open()
        taken = self._session.get_inputs()[0]
        if len(self._session.get_inputs()) != 1 or len(taken.shape) != 4:
            raise ParameterError("model", taken.shape, "a graph with one input (n, c, y, x)")
        sides = [side if isinstance(side, int) else None for side in taken.shape]
        self._at_once = sides[0]
        if sides[1] not in (None, len(mean)):
            raise ParameterError("channels", len(mean), f"the {sides[1]} that the graph takes")
        self._fixed = sides[2:]
        self._name, self._float16 = taken.name, taken.type == "tensor(float16)"
        self.multiple_px, self._gives_scores = multiple_px, gives_scores
        self._mean = np.asarray(mean, np.float32).reshape(-1, 1, 1)
        self._sd = np.asarray(sd, np.float32).reshape(-1, 1, 1)
        self.device_name = (
            "cuda" if "CUDAExecutionProvider" in self._session.get_providers() else "cpu"
        )
        self.planes = classes

    def own_threads(self, count: int) -> None:
        """Compute with this number of threads in this process; by default with all cores."""
        if count != self._threads:
            self._threads = count
            self._session = self._open()

    def _open(self) -> Any:
        import onnxruntime

        there = onnxruntime.get_available_providers()
        asked = self._device
        on_cuda = asked == "cuda" or (asked is None and "CUDAExecutionProvider" in there)
        providers = ["CUDAExecutionProvider"] * on_cuda + ["CPUExecutionProvider"]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors, which are also raised
        options.intra_op_num_threads = self._threads
        try:
            return onnxruntime.InferenceSession(self._graph, options, providers=providers)
        except Exception as error:  # onnxruntime has many error classes of its own
            raise ParameterError(
                "model", f"refused by onnxruntime ({type(error).__name__})", "one ONNX graph"
            ) from None

    def peak_bytes(self) -> int:
        """Return the peak memory of this process."""
        return peak_rss_bytes()

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return probabilities (n, planes, y, x) of pixels (n, channels, y, x).

        Raises
        ------
        ParameterError
            If the graph's planes do not match the classes, or it rejects images of this size.
        """
        height, width = pixels.shape[2:]
        images = (pixels.astype(np.float32) - self._mean) / self._sd
        pad = [
            _missing(side, fixed, self.multiple_px)
            for side, fixed in zip((height, width), self._fixed, strict=True)
        ]
        images = np.pad(images, ((0, 0), (0, 0), (0, pad[0]), (0, pad[1])), mode="edge")
        if self._float16:
            images = images.astype(np.float16)
        at_once = self._at_once or len(images)
        lacking = -len(images) % at_once  # fill a fixed-size batch with the last image
        images = np.concatenate((images, images[-1:].repeat(lacking, axis=0)))
        batches = [images[n : n + at_once] for n in range(0, len(images), at_once)]
        answers = [self._session.run(None, {self._name: batch})[0] for batch in batches]
        found = np.concatenate(answers).astype(np.float32)[: len(pixels)]
        if found.ndim != 4 or found.shape[2:] != images.shape[2:] or len(found) != len(pixels):
            raise ParameterError("model", found.shape, "one that answers for every pixel")
        return self._probabilities(found[:, :, :height, :width])

    def _probabilities(self, found: NDArray[np.float32]) -> NDArray[np.float32]:
        if found.shape[1] == 1 and self.planes == 2:
            second = 1 / (1 + np.exp(-found)) if self._gives_scores else found
            return np.concatenate((1 - second, second), axis=1)
        if found.shape[1] != self.planes:
            raise ParameterError("classes", self.planes, f"the {found.shape[1]} of the graph")
        if not self._gives_scores:
            return found
        powers = np.exp(found - found.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def _missing(side: int, fixed: int | None, multiple: int) -> int:
    """Return the padding from a side to a size that the graph accepts, pixels."""
    if fixed is None:
        return -side % multiple
    if side > fixed:
        raise ParameterError(
            "tile_px", side, f"with its halo at most {fixed}, the graph's own size"
        )
    return fixed - side
