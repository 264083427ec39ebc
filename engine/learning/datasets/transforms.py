"""Joint transforms of image and mask, by torchvision (v2) or any callable of the same signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import MissingExtra, ParameterError
from engine.learning.datasets.seeding import seeded

try:
    import torch
    from torchvision import tv_tensors
except ImportError:
    raise MissingExtra("torchvision", "segment", "to augment images") from None

Augment = Callable[..., Any]
"""Called with an image (c, y, x) and a mask (y, x), if any; returns both, transformed."""


def augment_item(
    augment: Augment,
    image: NDArray[Any],
    mask: NDArray[np.uint8] | None,
    seed: tuple[int, ...],
) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Return an image and its mask, transformed with a seed.

    They are passed as `tv_tensors.Image` and `tv_tensors.Mask`, so that transforms of torchvision
    draw one geometry for both, and the mask keeps its classes. Random numbers come from torch's
    CPU generator, or from states of the transform, of numpy or of Python, see
    `engine.learning.datasets.seeding`; all are seeded for this item and restored afterwards.

    Raises
    ------
    ParameterError
        If the result is not an image and a mask of the same size.
    """
    given = [tv_tensors.Image(torch.from_numpy(image))]
    if mask is not None:
        given.append(tv_tensors.Mask(torch.from_numpy(mask)))
    generator = torch.default_generator  # torch.manual_seed would seed the GPU's as well
    before = generator.get_state()
    try:
        generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
        with seeded(augment, seed):
            found = augment(*given)
    finally:
        generator.set_state(before)
    changed = found if mask is not None else (found,)
    expected = "a function that returns the image (c, y, x)"
    if mask is not None:
        expected += " and the mask (y, x) uint8, of one size"
    if not isinstance(changed, tuple | list) or len(changed) != len(given):
        raise ParameterError("augment", f"one that returns {type(found).__name__}", expected)
    pixels = np.asarray(torch.as_tensor(changed[0]))
    labels = None if mask is None else np.asarray(torch.as_tensor(changed[1]))
    fits = pixels.ndim == 3 and (
        labels is None or (labels.shape == pixels.shape[1:] and labels.dtype == np.uint8)
    )
    if not fits:
        shapes = " and ".join(f"{a.shape} {a.dtype}" for a in (pixels, labels) if a is not None)
        raise ParameterError("augment", f"one that returns {shapes}", expected)
    return pixels, labels
