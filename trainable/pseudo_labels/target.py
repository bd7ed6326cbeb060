"""What a rule for pseudo-labels hands to a loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainable.metrics import count_classes

REJECTED = 255


@dataclass(frozen=True)
class Target:
    """Pseudo-labels of a batch, so that image-level, pixel-level and soft rules share one loss call.

    Attributes:
        label: int64[B, *S]; 255 where the pixel was not selected.
        weight: float32[B, *S], at least 0; 0 where the pixel was not selected.
        valid: bool[B, *S]; False on padding and on pixels that must not count at all.
        stats: counts and thresholds on the device, see `selection_stats`.
    """

    label: Tensor
    weight: Tensor
    valid: Tensor
    stats: dict[str, Tensor] = field(default_factory=dict)


def make_target(
    label: Tensor,
    selected: Tensor,
    valid: Tensor | None,
    num_classes: int,
    *,
    weight: Tensor | None = None,
    thresholds: Tensor | None = None,
) -> Target:
    """Put a target together from a proposal and what is kept of it.

    Args:
        label: int[B, *S], the proposed class of every pixel, selected or not.
        selected: bool[B, *S].
        valid: bool[B, *S]; None where nothing was padded. Padding is never selected.
        num_classes: C.
        weight: float[B, *S]; None for 1.
        thresholds: float[C], kept among the statistics.

    Returns:
        The target, with `selection_stats`.

    >>> target = make_target(torch.tensor([[0, 1]]), torch.tensor([[True, False]]), None, num_classes=2)
    >>> target.label.tolist(), target.weight.tolist(), target.stats["st/selected"].tolist()
    ([[0, 255]], [[1.0, 0.0]], [1, 0])
    """
    valid = torch.ones_like(selected) if valid is None else valid
    selected = selected & valid
    stats = selection_stats(label, selected, valid, num_classes)
    if thresholds is not None:
        # A copy: the thresholds may be a view of a state that the next step changes in place.
        stats["threshold"] = thresholds.detach().float().clone()
    kept = selected.float() if weight is None else selected.float() * weight.float()
    rejected = torch.full_like(label, REJECTED, dtype=torch.int64)
    return Target(torch.where(selected, label.long(), rejected), kept.detach(), valid, stats)


def selection_stats(label: Tensor, selected: Tensor, valid: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Count what was selected, without a host sync.

    Args:
        label: int[B, *S], the proposed class of every pixel.
        selected: bool[B, *S], within `valid`.
        valid: bool[B, *S].
        num_classes: C.

    Returns:
        `st/pixels_selected`, `st/pixels_seen`, `st/images_selected`, `st/images_seen`: int64[]; an image is
        selected when one of its pixels is, and seen when one of its pixels is valid.
        `st/selected`, `st/predicted`: int64[C], the selected and the valid pixels proposed for each class.

    >>> label, selected = torch.tensor([[0, 1], [1, 1]]), torch.tensor([[True, True], [False, False]])
    >>> stats = selection_stats(label, selected, torch.ones_like(selected), num_classes=2)
    >>> {name: value.tolist() for name, value in stats.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'st/pixels_selected': 2, 'st/pixels_seen': 4, 'st/images_selected': 1, 'st/images_seen': 2,
     'st/selected': [1, 1], 'st/predicted': [1, 3]}
    """
    return {
        "st/pixels_selected": selected.sum(),
        "st/pixels_seen": valid.sum(),
        "st/images_selected": selected.flatten(1).any(1).sum(),
        "st/images_seen": valid.flatten(1).any(1).sum(),
        "st/selected": count_classes(label, selected, num_classes),
        "st/predicted": count_classes(label, valid, num_classes),
    }


def label_accuracy_counts(target: Target, truth: Tensor, ignore_index: int = 255) -> dict[str, Tensor]:
    """Compare selected pseudo-labels with hidden labels, without a host sync.

    Args:
        target: the pseudo-labels.
        truth: int[B, *S], the labels that training must not see.
        ignore_index: the label of pixels that do not count.

    Returns:
        `st/pl_right` and `st/pl_known`: int64[], selected pixels that are right, and those whose label is
        known; `st/pl_accuracy` is their ratio over the images of an evaluation.

    >>> target = Target(torch.tensor([[0, 1, 255]]), torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool))
    >>> [count.item() for count in label_accuracy_counts(target, torch.tensor([[0, 0, 0]])).values()]
    [1, 2]
    """
    known = (target.label != REJECTED) & (truth != ignore_index)
    return {"st/pl_right": (known & (target.label == truth)).sum(), "st/pl_known": known.sum()}
