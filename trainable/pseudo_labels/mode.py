"""What a threshold mode is, what it may be told, and how its statistics move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainable.pseudo_labels.target import Target

State = dict[str, Tensor]
SumOverWorkers = Callable[[Tensor], Tensor]
Number = float | Tensor


@dataclass(frozen=True)
class Numbers:
    """What the modes may be told; each value is a number or a tensor on the device.

    Attributes:
        threshold: of fixed, per_class and linear_ramp, the value of this step, one or one per class; of
            flexmatch the threshold of the best learned class; of freematch the cap of the global threshold.
        momentum: share of the old statistics that stays in a step.
        keep_ratio: of class_ratio, the share of each class's predictions to keep.
        drop_share: of entropy_pct, the share of the pixels to drop, those of the largest entropy; U2PL lets
            it fall from 0.2 to 0.
        num_sigmas: of softmatch, how many standard deviations the weight's width spans.
        quantile: of freematch, the quantile of the confidences that is followed; 0 for their mean.
    """

    threshold: Number = 0.95
    momentum: Number = 0.999
    keep_ratio: Number = 0.5
    drop_share: Number = 0.2
    num_sigmas: Number = 2.0
    quantile: Number = 0.0


@dataclass(frozen=True)
class Mode:
    """One threshold mode.

    Attributes:
        init: makes the state for a number of classes on a device.
        select: turns probabilities into a target and moves the state on.
        help: one line for the user.
    """

    init: Callable[[int, torch.device | str], State]
    select: Callable[[State, Tensor, Tensor | None, Numbers, SumOverWorkers], Target]
    help: str


def alone(statistics: Tensor) -> Tensor:
    """Return the statistics of a single worker as they are."""
    return statistics


def follow(average: Tensor, value: Tensor, momentum: Number, when: Tensor) -> None:
    """Move a running average towards a value, in place, where there was something to see.

    Args:
        average: float[*]. value: float[*]. momentum: share of the old average that stays. when: bool[] or bool[*].

    >>> average = torch.tensor([1.0, 1.0])
    >>> follow(average, torch.zeros(2), 0.75, torch.tensor([True, False]))
    >>> average.tolist()
    [0.75, 1.0]
    """
    moved = momentum * average + (1.0 - momentum) * value
    average.copy_(torch.where(when, moved, average))
