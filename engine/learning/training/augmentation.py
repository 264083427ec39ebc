"""Training crops: interpolated from samples, and augmented in colour and texture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from engine.learning.datasets.samples import Sample
from engine.learning.training.crops import Crop
from engine.learning.training.settings import Augmentation

STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Absorbance of haematoxylin, eosin and the residual, in red, green and blue: A. C. Ruifrok,
D. A. Johnston, Anal. Quant. Cytol. Histol. 23 (2001)."""

STRENGTH_SD = 0.2
"""Standard deviation of a stain's strength, as a logarithm."""

MIXING_SD = 0.04
"""Standard deviation of the mixing of colours' absorbances: other dyes, filters and sensors."""

LIGHT_SD = 0.03
"""Standard deviation of the light of each colour, decades."""

PALING = 0.4
"""Largest share of colour removed from a fifth of the crops."""

BLUR_PX = 1.0
"""Largest Gaussian sd of a blur, pixels; every second crop is blurred."""

NOISE_SD = 0.02
"""Largest sd of noise, share of full scale."""

DARKEST = 1 / 255
"""Floor of light in the absorbance, share of full scale."""


def cut(
    sample: Sample, crop: Crop, ground: NDArray[np.float32], full: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a crop's pixels, shares of full scale, and its labels.

    Parameters
    ----------
    sample
        Sample to crop.
    crop
        Position of the crop.
    ground
        (c,): colour beyond the sample's edge; its label is 0.
    full
        Full scale of the pixels.

    Returns
    -------
    (c, side, side) float32, linearly interpolated; and (side, side) int64, the nearest.
    """
    box = crop.source(sample.shape)
    pixels = torch.from_numpy(np.array(sample.pixels[:, *box.slices], np.float32))
    labels = torch.from_numpy(np.array(sample.labels[box.slices], np.int64))
    at = torch.from_numpy(crop.position) - torch.tensor(box.start).reshape(2, 1, 1)
    height, width = labels.shape
    grid = torch.stack((at[1] / max(width - 1, 1), at[0] / max(height - 1, 1)), dim=-1) * 2 - 1
    bare = torch.from_numpy(ground).reshape(-1, 1, 1)
    seen = functional.grid_sample(
        (pixels - bare)[None], grid[None], padding_mode="zeros", align_corners=True
    )[0]
    nearest = at.round().long()
    inside = (nearest >= 0).all(dim=0) & (nearest[0] < height) & (nearest[1] < width)
    picked = labels[nearest[0].clamp(0, height - 1), nearest[1].clamp(0, width - 1)]
    return (seen + bare) / full, torch.where(inside, picked, 0)


def recolour(
    pixels: torch.Tensor, change: Augmentation, rng: np.random.Generator, *, colours: bool = True
) -> torch.Tensor:
    """Return a crop with the stain and camera of another simulated laboratory.

    Parameters
    ----------
    pixels
        (c, y, x), shares of full scale. Stains of red, green and blue are changed in absorbance,
        where they are additive. Other channels get a new gain and offset.
    change
        Strengths of the changes.
    rng
        Random numbers of this crop alone.
    colours
        True if three channels are red, green and blue.
    """
    if change.colour:
        far = change.colour
        stained = colours and len(pixels) == 3
        pixels = _stained(pixels, far, rng) if stained else _gained(pixels, far, rng)
    if change.texture:
        pixels = _textured(pixels, change.texture, rng)
    return pixels.clamp(0, 1)


def _stained(pixels: torch.Tensor, far: float, rng: np.random.Generator) -> torch.Tensor:
    stains = np.asarray(STAINS)
    strength = np.exp(rng.normal(0, STRENGTH_SD * far, 3).clip(-1, 1))
    mixed = np.eye(3) + rng.normal(0, MIXING_SD * far, (3, 3))
    light = rng.normal(0, LIGHT_SD * far, 3)
    paling = PALING * min(far, 2) * rng.random() * (rng.random() < 0.2)
    change = np.linalg.inv(stains) @ np.diag(strength) @ stains @ mixed
    absorbed = -torch.log10(pixels.clamp_min(DARKEST)).reshape(3, -1)
    absorbed = torch.from_numpy(change.T.astype(np.float32)) @ absorbed
    absorbed += torch.from_numpy(light.astype(np.float32)).reshape(3, 1)
    changed = torch.pow(10.0, -absorbed).reshape(pixels.shape)
    return torch.lerp(changed, changed.mean(dim=0, keepdim=True), float(paling))


def _gained(pixels: torch.Tensor, far: float, rng: np.random.Generator) -> torch.Tensor:
    gain = np.exp(rng.normal(0, STRENGTH_SD * far, (len(pixels), 1, 1))).astype(np.float32)
    offset = rng.normal(0, LIGHT_SD * far, (len(pixels), 1, 1)).astype(np.float32)
    return pixels * torch.from_numpy(gain) + torch.from_numpy(offset)


def _textured(pixels: torch.Tensor, far: float, rng: np.random.Generator) -> torch.Tensor:
    sd = rng.random() * BLUR_PX * far
    if rng.random() < 0.5 and sd > 0.3:
        reach = int(np.ceil(3 * sd))
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sd) ** 2)
        line = torch.from_numpy((taps / taps.sum()).astype(np.float32)).reshape(1, 1, 1, -1)
        planes = functional.pad(pixels[:, None], (reach,) * 4, mode="replicate")
        planes = functional.conv2d(planes, line)
        pixels = functional.conv2d(planes, line.transpose(2, 3))[:, 0]
    noise = rng.standard_normal(pixels.shape, np.float32)
    return pixels + torch.from_numpy(noise) * float(rng.random() * NOISE_SD * far)
