"""Model bundles: folders with a card and the weights, identified by their SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError, ParameterError, did_you_mean
from engine.learning.models.card import CARD_FILE, ONNX, Card, CardError, WeightsCard, read_card
from engine.learning.models.onnx_files import require_whole
from engine.learning.models.pretrained import pretrained_models, resolve_model
from engine.learning.models.weights import (
    GRAPH,
    NoPackage,
    WeightsRefused,
    load_weights,
    read_checked,
)
from engine.plain_files import open_plain
from engine.store.backend.atomic_write import atomic_write, make_folder, sync_folder

TRAINED_ON = "trained_on.json"
"""Contents of the training images, stored with the card; not part of the model's key."""

LARGEST_CARD = 1 << 20
"""Size limit of a card, bytes; usual cards have a few thousand."""


class Predictor(Protocol):
    """Model as a function of arrays."""

    @property
    def planes(self) -> int:
        """Number of output planes: the classes first."""

    @property
    def multiple_px(self) -> int:
        """Required multiple of sides and positions of tiles, pixels."""

    @property
    def device_name(self) -> str:
        """The device: "cpu" or "cuda"."""

    def own_threads(self, count: int) -> None:
        """Compute with this number of threads in this process, if it can be chosen."""

    def peak_bytes(self) -> int:
        """Return the peak memory: the device's, or the process's."""

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return probabilities (n, planes, y, x) of pixels (n, channels, y, x)."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Model on disk: its folder and its card; weights are loaded on request."""

    directory: Path
    card: Card

    @property
    def digest(self) -> str:
        """SHA-256 of the card and, through it, of the weights: the model's part of a key."""
        return self.card.digest

    def read_weights(self) -> bytes:
        """Return the weights' bytes, verified against the card.

        Raises
        ------
        WeightsRefused
            If they are missing or do not match.
        """
        if self.card.weights is None:  # pragma: no cover - open_bundle refuses it
            raise WeightsRefused(self.directory, "the card names none")
        return read_checked(self.directory / self.card.weights.file, self.card.weights.sha256)

    def trained_on(self) -> frozenset[str] | None:
        """Return the content digests of the model's training images; None if not recorded.

        Raises
        ------
        CardError
            If the file exists and can't be read.
        """
        path = self.directory / TRAINED_ON
        try:
            with open_plain(path) as file:
                found = json.load(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            found = None
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise CardError(path, "no list of the images that the model learnt from")
        return frozenset(found)

    def load(self, device: str | None = None) -> Predictor:
        """Return the model, ready for prediction.

        Parameters
        ----------
        device
            "cpu" or "cuda"; None selects CUDA if available.

        Raises
        ------
        WeightsRefused
            If the weights do not match the card, or don't fit its architecture.
        NoPackage
            If torch or onnxruntime is needed and not installed.
        """
        return _predictor(self.card, self.read_weights(), self.directory, device)


def open_bundle(directory: str | Path) -> Bundle:
    """Open a bundle by its folder or by the name of a pretrained model, and validate its card.

    Raises
    ------
    CardError
        If the bundle does not exist, or can't be used.
    """
    folder = resolve_model(directory)
    path = folder / CARD_FILE
    try:
        with open_plain(path) as file:
            text = file.read(LARGEST_CARD + 1)
        values = json.loads(text) if len(text) <= LARGEST_CARD else None
    except OSError as error:
        meant = did_you_mean(Path(directory).name, pretrained_models())
        raise CardError(path, f"no model there ({error.strerror}){meant.rstrip('?')}") from None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise CardError(path, "no JSON object")
    card = read_card(values, str(path))
    if card.weights is None:
        raise CardError(path, "it names no weights")
    return Bundle(folder, card)


def write_bundle(
    directory: str | Path, card: Card, weights: bytes, trained_on: Iterable[str] | None = None
) -> Bundle:
    """Write a bundle atomically.

    Parameters
    ----------
    directory
        A new folder, which must not exist.
    card
        Card of the model; its ``weights`` are filled in here.
    weights
        Safetensors, or an ONNX graph.
    trained_on
        Content digests of the training images; None if unknown.

    Raises
    ------
    ParameterError
        If the folder exists, or can't be written.
    WeightsRefused
        If the weights don't fit the card.
    """
    folder = Path(directory)
    if folder.exists():
        raise ParameterError("BUNDLE", str(folder), "a folder that does not exist yet")
    kept = WeightsCard(
        file="model.onnx" if card.architecture == ONNX else "weights.safetensors",
        sha256=hashlib.sha256(weights).hexdigest(),
        nbytes=len(weights),
    )
    described = card.model_copy(update={"weights": kept})
    multiple = _predictor(described, weights, folder, "cpu").multiple_px
    if card.tile_px % multiple or card.halo_px % multiple:
        raise ParameterError(
            "tile_px, halo_px", (card.tile_px, card.halo_px), f"multiples of {multiple}"
        )
    try:
        make_folder(folder.parent)
        staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ParameterError("BUNDLE", str(folder), f"writable ({error.strerror})") from None
    try:
        atomic_write(staged / kept.file, weights)
        atomic_write(staged / CARD_FILE, described.to_json())
        if trained_on is not None:
            text = json.dumps(sorted(trained_on), indent=0) + "\n"
            atomic_write(staged / TRAINED_ON, text.encode())
        staged.chmod(0o755)  # mkdtemp restricts it to the owner
        os.rename(staged, folder)  # noqa: PTH104 - Path.rename would say the same
        sync_folder(folder.parent)
    except (OSError, EngineError) as error:
        shutil.rmtree(staged, ignore_errors=True)
        if isinstance(error, EngineError):
            raise
        raise ParameterError("BUNDLE", str(folder), f"writable ({error.strerror})") from None
    return Bundle(folder, described)


def import_model(
    weights: str | Path, directory: str | Path, card: Card, sha256: str | None = None
) -> tuple[Bundle, tuple[str, ...]]:
    """Create a bundle from external weights.

    Parameters
    ----------
    weights
        A state dict (.safetensors, .pt, .pth, .bin, .ckpt), or a graph (.onnx).
    directory
        The new bundle's folder.
    card
        Card of the model.
    sha256
        Required SHA-256 of the file; if it does not match, the file is not parsed.

    Returns
    -------
    The bundle, and the names of weights that were missing from the file and are random (those of a
    torchvision DeepLabv3's last layer, if its number of classes differs).

    Raises
    ------
    WeightsRefused, ParameterError, NoPackage
    """
    file = Path(weights)
    if (file.suffix == GRAPH) != (card.architecture == ONNX):
        raise ParameterError(
            "architecture", card.architecture, f"{ONNX} for {GRAPH} files, and for no others"
        )
    data = read_checked(file, sha256)
    if card.architecture == ONNX:
        return write_bundle(directory, card, data), ()
    state = load_weights(data, file)
    network = _network(card)
    import safetensors.torch

    new = _load_state(network, state, file)
    plain = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return write_bundle(directory, card, safetensors.torch.save(plain)), new


def _network(card: Card) -> Any:
    try:
        from engine.kernels.networks.factory import create_network
    except ImportError:
        raise NoPackage("torch and torchvision", "segment") from None
    return create_network(
        card.architecture, card.options, channels=len(card.channels), classes=len(card.classes)
    )


def _load_state(network: Any, state: dict[str, Any], file: Path) -> tuple[str, ...]:
    from engine.kernels.networks.deeplab import DeepLabV3, load_torchvision

    try:
        if isinstance(network, DeepLabV3):
            return load_torchvision(network, state)
        network.load_state_dict(state)
    except ParameterError as error:
        raise WeightsRefused(file, f"{error.args[1]}; expected {error.args[2]}") from None
    except RuntimeError:
        ours = network.state_dict()
        differ = sorted(
            n
            for n in {*ours} | {*state}
            if n not in ours or n not in state or ours[n].shape != state[n].shape
        )
        first = f", first {differ[0]!r}" if differ else ""
        raise WeightsRefused(
            file,
            f"{len(differ)} names or shapes are not those of this architecture with these options"
            f"{first}. Other networks come as ONNX (docs/how-to/import-a-model.md)",
        ) from None
    return ()


def _predictor(card: Card, weights: bytes, folder: Path, device: str | None) -> Predictor:
    if card.architecture == ONNX:
        try:
            import onnxruntime  # noqa: F401
        except ImportError:
            raise NoPackage("onnxruntime", "segment") from None
        from engine.kernels.networks.onnx_predictor import OnnxPredictor

        require_whole(weights, folder)
        scores = card.gives == "scores"
        classes = len(card.classes)
        return OnnxPredictor(weights, classes, card.mean, card.sd, card.multiple_px, scores, device)
    network = _network(card)
    from engine.kernels.networks.torch_predictor import NetworkPredictor

    _load_state(network, load_weights(weights, folder / "weights.safetensors"), folder)
    return NetworkPredictor(network, card.mean, card.sd, device)
