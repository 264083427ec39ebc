"""Interface of networks: planes in, one score per class and pixel out, for any image size."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Network(nn.Module):
    """Base class of networks that score every pixel for each class.

    Subclasses implement `score` for sizes that are multiples of ``multiple_px``. Other sizes are
    padded on the lower and right side with copies of the edge, and the result is cropped: so the
    result at a position depends on its offset from the first pixel, and tiles that begin at
    multiples of ``multiple_px`` see the same grids of pooled pixels as the whole image.

    Attributes
    ----------
    channels, classes
        Number of input planes, and of output scores per pixel.
    multiple_px
        Side of the squares of the network's coarsest grid, pixels.
    reach_px
        Receptive field to each side of a pixel, pixels; a halo this wide makes tiles equal the
        whole image.
    """

    def __init__(self, channels: int, classes: int, multiple_px: int, reach_px: int) -> None:
        super().__init__()
        self.channels = channels
        self.classes = classes
        self.multiple_px = multiple_px
        self.reach_px = reach_px

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores (n, classes, y, x) of images with sides that are exact multiples."""
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

    The convolution has no bias: normalisation would remove it.
    """
    return [
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
