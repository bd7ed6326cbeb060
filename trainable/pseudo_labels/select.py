"""Rules that keep single pixels by the confidence of their prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.pseudo_labels.target import REJECTED, Target, make_target


def confidence(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest probability of each pixel and its class; of equal ones, one of them.

    Args:
        probabilities: float[B, C, *S].

    Returns:
        float32[B, *S] and int64[B, *S].

    >>> value, label = confidence(torch.tensor([[[0.25], [0.75]]]))
    >>> value.tolist(), label.tolist()
    ([[0.75]], [[1]])
    """
    value, label = probabilities.detach().float().max(1)
    return value, label


def mean_probabilities(logits: Tensor) -> Tensor:
    """Mean of the heads' softmax, which is what several heads agree on; not the softmax of their mean.

    Args:
        logits: float[K, B, C, *S], one entry per head.

    Returns:
        float32[B, C, *S].

    >>> mean_probabilities(torch.tensor([[[[100.0], [0.0]]], [[[0.0], [100.0]]]])).tolist()
    [[[0.5], [0.5]]]
    """
    return logits.detach().float().softmax(2).mean(0)


def pixel_entropy(probabilities: Tensor) -> Tensor:
    """Entropy of each pixel's prediction, `-sum_c p_c log p_c`, in nats.

    Args:
        probabilities: float[B, C, *S].

    Returns:
        float32[B, *S], in [0, log C].

    >>> round(pixel_entropy(torch.tensor([[[0.5], [0.5]]])).item(), 4)
    0.6931
    """
    entropy: Tensor = torch.special.entr(probabilities.float()).sum(1)
    return entropy


def select_per_class(
    probabilities: Tensor, thresholds: float | Tensor, valid: Tensor | None = None
) -> Target:
    """Keep a pixel when its confidence is above the threshold of its predicted class, strictly.

    Args:
        probabilities: float[B, C, *S].
        thresholds: float[C], or one number (or `float[]`) for all classes. 0 keeps every pixel of the class.
        valid: bool[B, *S]; False where the image was padded.

    Returns:
        The target, with weight 1 where a pixel was kept.

    Raises:
        ValueError: if the number of thresholds is not C.

    >>> probabilities = torch.tensor([[[0.9, 0.5, 0.2], [0.1, 0.5, 0.8]]])
    >>> select_per_class(probabilities, torch.tensor([0.8, 0.8])).label.tolist()
    [[0, 255, 255]]

    Source: thresholds per class with a strict comparison, as in the V3 recipe; one number gives FixMatch's
        rule (arXiv 2001.07685), which also keeps a pixel whose confidence equals the threshold.
    """
    value, label = confidence(probabilities)
    limits = per_class(thresholds, probabilities.shape[1], value)
    return make_target(label, value > limits[label], valid, probabilities.shape[1], thresholds=limits)


def without_classes(target: Target, excluded: Tensor) -> Target:
    """Reject the pixels of some classes from a target, whatever chose them.

    Args:
        target: what was chosen. excluded: bool[C], true for the classes to reject.

    Returns:
        The target; the counts of what was selected follow, those of what was seen and predicted do not change.

    >>> target = select_per_class(torch.tensor([[[0.9, 0.2], [0.1, 0.8]]]), 0.5)
    >>> target.label.tolist(), without_classes(target, torch.tensor([True, False])).label.tolist()
    ([[0, 1]], [[255, 1]])
    """
    chosen = target.label != REJECTED
    gone = chosen & excluded[torch.where(chosen, target.label, torch.zeros_like(target.label))]
    kept, weight = chosen & ~gone, target.weight * ~gone
    stats = target.stats | {
        "st/pixels_selected": kept.sum(),
        "st/images_selected": kept.flatten(1).any(1).sum(),
        "st/selected": target.stats["st/selected"] * ~excluded,
    }
    if "st/weight" in stats:
        stats["st/weight"] = weight.sum()
    return Target(torch.where(gone, torch.full_like(target.label, REJECTED), target.label), weight, target.valid, stats)


def per_class(thresholds: float | Tensor, num_classes: int, like: Tensor) -> Tensor:
    """Spread one threshold over the classes, or check that there is one for each.

    Args:
        thresholds: a number, `float[]` or `float[C]`.
        num_classes: C.
        like: any tensor on the wanted device.

    Returns:
        float32[C].

    Raises:
        ValueError: if the number of thresholds is not C.

    >>> per_class(0.5, 2, torch.zeros(1)).tolist()
    [0.5, 0.5]
    """
    if not isinstance(thresholds, Tensor):
        return torch.full((num_classes,), thresholds, dtype=torch.float32, device=like.device)
    if thresholds.ndim > 1 or (thresholds.ndim == 1 and thresholds.numel() != num_classes):
        got = tuple(thresholds.shape)
        raise ValueError(
            f"thresholds: must be one, or one for each of {num_classes} classes, but got shape={got}"
        )
    return thresholds.detach().to(like.device, torch.float32).expand(num_classes)
