"""U-Net at half resolution with a small head at full resolution, for CPUs."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from engine.errors import ParameterError
from engine.kernels.networks.base import Network, convolved

LEVELS = 3
"""Number of times that the half resolution is halved again."""

MOST_TIMES = 4
"""Largest width of a level, in those of the first one: deeper levels have most of the weights."""


class HalfUNet(Network):
    """U-Net that computes at half resolution, and adds detail from the image itself at the end.

    It takes a quarter of the time of one at full resolution. Scores at full resolution come from
    planes that are rearranged from depth to space, beside the image.

    Parameters
    ----------
    channels, classes
        Number of input planes, and of output scores per pixel.
    width
        Feature maps at half resolution; each level below has twice as many, up to four times.

    Notes
    -----
    O. Ronneberger, P. Fischer, T. Brox (MICCAI 2015); W. Shi et al. (CVPR 2016) for the
    rearrangement.

    Examples
    --------
    >>> network = HalfUNet(channels=1, classes=4, width=4).eval()
    >>> tuple(network(torch.zeros(1, 1, 37, 50)).shape)
    (1, 4, 37, 50)
    """

    def __init__(self, channels: int = 1, classes: int = 4, width: int = 16) -> None:
        if width < 4 or width % 2:
            raise ParameterError("width", width, "an even number of at least 4")
        multiple = 2 ** (LEVELS + 1)
        # Three convolutions at each level and two at the bottom, a pixel of the level each; one at
        # full resolution; and the squares of the coarsest grid.
        reach = sum(3 * 2 ** (level + 1) for level in range(LEVELS)) + 2 * multiple + 1
        super().__init__(channels, classes, multiple, reach + multiple - 1)
        widths = [width * min(2**level, MOST_TIMES) for level in range(LEVELS + 1)]
        self.halve = nn.Conv2d(channels, width, kernel_size=2, stride=2)
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(
            nn.Sequential(*convolved(inputs, here), *convolved(here, here))
            for inputs, here in zip([width, *widths[:-1]], widths, strict=True)
        )
        self.widen = nn.ModuleList(
            nn.ConvTranspose2d(below, here, kernel_size=2, stride=2)
            for here, below in pairwise(widths)
        )
        self.up = nn.ModuleList(nn.Sequential(*convolved(2 * here, here)) for here in widths[:-1])
        planes = width // 2
        self.enlarge = nn.Sequential(nn.Conv2d(width, 4 * planes, 1), nn.PixelShuffle(2))
        self.last = nn.Sequential(
            *convolved(planes + channels, planes), nn.Conv2d(planes, classes, kernel_size=1)
        )

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores (n, classes, y, x); see `Network.score`."""
        kept = []
        here = self.halve(images)
        for level in range(LEVELS):
            kept.append(self.down[level](here))
            here = self.pool(kept[-1])
        here = self.down[LEVELS](here)
        for level in reversed(range(LEVELS)):
            here = self.up[level](torch.cat((self.widen[level](here), kept[level]), dim=1))
        return self.last(torch.cat((self.enlarge(here), images), dim=1))
