"""Losses of a task with one logit per pixel: sigmoid, labels 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainable.losses.pixel import modulation
from trainable.losses.reduction import TINY, Normalize, pixel_weights, reduce_pixels


def binary_cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    pos_weight: float | Tensor | None = None,
    pixel_weight: Tensor | None = None,
    valid: Tensor | None = None,
    ignore_index: int = 255,
    normalize: Normalize = "valid",
) -> Tensor:
    """Cross-entropy of the sigmoid, `-(v y log p + (1 - y) log(1 - p))` with v = `pos_weight`, averaged.

    Args:
        logits: float[B, 1, *S] or float[B, *S].
        label: int[B, *S], 0, 1 or `ignore_index`.
        pos_weight: weight of positive pixels within the sum; None for 1. It does not enter the denominator.
        pixel_weight: float[B, *S].
        valid: bool[B, *S]; False where the image was padded.
        ignore_index: the label of pixels that do not count.
        normalize: what the mean runs over, as in `cross_entropy`.

    Returns:
        float32[]; 0 where no pixel counts.

    Raises:
        ValueError: if the shapes do not fit.

    >>> round(binary_cross_entropy(torch.zeros(1, 1, 2), torch.tensor([[1, 255]])).item(), 4)
    0.6931
    """
    logits, truth, weight = _prepare("binary_cross_entropy", logits, label, pixel_weight, valid, ignore_index)
    return reduce_pixels(_entropy(logits, truth, pos_weight), weight, valid, normalize)


def binary_focal_loss(
    logits: Tensor,
    label: Tensor,
    *,
    alpha: float | Tensor = 0.25,
    gamma: float | Tensor = 2.0,
    pos_weight: float | Tensor | None = None,
    pixel_weight: Tensor | None = None,
    valid: Tensor | None = None,
    ignore_index: int = 255,
    normalize: Normalize = "valid",
) -> Tensor:
    """Focal loss of the sigmoid, `a_t (1 - p_t)^gamma bce`, averaged over pixels.

    a_t is `alpha` on positives and `1 - alpha` on negatives; p_t is the probability of the true class.
    `pos_weight` enters bce only, not p_t.

    Args:
        logits: float[B, 1, *S] or float[B, *S].
        label: int[B, *S], 0, 1 or `ignore_index`.
        alpha: weight of the positive class, in [0, 1].
        gamma: how strongly easy pixels are turned down, at least 0.
        pos_weight: factor of bce on positives; None for 1.
        pixel_weight: float[B, *S].
        valid: bool[B, *S]; False where the image was padded.
        ignore_index: the label of pixels that do not count.
        normalize: what the mean runs over, as in `cross_entropy`.

    Returns:
        float32[]; 0 where no pixel counts.

    Raises:
        ValueError: if the shapes do not fit.

    >>> value = binary_focal_loss(torch.zeros(1, 1, 1), torch.tensor([[1]]), alpha=0.25, gamma=2.0)
    >>> round(value.item(), 5) == round(0.25 * 0.25 * 0.693147, 5)
    True

    Source: arXiv 1708.02002.
    """
    logits, truth, weight = _prepare("binary_focal_loss", logits, label, pixel_weight, valid, ignore_index)
    balance = alpha * truth + (1.0 - alpha) * (1.0 - truth)
    value = balance * modulation(_entropy(logits, truth, None), gamma) * _entropy(logits, truth, pos_weight)
    return reduce_pixels(value, weight, valid, normalize)


def binary_dice_loss(
    logits: Tensor,
    label: Tensor,
    *,
    smooth: float = 1.0,
    pixel_weight: Tensor | None = None,
    valid: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Soft Dice loss of the sigmoid over the whole batch, `1 - (2 sum w p y + s) / (sum w p + sum w y + s)`.

    The sums run over all pixels of all images, so one image without a positive does not decide the value.

    Args:
        logits: float[B, 1, *S] or float[B, *S].
        label: int[B, *S], 0, 1 or `ignore_index`.
        smooth: s, added above and below.
        pixel_weight: float[B, *S].
        valid: bool[B, *S]; False where the image was padded.
        ignore_index: the label of pixels that do not count.

    Returns:
        float32[], in [0, 1]; with a positive `smooth`, 0 where no pixel counts.

    Raises:
        ValueError: if the shapes do not fit.

    >>> round(binary_dice_loss(torch.zeros(1, 1, 2), torch.tensor([[1, 0]]), smooth=0.0).item(), 4)
    0.5

    Source: V-Net (arXiv 1606.04797), with plain instead of squared terms below the line.
    """
    # Dice is the Tversky index with both errors at one half; its smoothing term counts twice as much there.
    return tversky_loss(
        logits,
        label,
        alpha=0.5,
        beta=0.5,
        smooth=smooth / 2.0,
        pixel_weight=pixel_weight,
        valid=valid,
        ignore_index=ignore_index,
    )


