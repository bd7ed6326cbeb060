"""Losses of masks in two or three dimensions, from probabilities.

All take `probability` and `truth` as float[N, C, *S], truth of 0 and 1, and an optional `mask`, float or bool
[N, 1 or C, *S], that is 0 on voxels without a label.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.losses.binary import log_loss
from trainable.losses.pixel import modulation
from trainable.losses.reduction import TINY, weighted_mean


def probability_dice_loss(
    probability: Tensor, truth: Tensor, *, smooth: float = 1e-5, mask: Tensor | None = None
) -> Tensor:
    """Soft Dice loss, `1 - mean_{n,c} (2 sum p g + s) / (sum p + sum g + s)`, sums per image and channel.

    Args:
        probability: float[N, C, *S], in [0, 1].
        truth: float[N, C, *S], 0 or 1.
        smooth: s, added above and below.
        mask: 0 where there is no label.

    Returns:
        float32[], in [0, 1]; a channel without foreground in both adds 0, with foreground in one of them
        nearly 1.

    Raises:
        ValueError: if the shapes differ.

    >>> round(probability_dice_loss(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])).item(), 4)
    0.3333

    Source: V-Net (arXiv 1606.04797), with plain instead of squared terms below the line.
    """
    probability, truth, _ = masked(probability, truth, mask)
    overlap = (probability * truth).flatten(2).sum(2)
    extent = (probability + truth).flatten(2).sum(2)
    return 1.0 - ((2.0 * overlap + smooth) / (extent + smooth).clamp_min(TINY)).mean()


def probability_focal_loss(
    probability: Tensor,
    truth: Tensor,
    *,
    alpha: float | Tensor = 0.25,
    gamma: float | Tensor = 2.0,
    balanced: bool = True,
    background_weight: float | Tensor = 1.0,
    foreground_weight: float | Tensor = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Focal loss, `k a (1 - exp(-bce))^gamma bce`, averaged over the voxels that have a label.

    Balanced: a = `alpha` on the foreground and `1 - alpha` on the background, k = the weight of the voxel's
        class.
    Not balanced: a = `alpha` everywhere, and the class weights do not act. See `focal_pair` for what the two
    settings together amount to.

    Args:
        probability: float[N, C, *S], in [0, 1].
        truth: float[N, C, *S], 0 or 1.
        alpha: weight of the foreground, or a plain factor.
        gamma: how strongly easy voxels are turned down, at least 0.
        balanced: which of the two.
        background_weight: k on the background.
        foreground_weight: k on the foreground.
        mask: 0 where there is no label.

    Returns:
        float32[]; 0 where no voxel has a label.

    Raises:
        ValueError: if the shapes differ.

    >>> probability, truth = torch.tensor([[[0.5]]]), torch.tensor([[[1.0]]])
    >>> round(probability_focal_loss(probability, truth, alpha=0.34).item() / (0.34 * 0.25), 4)
    0.6931

    Source: arXiv 1708.02002; not balanced, the plain factor that some training code uses in its place.
    """
    probability, truth, weight = masked(probability, truth, mask)
    entropy = log_loss(probability, truth)
    value = modulation(entropy, gamma) * entropy
    if balanced:
        background, foreground = (1.0 - alpha) * background_weight, alpha * foreground_weight
        value = value * (foreground * truth + background * (1.0 - truth))
    else:
        value = value * alpha
    return weighted_mean(value, weight)


def focal_pair(
    alpha: float, background_weight: float = 1.0, foreground_weight: float = 1.0
) -> tuple[float, float]:
    """Weights of background and foreground that alpha and the class weights make together.

    Both correct for the same imbalance. Where both are on, this pair shows by how much.

    >>> background, foreground = focal_pair(0.34, background_weight=1.94, foreground_weight=0.52)
    >>> round(background / foreground, 1)
    7.2
    """
    return (1.0 - alpha) * background_weight, alpha * foreground_weight


def masked(probability: Tensor, truth: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return both in float32, with voxels that have no label set to background, and the mask at full size.

    Raises:
        ValueError: if the shapes differ.

    >>> full = torch.ones(1, 1, 2)
    >>> probability, truth, weight = masked(full, full, torch.tensor([[[1, 0]]]))
    >>> probability.tolist(), weight.tolist()
    ([[[1.0, 0.0]]], [[[1.0, 0.0]]])
    """
    if probability.shape != truth.shape or probability.ndim < 3:
        shapes = f"probability {tuple(probability.shape)}, truth {tuple(truth.shape)}"
        raise ValueError(f"losses: probability and truth must both be [N, C, *S], but got {shapes}")
    probability, truth = probability.float(), truth.float()
    if mask is None:
        return probability, truth, torch.ones_like(truth)
    weight = mask.float().expand_as(truth)
    return probability * weight, truth * weight, weight
