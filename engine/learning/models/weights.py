"""External weights, read as data without running any code."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import EngineError, install_command
from engine.plain_files import NotAFile, open_plain

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
SAFE = ".safetensors"
GRAPH = ".onnx"
SUFFIXES = (SAFE, *PICKLED, GRAPH)

WRAPPERS = ("state_dict", "model_state_dict", "model", "network")
"""Keys under which training scripts store a state dict with other values."""

PARALLEL = "module."
"""Prefix that torch's data parallelism adds to every name."""


class WeightsRefused(EngineError, ValueError):
    """Weights were refused, and not loaded: (file, reason)."""

    def __str__(self) -> str:
        file, why = self.args
        return f"The weights in {file} were refused: {why}. Nothing of them was run or kept."


class NoPackage(EngineError, ImportError):
    """A required package is not installed: (package, extra that has it)."""

    def __str__(self) -> str:
        package, extra = self.args
        return f"This needs {package}. Install it with: {install_command(extra)}"


def read_checked(file: Path, sha256: str | None) -> bytes:
    """Return a file's bytes, verified against a SHA-256.

    Parameters
    ----------
    file
        Path of the weights.
    sha256
        Expected SHA-256, hexadecimal; None skips the verification.

    Raises
    ------
    WeightsRefused
        If the file can't be read, or does not match the SHA-256.
    """
    try:
        with open_plain(file) as opened:
            data = opened.read()
    except NotAFile:
        raise WeightsRefused(file, "it is a pipe, a socket or a device") from None
    except OSError as error:
        raise WeightsRefused(file, f"the file can't be read ({error.strerror})") from None
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise WeightsRefused(file, f"their SHA-256 is {found}, and not {sha256}")
    return data


def load_weights(data: bytes, file: Path) -> dict[str, Any]:
    """Return a state dict (names to torch tensors) from a file's bytes.

    Parameters
    ----------
    data
        The file's bytes, from `read_checked`.
    file
        Its path; the suffix gives the format: .safetensors, or a state dict saved by torch (.pt,
        .pth, .bin, .ckpt). The latter is unpickled only by torch with ``weights_only=True``: a
        pickle that names anything but tensors and plain containers is refused at that name, before
        the name is called.

    Raises
    ------
    WeightsRefused
        If the file is anything but tensors by name.
    NoPackage
        If torch is not installed.
    """
    try:
        import safetensors.torch
        import torch
    except ImportError:
        raise NoPackage("torch and safetensors", "segment") from None
    if file.suffix not in SUFFIXES or file.suffix == GRAPH:
        raise WeightsRefused(file, f"the suffix is none of {', '.join(SUFFIXES)}")
    try:
        with warnings.catch_warnings():  # about the pickle's age, which does not matter to users
            warnings.simplefilter("ignore")
            if file.suffix == SAFE:
                loaded = safetensors.torch.load(data)
            else:
                loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        why = "this pickle holds more than tensors; save the model's state_dict() alone"
        raise WeightsRefused(file, why) from None
    except Exception as error:  # a decoder's text may quote the file
        why = f"no {file.suffix} file of weights ({type(error).__name__})"
        if file.suffix != SAFE:
            why += "; save the model's state_dict() alone, not the model"
        raise WeightsRefused(file, why) from None
    return _state_dict(loaded, file)


def _state_dict(loaded: Any, file: Path) -> dict[str, Any]:
    """Return tensors by name from loaded data: bare, or wrapped as training scripts do."""
    import torch

    while isinstance(loaded, Mapping):
        inner = next((n for n in WRAPPERS if isinstance(loaded.get(n), Mapping)), None)
        if inner is None:
            break
        loaded = loaded[inner]
    if not (
        isinstance(loaded, Mapping)
        and loaded
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in loaded.items())
    ):
        raise WeightsRefused(file, "they are no state dict (tensors by name)")
    if all(name.startswith(PARALLEL) for name in loaded):
        return {name.removeprefix(PARALLEL): tensor for name, tensor in loaded.items()}
    return dict(loaded)
