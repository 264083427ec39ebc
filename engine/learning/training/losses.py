"""Training loss: cross-entropy plus one minus Dice."""

from __future__ import annotations

import torch
from torch.nn import functional


def training_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return cross-entropy plus one minus the soft Dice of the classes in the batch.

    Cross-entropy weights pixels, so it favours large classes; Dice weights all classes alike. A
    class absent from the batch is left out of Dice, where a single pixel of it would decide.

    Parameters
    ----------
    scores
        (n, classes, y, x), logits of the probabilities.
    labels
        (n, y, x) int64.

    Notes
    -----
    F. Milletari, N. Navab, S.-A. Ahmadi: V-Net (3DV 2016), with sums in place of squares.
    """
    scores = scores.float()
    probable = functional.softmax(scores, dim=1)
    true = functional.one_hot(labels, scores.shape[1]).movedim(-1, 1).to(probable.dtype)
    both = (probable * true).sum(dim=(0, 2, 3))
    found, there = probable.sum(dim=(0, 2, 3)), true.sum(dim=(0, 2, 3))
    dice = (2 * both / (found + there).clamp_min(1.0))[there > 0]
    return functional.cross_entropy(scores, labels) + 1 - dice.mean()
