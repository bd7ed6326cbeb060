"""Losses on the pixels of a many-class task, from logits and a label map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainable.losses.reduction import TINY, Normalize, check_maps, pixel_weights, reduce_pixels


def cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    valid: Tensor | None = None,
    ignore_index: int = 255,
    normalize: Normalize = "valid",
) -> Tensor:
    """Cross-entropy, `-log softmax(logits)[label]`, averaged over pixels.

    With w = class_weight[label] * pixel_weight, 0 where the label is `ignore_index` or the pixel is padding:
    "valid" divides `sum(w * ce)` by `sum(w)`; "all" divides it by the number of `valid` pixels, so that a
    target with few selected pixels weighs little.

    Args:
        logits: float[B, C, *S].
        label: int[B, *S], in [0, C) or `ignore_index`.
        class_weight: float[C].
        pixel_weight: float[B, *S].
        valid: bool[B, *S]; False where the image was padded.
        ignore_index: the label of pixels that do not count.
        normalize: what the mean runs over, see above.

    Returns:
        float32[]; 0 where no pixel counts.

    Raises:
        ValueError: if the shapes do not fit or `normalize` is unknown.

    >>> logits = torch.tensor([[[0.0, 9.0], [0.0, 0.0]]])
    >>> round(cross_entropy(logits, torch.tensor([[1, 255]])).item(), 4)
    0.6931
    >>> round(cross_entropy(logits, torch.tensor([[1, 255]]), normalize="all").item(), 4)
    0.3466

    Source: `torch.nn.functional.cross_entropy`, which gives NaN where no pixel counts; "all" as in FixMatch
        (arXiv 2001.07685) and UniMatch (arXiv 2208.09910).
    """
    check_maps("cross_entropy", logits, label)
    value = F.cross_entropy(logits.float(), label.long(), ignore_index=ignore_index, reduction="none")
    weight = pixel_weights(
        label, class_weight=class_weight, pixel_weight=pixel_weight, valid=valid, ignore_index=ignore_index
    )
    return reduce_pixels(value, weight, valid, normalize)


def focal_loss(
    logits: Tensor,
    label: Tensor,
    *,
    alpha: float | Tensor = 0.25,
    gamma: float | Tensor = 2.0,
    pixel_weight: Tensor | None = None,
    valid: Tensor | None = None,
    ignore_index: int = 255,
    normalize: Normalize = "valid",
) -> Tensor:
    """Focal loss, `alpha (1 - p_t)^gamma (-log p_t)` with p_t = softmax(logits)[label], averaged over pixels.

    Args:
        logits: float[B, C, *S].
        label: int[B, *S], in [0, C) or `ignore_index`.
        alpha: a plain factor, the same for every class; a number or `float[]`.
        gamma: how strongly easy pixels are turned down, at least 0; a number or `float[]`.
        pixel_weight: float[B, *S].
        valid: bool[B, *S]; False where the image was padded.
        ignore_index: the label of pixels that do not count.
        normalize: what the mean runs over, as in `cross_entropy`.

    Returns:
        float32[]; 0 where no pixel counts.

    Raises:
        ValueError: if the shapes do not fit or `normalize` is unknown.

    >>> logits = torch.tensor([[[0.0], [0.0]]])
    >>> round(focal_loss(logits, torch.tensor([[1]]), alpha=1.0).item(), 4) == round(0.5**2 * 0.693147, 4)
    True

    Source: arXiv 1708.02002. Differs in that alpha does not depend on the class.
    """
    check_maps("focal_loss", logits, label)
    entropy = F.cross_entropy(logits.float(), label.long(), ignore_index=ignore_index, reduction="none")
    value = alpha * modulation(entropy, gamma) * entropy
    weight = pixel_weights(label, pixel_weight=pixel_weight, valid=valid, ignore_index=ignore_index)
    return reduce_pixels(value, weight, valid, normalize)


def modulation(entropy: Tensor, gamma: float | Tensor) -> Tensor:
    """`(1 - exp(-entropy))^gamma`, with a finite slope at 0 for every gamma.

    Args:
        entropy: float[*], at least 0: `-log p_t`.
        gamma: at least 0.

    Returns:
        float[*], in [0, 1].

    >>> modulation(torch.tensor([0.0, 0.6931472]), 2.0).tolist()[1]
    0.25
    """
    # Below 1 the power has an infinite slope at 0; the clamp has none, and 1e-7 is under float32's step.
    return (-torch.expm1(-entropy)).clamp_min(1e-7) ** gamma


def dice_loss(
    logits: Tensor,
    label: Tensor,
    *,
    smooth: float = 1.0,
    pixel_weight: Tensor | None = None,
    valid: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Soft Dice loss of the softmax, `1 - mean_{n,c} (2 sum w p g + s) / (sum w p + sum w g + s)`.

    p is the softmax of the logits, g the one-hot label, w the pixel's weight (0 where it does not count), s =
    `smooth`; the sums run over the pixels of one image and class, the mean over images and all C classes. A
    class that an image lacks scores `s / (sum w p + s)`: it is pushed down, not left out.

    Args:
        logits: float[B, C, *S].
        label: int[B, *S], in [0, C) or `ignore_index`.
        smooth: what is added above and below; with 0 an image without a counted pixel gives 1 instead of 0.
        pixel_weight: float[B, *S].
        valid: bool[B, *S]; False where the image was padded.
        ignore_index: the label of pixels that do not count.

    Returns:
        float32[], in [0, 1]; with a positive `smooth`, 0 where no pixel counts.

    Raises:
        ValueError: if the shapes do not fit.

    >>> logits = torch.tensor([[[20.0, -20.0], [-20.0, 20.0]]])
    >>> round(dice_loss(logits, torch.tensor([[0, 1]])).item(), 6)
    0.0

    Source: V-Net (arXiv 1606.04797), with plain instead of squared terms below the line.
    """
    check_maps("dice_loss", logits, label)
    probability = logits.float().softmax(1)
    truth = one_hot(label, logits.shape[1])
    weight = pixel_weights(label, pixel_weight=pixel_weight, valid=valid, ignore_index=ignore_index)
    weight = weight.unsqueeze(1)
    overlap = (weight * probability * truth).flatten(2).sum(2)
    extent = (weight * (probability + truth)).flatten(2).sum(2)
    return 1.0 - ((2.0 * overlap + smooth) / (extent + smooth).clamp_min(TINY)).mean()


def one_hot(label: Tensor, num_classes: int) -> Tensor:
    """One channel per class; a label outside [0, C), such as ignore, is 0 in all of them.

    Args:
        label: int[B, *S].
        num_classes: C.

    Returns:
        float32[B, C, *S].

    >>> one_hot(torch.tensor([[1, 255]]), 2).tolist()
    [[[0.0, 0.0], [1.0, 0.0]]]
    """
    classes = torch.arange(num_classes, device=label.device).view(1, num_classes, *[1] * (label.ndim - 1))
    return (label.unsqueeze(1) == classes).float()
