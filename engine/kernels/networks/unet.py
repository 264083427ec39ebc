"""U-Net of Buda et al. 2019."""

from __future__ import annotations

import torch
from torch import nn

from engine.errors import ParameterError
from engine.kernels.networks.base import Network, convolved

LEVELS = 4
"""Number of times that the planes are halved on the way down, and doubled on the way up."""


class UNet(Network):
    """U-Net with four levels and batch normalisation.

    Parameters
    ----------
    channels, classes
        Number of input planes, and of output scores per pixel.
    width
        Feature maps at full resolution; each level below has twice as many. 32 gives 7.8 million
        weights; the number grows with the square.
    shortcuts
        Whether each block's input, through a 1 x 1 convolution, is added to its output before the
        last ReLU, as in a residual network.

    Notes
    -----
    M. Buda, A. Saha, M. A. Mazurowski: Association of genomic subtypes of lower-grade gliomas with
    shape features automatically extracted by a deep learning algorithm. Computers in Biology and
    Medicine 109 (2019), after O. Ronneberger, P. Fischer, T. Brox (MICCAI 2015).

    Examples
    --------
    >>> network = UNet(channels=3, classes=4, width=4).eval()
    >>> tuple(network(torch.zeros(1, 3, 37, 50)).shape)
    (1, 4, 37, 50)
    """

    def __init__(
        self, channels: int = 3, classes: int = 4, width: int = 32, shortcuts: bool = False
    ) -> None:
        if width < 1:
            raise ParameterError("width", width, "at least 1")
        # Each block's two convolutions reach a pixel of their level on each side, on the way down
        # and up; the bottom has one block. The transposed convolutions, with kernels as wide as
        # their stride, reach no further, nor do the pools, but both fill up squares of 16.
        reach = 2 * sum(2 * 2**level for level in range(LEVELS)) + 2 * 2**LEVELS
        super().__init__(channels, classes, 2**LEVELS, reach + 2**LEVELS - 1)
        widths = [width * 2**level for level in range(LEVELS + 1)]
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(
            _Block(inputs, outputs, shortcuts)
            for inputs, outputs in zip([channels, *widths], widths[:-1], strict=False)
        )
        self.bottom = _Block(widths[-2], widths[-1], shortcuts)
        self.widen = nn.ModuleList(
            nn.ConvTranspose2d(2 * here, here, kernel_size=2, stride=2) for here in widths[:-1]
        )
        self.up = nn.ModuleList(_Block(2 * here, here, shortcuts) for here in widths[:-1])
        self.last = nn.Conv2d(width, classes, kernel_size=1)

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores (n, classes, y, x); see `Network.score`."""
        kept = []
        here = images
        for block in self.down:
            kept.append(block(here))
            here = self.pool(kept[-1])
        here = self.bottom(here)
        for level in reversed(range(LEVELS)):
            here = self.up[level](torch.cat((self.widen[level](here), kept[level]), dim=1))
        return self.last(here)


class _Block(nn.Module):
    """Two convolutions, with an optional shortcut."""

    def __init__(self, inputs: int, outputs: int, shortcut: bool) -> None:
        super().__init__()
        layers = [*convolved(inputs, outputs), *convolved(outputs, outputs)]
        self.body = nn.Sequential(*layers[:-1])
        self.last = layers[-1]
        self.shortcut = nn.Conv2d(inputs, outputs, kernel_size=1) if shortcut else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        body = self.body(images)
        return self.last(body if self.shortcut is None else body + self.shortcut(images))
