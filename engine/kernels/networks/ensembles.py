"""Networks composed of other networks: learned fusion and ensemble."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from engine.errors import ParameterError
from engine.kernels.networks.base import Network, convolved
from engine.kernels.networks.deeplab import RESNET_101, DeepLabV3
from engine.kernels.networks.unet import UNet

MEMBER_PLANES = 16
"""Planes that each member of a fusion outputs."""

FUSED_PLANES = 64
FUSED_LAYERS = 3


class Fusion(Network):
    """Learned fusion of a DeepLabv3, with a wide context, and a U-Net, with sharp detail.

    DeepLab's 16 planes are concatenated with the hyperbolic tangent of the U-Net's 16; three 3 x 3
    convolutions of 64 planes with batch normalisation and ReLU, and a last convolution, map them
    to classes. All parts are trained together.

    Parameters
    ----------
    channels, classes
        Number of input planes, and of output scores per pixel.
    width, shortcuts
        Parameters of the U-Net.
    blocks, pool_px
        Parameters of the DeepLabv3.
    """

    def __init__(
        self,
        channels: int = 3,
        classes: int = 4,
        width: int = 32,
        shortcuts: bool = False,
        blocks: tuple[int, int, int, int] = RESNET_101,
        pool_px: int | None = None,
    ) -> None:
        deeplab = DeepLabV3(channels, MEMBER_PLANES, blocks, pool_px)
        unet = UNet(channels, MEMBER_PLANES, width, shortcuts)
        multiple = math.lcm(deeplab.multiple_px, unet.multiple_px)
        reach = max(deeplab.reach_px, unet.reach_px) + FUSED_LAYERS + 1
        super().__init__(channels, classes, multiple, reach)
        self.deeplab = deeplab
        self.unet = unet
        layers: list[nn.Module] = []
        for layer in range(FUSED_LAYERS):
            layers += convolved(FUSED_PLANES if layer else 2 * MEMBER_PLANES, FUSED_PLANES)
        self.fused = nn.Sequential(*layers, nn.Conv2d(FUSED_PLANES, classes, 3, padding=1))

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores (n, classes, y, x); see `Network.score`."""
        return self.fused(torch.cat((self.deeplab(images), torch.tanh(self.unet(images))), dim=1))


class Ensemble(Network):
    """Mean of the probabilities of several networks, and their disagreement.

    Probabilities are averaged, never scores: a confident member does not outvote the others by the
    size of its scores. `Network.forward` gives the logarithm of the mean, so that its softmax is
    the mean.

    Parameters
    ----------
    members
        Networks with the same channels and classes.

    Raises
    ------
    ParameterError
        If there are fewer than two members, or they differ in channels or classes.
    """

    def __init__(self, members: Sequence[Network]) -> None:
        if len(members) < 2 or len({(m.channels, m.classes) for m in members}) != 1:
            raise ParameterError(
                "members",
                [(m.channels, m.classes) for m in members],
                "two or more networks with the same channels and classes",
            )
        super().__init__(
            members[0].channels,
            members[0].classes,
            math.lcm(*(member.multiple_px for member in members)),
            max(member.reach_px for member in members),
        )
        self.members = nn.ModuleList(members)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the mean probabilities (n, classes, y, x), for any size.

        Members pad their input themselves, so each gives the same result as alone.
        """
        tiny = torch.finfo(torch.float32).tiny
        return self.member_probabilities(images).mean(dim=0).clamp_min(tiny).log()

    def member_probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Return each member's probabilities: (members, n, classes, y, x), float32."""
        return torch.stack([member.probabilities(images) for member in self.members])


def disagreement(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the disagreement of members at each pixel, from 0 (none) to 1 (complete).

    Parameters
    ----------
    probabilities
        (members, ..., classes, y, x), two members or more.

    Returns
    -------
    (..., y, x): the mean, over all pairs of members, of the total variation distance of their
    probabilities (half the sum of absolute differences). Its mean over an image is the image's
    disagreement.

    Examples
    --------
    >>> sure, other = torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.75])
    >>> disagreement(torch.stack([sure, other]).reshape(2, 2, 1, 1)).item()
    0.75
    """
    count = len(probabilities)
    pairs = [(a, b) for a in range(count) for b in range(a)]
    apart = [(probabilities[a] - probabilities[b]).abs().sum(dim=-3) / 2 for a, b in pairs]
    return torch.stack(apart).mean(dim=0)
