"""What a network is: planes in, one score per class and pixel out, whatever the planes' size."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Network(nn.Module):
    """A network that gives every pixel a score per class.

    Subclasses write `score`, for sizes that are multiples of ``multiple_px``. Other sizes are
    padded on the lower and right side with copies of the edge, and the answer is cut back: so a
    position's answer depends on its offset from the first pixel, and tiles that begin at multiples
    of ``multiple_px`` see the grids of pooled pixels that the whole image would.

    Attributes
    ----------
    channels, classes
        Number of planes in, and of scores a pixel out.
    multiple_px
        Side of the squares that the network's coarsest grid is made of, pixels.
    reach_px
        How far from a pixel what it answers can depend on, pixels; a halo this wide makes tiles
        equal the whole image.
    """

    def __init__(self, channels: int, classes: int, multiple_px: int, reach_px: int) -> None:
        super().__init__()
        self.channels = channels
        self.classes = classes
        self.multiple_px = multiple_px
        self.reach_px = reach_px

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores (n, classes, y, x) of images whose sides are whole multiples."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores (n, classes, y, x) whose softmax are probabilities, for any size.

        Parameters
        ----------
        images
            (n, channels, y, x), normalised as the network was trained.
        """
        height, width = images.shape[-2:]
        lower, right = -height % self.multiple_px, -width % self.multiple_px
        if lower or right:
            images = functional.pad(images, (0, right, 0, lower), mode="replicate")
        return self.score(images)[..., :height, :width]

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Return probabilities (n, classes, y, x), float32, that sum to one at every pixel."""
        return functional.softmax(self(images).float(), dim=1)


def convolved(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a 3 x 3 convolution, batch normalisation and ReLU.

    The convolution has no bias: normalisation would take it away again.
    """
    return [
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
