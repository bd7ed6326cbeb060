"""Area under the ROC curve of a binary task, from histograms of its scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainable.metrics.counting import count_bins

# The last float32 below 1, and its logit: beyond it there is nothing to tell apart.
_EDGE = 2.0**-24
_REACH = math.log(2.0**24 - 1.0)


def score_histogram(
    probability: Tensor,
    label: Tensor,
    bins: int = 16384,
    ignore_index: int = 255,
    valid: Tensor | None = None,
) -> Tensor:
    """Count scores per class in bins, without a host sync; add the results of all batches up.

    The bins have equal width in the logit: a trained network's scores crowd near 0 and 1, where bins of equal
    width in the probability would tie most of them.

    Args:
        probability: float[*], the probability of the positive class, in [0, 1].
        label: int[*], 0 or 1; other values do not count.
        bins: number of bins; two scores of one bin count as tied.
        ignore_index: the label of pixels that do not count.
        valid: bool[*]; False where the image was padded.

    Returns:
        int64[2, bins], row 0 for label 0 and row 1 for label 1.

    Raises:
        ValueError: if the shapes differ or `bins` is below 2.

    >>> score_histogram(torch.tensor([0.1, 0.9]), torch.tensor([0, 1]), bins=2).tolist()
    [[1, 0], [0, 1]]
    """
    if probability.shape != label.shape:
        shapes = f"probability {tuple(probability.shape)}, label {tuple(label.shape)}"
        raise ValueError(f"score_histogram: probability and label must have one shape, but got {shapes}")
    if bins < 2:
        raise ValueError(f"score_histogram: bins must be at least 2, but got {bins=}")
    label = label.long()
    counted = (label != ignore_index) & ((label == 0) | (label == 1))
    if valid is not None:
        counted &= valid
    logit = torch.special.logit(probability.float(), eps=_EDGE)
    position = ((logit / _REACH + 1.0) * (bins / 2)).long().clamp(0, bins - 1)
    cell = torch.where(counted, label * bins + position, torch.full_like(label, 2 * bins))
    return count_bins(cell, 2 * bins + 1)[:-1].view(2, bins)


def histogram_auc(histogram: Tensor) -> float | None:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
        histogram: int64[2, bins] of `score_histogram`.

    Returns:
        A value in [0, 1], off by at most half the share of (negative, positive) pairs that fall into one bin;
        None where one of the classes has no pixel.

    >>> histogram_auc(torch.tensor([[2, 1, 0], [0, 1, 2]]))
    0.9444444444444444

    Source: the Mann-Whitney statistic (Hanley and McNeil, Radiology 143, 1982).
    """
    negative, positive = histogram.tolist()
    pairs = sum(negative) * sum(positive)
    if not pairs:
        return None
    below, twice_won = 0, 0
    for lower, higher in zip(negative, positive, strict=True):
        twice_won += higher * (2 * below + lower)
        below += lower
    return float(twice_won / (2 * pairs))
