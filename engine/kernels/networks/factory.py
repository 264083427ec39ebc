"""Creation of networks by name: from a model card to a network with random weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import ParameterError
from engine.kernels.networks.base import Network
from engine.kernels.networks.deeplab import DeepLabV3
from engine.kernels.networks.ensembles import Ensemble, Fusion
from engine.kernels.networks.halfunet import HalfUNet
from engine.kernels.networks.unet import UNet

ARCHITECTURES: dict[str, Callable[..., Network]] = {
    "unet": UNet,
    "halfunet": HalfUNet,
    "deeplabv3": DeepLabV3,
    "fusion": Fusion,
}
"""Elementary architectures; an ``ensemble`` consists of others."""

ENSEMBLE = "ensemble"


def create_network(
    architecture: str, options: Mapping[str, Any], channels: int, classes: int
) -> Network:
    """Return a network with random weights, without a download.

    Parameters
    ----------
    architecture
        "unet", "halfunet", "deeplabv3", "fusion" or "ensemble".
    options
        Its parameters by name. An ensemble has one, ``members``: a list of mappings with
        ``architecture`` and ``options``.
    channels, classes
        Number of input planes, and of output scores per pixel.

    Raises
    ------
    ParameterError
        If the architecture or an option is unknown, or an option has an invalid value.

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
    except (TypeError, RuntimeError) as error:  # for example a text instead of a number
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
