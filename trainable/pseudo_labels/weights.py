"""Weights on top of a selection: how much each chosen pixel counts."""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.losses.reduction import TINY
from trainable.pseudo_labels.select import confidence
from trainable.pseudo_labels.target import Target


def confidence_weighted(target: Target, probabilities: Tensor, gamma: float | Tensor = 2.0) -> Target:
    """Weigh each chosen pixel by its confidence to a power, `w p^gamma sum(w) / sum(w p^gamma)`.

    The sum of all weights stays what it was, so that a mean over all pixels is not turned down by it.

    Args:
        target: what was chosen, with weights w.
        probabilities: float[B, C, *S], that it was chosen from.
        gamma: the power, at least 0; 0 changes nothing.

    Returns:
        The target with its new weights; `st/weight` is their sum.

    >>> target = Target(torch.tensor([[0, 0, 255]]), torch.tensor([[1.0, 1.0, 0.0]]), torch.ones(1, 3) > 0)
    >>> probabilities = torch.tensor([[[0.8, 0.4, 0.9]]])
    >>> [round(w, 4) for w in confidence_weighted(target, probabilities, gamma=1.0).weight[0].tolist()]
    [1.3333, 0.6667, 0.0]

    Source: AEL (arXiv 2110.05474), which weighs all pixels so and cuts none off.
    """
    value, _ = confidence(probabilities)
    weight = target.weight * torch.pow(value, gamma)
    weight = weight * (target.weight.sum() / weight.sum().clamp_min(TINY))
    return _with(target, weight)


def image_weighted(target: Target, probabilities: Tensor, level: float | Tensor = 0.97) -> Target:
    """Weigh each image by the share of its pixels whose confidence is at least `level`.

    A loss that is a mean over all pixels lets unsure images count for less as a whole; one over the chosen pixels
    divides by the weights, so that only the images' shares of it change.

    Args:
        target: what was chosen; padding is no part of an image.
        probabilities: float[B, C, *S], that it was chosen from.
        level: the confidence that counts as sure.

    Returns:
        The target with its new weights; `st/weight` is their sum.

    >>> target = Target(torch.zeros(2, 2).long(), torch.ones(2, 2), torch.ones(2, 2) > 0)
    >>> probabilities = torch.tensor([[[0.99, 0.5]], [[0.6, 0.5]]])
    >>> image_weighted(target, probabilities).weight.tolist()
    [[0.5, 0.5], [0.0, 0.0]]

    Source: ReCo (arXiv 2104.04465).
    """
    value, label = confidence(probabilities)
    sure = (target.valid & (value >= level)).flatten(1).sum(1).float()
    share = sure / target.valid.flatten(1).sum(1).clamp_min(1)
    return _with(target, target.weight * share.view(-1, *[1] * (label.ndim - 1)))


def _with(target: Target, weight: Tensor) -> Target:
    return Target(target.label, weight.detach(), target.valid, {**target.stats, "st/weight": weight.detach().sum()})