def tversky_loss(
    logits: Tensor,
    label: Tensor,
    *,
    alpha: float | Tensor = 0.3,
    beta: float | Tensor = 0.7,
    smooth: float = 1.0,
    pixel_weight: Tensor | None = None,
    valid: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Tversky loss of the sigmoid over the whole batch, `1 - (TP + s) / (TP + alpha FP + beta FN + s)`.

    TP = sum w p y, FP = sum w p (1 - y), FN = sum w (1 - p) y over all pixels of all images.

    Args:
        logits: float[B, 1, *S] or float[B, *S].
        label: int[B, *S], 0, 1 or `ignore_index`.
        alpha: price of a false positive.
        beta: price of a false negative.
        smooth: s, added above and below.
        pixel_weight: float[B, *S].
        valid: bool[B, *S]; False where the image was padded.
        ignore_index: the label of pixels that do not count.

    Returns:
        float32[], in [0, 1]; with a positive `smooth`, 0 where no pixel counts.

    Raises:
        ValueError: if the shapes do not fit.

    >>> label = torch.tensor([[1, 1, 0]])
    >>> round(tversky_loss(torch.zeros(1, 1, 3), label, alpha=1.0, beta=1.0, smooth=0.0).item(), 4)
    0.6

    Source: arXiv 1706.05721.
    """
    logits, truth, weight = _prepare("tversky_loss", logits, label, pixel_weight, valid, ignore_index)
    probability = logits.sigmoid()
    hit = (weight * probability * truth).sum()
    false_positive = (weight * probability * (1.0 - truth)).sum()
    false_negative = (weight * (1.0 - probability) * truth).sum()
    below = hit + alpha * false_positive + beta * false_negative + smooth
    return 1.0 - (hit + smooth) / below.clamp_min(TINY)


def log_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of each element from its probability, `-(y log p + (1 - y) log(1 - p))`.

    A logarithm is never below -100; where it is cut the slope is 0, so that a saturated sigmoid gives no NaN.
    Unlike `torch.nn.functional.binary_cross_entropy` it may be called under autocast.

    Args:
        probability: float[*], in [0, 1].
        truth: float[*], in [0, 1], of the same shape.

    Returns:
        float32[*].

    >>> log_loss(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])).tolist()
    [100.0, 0.0]
    """
    probability, truth = probability.float(), truth.float()
    return truth * _minus_log(probability) + (1.0 - truth) * _minus_log(1.0 - probability)


def _minus_log(value: Tensor) -> Tensor:
    # The inner choice keeps log(0) out of the backward pass, where 0 times infinity would be NaN.
    positive = value > 0.0
    logarithm = torch.where(positive, value, torch.ones_like(value)).log()
    return torch.where(positive, -logarithm, torch.full_like(value, 100.0)).clamp_max(100.0)


def _entropy(logits: Tensor, truth: Tensor, pos_weight: float | Tensor | None) -> Tensor:
    positive, negative = F.softplus(-logits), F.softplus(logits)
    if pos_weight is not None:
        positive = positive * pos_weight
    return truth * positive + (1.0 - truth) * negative


def _prepare(
    where: str,
    logits: Tensor,
    label: Tensor,
    pixel_weight: Tensor | None,
    valid: Tensor | None,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor]:
    if logits.ndim == label.ndim + 1 and logits.shape[1] == 1:
        logits = logits.squeeze(1)
    if logits.shape != label.shape:
        shapes = f"logits {tuple(logits.shape)}, label {tuple(label.shape)}"
        raise ValueError(f"{where}: logits must be [B, 1, *S] and label [B, *S], but got {shapes}")
    weight = pixel_weights(label, pixel_weight=pixel_weight, valid=valid, ignore_index=ignore_index)
    return logits.float(), (label == 1).float(), weight
