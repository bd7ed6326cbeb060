"""SoftMatch: every pixel is kept, with a weight that falls with the distance of its confidence below the mean."""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.pseudo_labels.mode import Numbers, State, SumOverWorkers, follow
from trainable.pseudo_labels.select import confidence
from trainable.pseudo_labels.target import Target, make_target


def init_softmatch(num_classes: int, device: torch.device | str) -> State:
    """Mean 1 / C and variance 1."""
    return {
        "mean": torch.full((), 1.0 / num_classes, device=device),
        "variance": torch.ones((), device=device),
    }


def init_softmatch_per_class(num_classes: int, device: torch.device | str) -> State:
    """Mean 1 / C and variance 1 of every class."""
    return {
        "mean": torch.full((num_classes,), 1.0 / num_classes, device=device),
        "variance": torch.ones(num_classes, device=device),
    }


def select_softmatch(
    state: State, probabilities: Tensor, valid: Tensor | None, numbers: Numbers, total: SumOverWorkers
) -> Target:
    """Keep every pixel with weight exp(-min(p - mu, 0)^2 / (2 sigma^2 / n^2)), mu, sigma^2 EMA over pixels.

    The weights tend to saturate at 1 on images; `st/weight` is their sum, to be set against the pixels seen.

    Source: SoftMatch (arXiv 2301.10921), without its uniform alignment.
    """
    value, label = confidence(probabilities)
    valid = torch.ones_like(label, dtype=torch.bool) if valid is None else valid
    weight = valid.float()
    # The squares are taken about a value that all workers share, so that float32 does not cancel.
    offset = (value - state["mean"]) * weight
    _move(state, total(torch.stack((weight.sum(), offset.sum(), (offset * offset).sum()))), numbers)
    return _soft(value, label, valid, state["mean"], state["variance"], numbers, probabilities.shape[1])


def select_softmatch_per_class(
    state: State, probabilities: Tensor, valid: Tensor | None, numbers: Numbers, total: SumOverWorkers
) -> Target:
    """The same, with mu and sigma^2 of the pixels that are predicted as the pixel's class; an absent class rests.

    Source: SoftMatch (arXiv 2301.10921), its statistics per class.
    """
    value, label = confidence(probabilities)
    valid = torch.ones_like(label, dtype=torch.bool) if valid is None else valid
    offset = value - state["mean"][label]
    # Class by class, because adding floats to the same few addresses gives another sum each time.
    inside = [valid & (label == c) for c in range(probabilities.shape[1])]
    sums = [torch.stack([(part * mask).sum() for mask in inside]) for part in (offset, offset * offset)]
    counts = torch.stack([mask.sum() for mask in inside]).float()
    _move(state, total(torch.stack((counts, *sums))), numbers)
    mean, variance = state["mean"][label], state["variance"][label]
    return _soft(value, label, valid, mean, variance, numbers, probabilities.shape[1])


def _move(state: State, sums: Tensor, numbers: Numbers) -> None:
    """Follow mean and variance; sums: float[3] or float[3, C], the number, sum and squares about the old mean."""
    offset = sums[1] / sums[0].clamp_min(1.0)
    variance = (sums[2] - sums[1] * offset).clamp_min(0.0) / (sums[0] - 1.0).clamp_min(1.0)
    follow(state["mean"], state["mean"] + offset, numbers.momentum, sums[0] > 0)
    follow(state["variance"], variance, numbers.momentum, sums[0] > 1)


def _soft(
    value: Tensor, label: Tensor, valid: Tensor, mean: Tensor, variance: Tensor, numbers: Numbers, num_classes: int
) -> Target:
    short = (value - mean).clamp_max(0.0)
    width = 2.0 * variance.clamp_min(1e-12) / (numbers.num_sigmas * numbers.num_sigmas)
    target = make_target(label, valid, valid, num_classes, weight=(-short * short / width).exp())
    target.stats["st/weight"] = target.weight.sum()
    return target
