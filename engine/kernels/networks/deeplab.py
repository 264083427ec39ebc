"""DeepLabv3 with a residual backbone, with torchvision's names of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from engine.errors import ParameterError
from engine.kernels.networks.base import Network

STRIDE_PX = 8
"""Pixels per feature in the backbone's last planes; later strides are dilations instead."""

FEATURES = 2048
POOLED = 4
"""Index of the pooling branch among the parallel branches of atrous pooling."""

RESNET_101 = (3, 4, 23, 3)
ATROUS = 36
"""Greatest rate of the parallel dilated convolutions, features (torchvision's head)."""


class DeepLabV3(Network):
    """DeepLabv3 with the same names of weights as torchvision.

    Nothing is downloaded: weights come from a bundle, or are random.

    Parameters
    ----------
    channels, classes
        Number of input planes, and of output scores per pixel.
    blocks
        Bottleneck blocks in each of the backbone's four layers; (3, 4, 23, 3) is ResNet-101.
    pool_px
        Side of the square about each position over which the pooling branch averages; None
        averages over the whole input. See Notes.

    Notes
    -----
    L.-C. Chen, G. Papandreou, F. Schroff, H. Adam: Rethinking Atrous Convolution for Semantic
    Image Segmentation (arXiv 1706.05587).

    The rule for global pooling: one of the five branches averages over a plane. With
    ``pool_px=None`` this is the whole input, so for a tiled image the tile's read region, and
    tiles do not equal the whole. With ``pool_px``, ideally the side of the training crops, the
    mean is taken about each position (clipped at the plane's edge, in whole features), and the
    network is convolutional: tiles equal the whole if the halo is at least ``reach_px``. The
    weights are the same. (X. Chu et al.: Improving Image Restoration by Revisiting Global
    Information Aggregation, ECCV 2022, do so with other networks, and find it better than the
    mean over the whole image, with statistics that training never saw.)
    """

    def __init__(
        self,
        channels: int = 3,
        classes: int = 4,
        blocks: tuple[int, int, int, int] = RESNET_101,
        pool_px: int | None = None,
    ) -> None:
        from torchvision.models.resnet import Bottleneck, ResNet
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead

        if len(blocks) != 4 or min(blocks) < 1:
            raise ParameterError("blocks", blocks, "four numbers of blocks, e.g. [3, 4, 23, 3]")
        if pool_px is not None and pool_px < STRIDE_PX:
            raise ParameterError("pool_px", pool_px, f"none, or at least {STRIDE_PX}")
        super().__init__(channels, classes, STRIDE_PX, _reach(blocks, pool_px))
        self.backbone = ResNet(
            Bottleneck, list(blocks), replace_stride_with_dilation=[False, True, True]
        )
        del self.backbone.avgpool, self.backbone.fc
        if channels != 3:
            self.backbone.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.classifier = DeepLabHead(FEATURES, classes)
        self.pools_all = pool_px is None
        if pool_px is not None:
            branches = self.classifier[0].convs
            branches[POOLED] = _LocalPooling(branches[POOLED], pool_px // STRIDE_PX)

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores (n, classes, y, x); see `Network.score`."""
        if self.training and self.pools_all and len(images) == 1:
            # Each channel of the pooled branch would be one number, which has no variance.
            raise ParameterError("batch", 1, "2 or more for deeplabv3, or its option pool_px")
        net = self.backbone
        features = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        features = net.layer4(net.layer3(net.layer2(net.layer1(features))))
        coarse = self.classifier(features)
        return functional.interpolate(
            coarse, size=images.shape[-2:], mode="bilinear", align_corners=False
        )


class _LocalPooling(nn.Sequential):
    """Pooling branch with a mean about each position instead of one mean over all.

    The mean follows the convolution, with which it commutes: 256 planes instead of 2,048.
    """

    def __init__(self, branch: nn.Sequential, side: int) -> None:
        super().__init__(nn.Identity(), *list(branch)[1:])  # indices are the weights' names
        self.side = side + 1 - side % 2

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        _, convolution, *rest = self
        planes = convolution(features)
        half = self.side // 2
        for side, half_side in (((self.side, 1), (half, 0)), ((1, self.side), (0, half))):
            # Clipped windows are products of windows along each axis, so two passes are exact.
            planes = functional.avg_pool2d(
                planes, side, stride=1, padding=half_side, count_include_pad=False
            )
        for layer in rest:
            planes = layer(planes)
        return planes


def load_torchvision(network: DeepLabV3, state: Mapping[str, Any]) -> tuple[str, ...]:
    """Load a state dict with torchvision's names.

    Weights of the auxiliary classifier, which is only used in training, are ignored. If the last
    layer has a different number of classes, our layer keeps its weights.

    Returns
    -------
    Names of our weights that were not loaded: empty, or those of the last layer.

    Raises
    ------
    ParameterError
        If any other weight is missing, unknown or of a different shape.
    """
    ours = network.state_dict()
    given = {name: w for name, w in state.items() if not name.startswith("aux_classifier.")}
    last = [name for name in ours if name.startswith(f"classifier.{len(network.classifier) - 1}.")]
    new = tuple(n for n in last if n in given and given[n].shape != ours[n].shape)
    shared = {*ours} & {*given}
    wrong = sorted(
        ({*ours} ^ {*given})
        | {name for name in shared if name not in new and given[name].shape != ours[name].shape}
    )
    if wrong:
        raise ParameterError(
            "weights",
            f"with {len(wrong)} names or shapes that differ, first {wrong[0]!r}",
            "those of torchvision's deeplabv3_resnet101 (or of the card's blocks and channels)",
        )
    network.load_state_dict({**given, **{name: ours[name] for name in new}})
    return new


def _reach(blocks: tuple[int, int, int, int], pool_px: int | None) -> int:
    """Return the reach in pixels: of the stem, the layers, the head, and the upsampling."""
    stem = 3 + 2
    # A dilated layer's first block still has the dilation of the layer before.
    layers = 4 * blocks[0] + 4 + 8 * (blocks[1] - 1) + 8 + 16 * (blocks[2] - 1)
    layers += 16 + 32 * (blocks[3] - 1)
    pooled = 0 if pool_px is None else pool_px // 2 + STRIDE_PX
    head = max(ATROUS * STRIDE_PX, pooled) + STRIDE_PX
    return stem + layers + head + 2 * STRIDE_PX
