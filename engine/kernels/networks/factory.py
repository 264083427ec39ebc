"""Networks by name: what a model's card says becomes a network with random weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import ParameterError
from engine.kernels.networks.base import Network
from engine.kernels.networks.deeplab import DeepLabV3
from engine.kernels.networks.ensembles import Ensemble, Fusion
from engine.kernels.networks.unet import UNet

ARCHITECTURES: dict[str, Callable[..., Network]] = {
    "unet": UNet,
    "deeplabv3": DeepLabV3,
    "fusion": Fusion,
}
"""Those made of numbers; an ``ensemble`` is made of others."""

ENSEMBLE = "ensemble"


def create_network(
    architecture: str, options: Mapping[str, Any], channels: int, classes: int
) -> Network:
    """Return a network with random weights; nothing is downloaded.

    Parameters
    ----------
    architecture
        "unet", "deeplabv3", "fusion" or "ensemble".
    options
        Its parameters by name. An ensemble has one, ``members``: a list of mappings with
        ``architecture`` and ``options``.
    channels, classes
        Number of planes in, and of scores a pixel out.

    Raises
    ------
    ParameterError
        If there is no such architecture or option, or an option has a value that it can't have.

    Examples
    --------
    >>> create_network("unet", {"width": 8}, channels=3, classes=4).multiple_px
    16
    """
    if architecture == ENSEMBLE:
        return _ensemble(options, channels, classes)
    if architecture not in ARCHITECTURES:
        known = ", ".join([*ARCHITECTURES, ENSEMBLE])
        raise ParameterError("architecture", architecture, f"one of {known}")
    kind = ARCHITECTURES[architecture]
    known_options = [*inspect.signature(kind).parameters][2:]
    for name in options:
        if name not in known_options:
            raise ParameterError(
                name, options[name], f"an option of {architecture}: {', '.join(known_options)}"
            )
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    try:
        return kind(channels, classes, **given)
    except (TypeError, RuntimeError) as error:  # a text where a number is needed
        raise ParameterError(
            f"options of {architecture}", dict(options), f"usable ({error})"
        ) from None


def _ensemble(options: Mapping[str, Any], channels: int, classes: int) -> Ensemble:
    members = options.get("members")
    if not isinstance(members, (list, tuple)) or set(options) != {"members"}:
        raise ParameterError("options of ensemble", dict(options), "its members, in a list")
    made = []
    for member in members:
        if not isinstance(member, Mapping) or "architecture" not in member:
            raise ParameterError("members", member, "an architecture and its options")
        made.append(
            create_network(member["architecture"], member.get("options", {}), channels, classes)
        )
    return Ensemble(made)
