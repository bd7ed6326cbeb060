"""Targets of self-training in rounds: two thresholds that relax, and labels that overrule."""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.pseudo_labels.target import Target, make_target


def two_sided_thresholds(
    round_number: int,
    *,
    positive: float = 0.95,
    negative: float = 0.05,
    decay: float = 0.02,
    positive_floor: float = 0.80,
    negative_ceiling: float = 0.20,
) -> tuple[float, float]:
    """Thresholds of a round, both moving towards each other from the first round on.

    `max(positive_floor, positive - decay (k - 1))` and `min(negative_ceiling, negative + decay (k - 1))` in
    round k.

    Args:
        round_number: k, at least 1.
        positive: the first round's threshold above which a pixel is positive.
        negative: the first round's threshold below which it is negative.
        decay: how far each moves per round.
        positive_floor: where the first stops; a start below it begins there.
        negative_ceiling: where the second stops; a start above it begins there.

    Returns:
        The thresholds (positive, negative).

    Raises:
        ValueError: if `round_number` is below 1, `decay` is negative, or the two would meet.

    >>> [tuple(round(value, 2) for value in two_sided_thresholds(k)) for k in (1, 2, 3, 20)]
    [(0.95, 0.05), (0.93, 0.07), (0.91, 0.09), (0.8, 0.2)]

    Source: the self-training recipe for cryo-EM particles.
    """
    if round_number < 1 or decay < 0.0:
        got = f"{round_number=}, {decay=}"
        raise ValueError(f"two_sided_thresholds: must have round >= 1 and decay >= 0, but got {got}")
    upper = max(positive_floor, positive - decay * (round_number - 1))
    lower = min(negative_ceiling, negative + decay * (round_number - 1))
    if lower >= upper:
        got = f"negative={lower:g}, positive={upper:g} in round {round_number}"
        raise ValueError(f"two_sided_thresholds: negative must stay below positive, but got {got}")
    return upper, lower


def select_two_sided(
    probability: Tensor, positive: float | Tensor, negative: float | Tensor, valid: Tensor | None = None
) -> Target:
    """Label pixels above one threshold 1 and below the other 0, both strictly; reject those between.

    Args:
        probability: float[B, *S], of the positive class.
        positive: the upper threshold.
        negative: the lower threshold.
        valid: bool[B, *S]; False where the image was padded.

    Returns:
        The target, of two classes.

    >>> select_two_sided(torch.tensor([[0.01, 0.5, 0.99]]), 0.95, 0.05).label.tolist()
    [[0, 255, 1]]
    """
    probability = probability.detach().float()
    above, below = probability > positive, probability < negative
    return make_target(above.long(), above | below, valid, 2)


def round_target(
    probability: Tensor,
    label: Tensor,
    positive: float | Tensor,
    negative: float | Tensor,
    *,
    keep_negatives: bool = False,
    valid: Tensor | None = None,
) -> Target:
    """Target of one image for the next round: what the model is sure of, overruled by the labels.

    Start with every pixel rejected; p < `negative` gives 0, p > `positive` gives 1; labeled positives are 1
    whatever the model says; labeled negatives are 0 only with `keep_negatives`, because a pixel that nobody
    marked may be a particle that nobody saw.

    Args:
        probability: float[B, *S], of the positive class, predicted on the images as they are stored: a
            prediction on an augmented view does not lie on the label's grid.
        label: int[B, *S], 1 where a particle was marked, 0 elsewhere, 255 where there is no label.
        positive: the upper threshold.
        negative: the lower threshold.
        keep_negatives: whether labeled negatives overrule the model.
        valid: bool[B, *S]; False where the image was padded.

    Returns:
        The target, of two classes; the labels that overrule count as selected.

    Raises:
        ValueError: if the shapes differ.

    >>> probability, label = torch.tensor([[0.99, 0.5, 0.01, 0.01]]), torch.tensor([[0, 0, 0, 1]])
    >>> round_target(probability, label, 0.95, 0.05).label.tolist()
    [[1, 255, 0, 1]]
    >>> round_target(probability, label, 0.95, 0.05, keep_negatives=True).label.tolist()
    [[0, 0, 0, 1]]

    Source: the self-training recipe for cryo-EM particles.
    """
    if probability.shape != label.shape:
        shapes = f"probability {tuple(probability.shape)}, label {tuple(label.shape)}"
        raise ValueError(f"round_target: probability and label must have one shape, but got {shapes}")
    probability = probability.detach().float()
    proposed = (probability > positive) | (label == 1)
    selected = proposed | (probability < negative)
    if keep_negatives:
        proposed = proposed & (label != 0)
        selected = selected | (label == 0)
    return make_target(
        torch.where(proposed, torch.ones_like(label), torch.zeros_like(label)), selected, valid, 2
    )
