"""Weights of classes from how often they occur."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Scheme = Literal["none", "balanced", "sqrt", "effective"]


def class_weights(
    pixel_counts: Tensor, scheme: Scheme = "balanced", *, absent: float = 0.0, beta: float | None = None
) -> Tensor:
    """Weights that even out frequent and rare classes. Runs once, on the host.

    With n_c the pixels of class c, N their sum and K the number of classes that occur:
    "none": 1. "balanced": `N / (K n_c)`, so the weighted pixels of every class weigh the same and the mean
    weight over pixels is 1. "sqrt": the square root of that. "effective": proportional to `(1 - beta) / (1 -
    beta^n_c)`, scaled to a mean of 1 over the classes that occur.

    Args:
        pixel_counts: int[C], ignored pixels left out.
        scheme: which of them.
        absent: the weight of a class without a pixel; no count can say it. 0 also keeps such a class out of a
            loss on pseudo-labels.
        beta: of "effective", in [0, 1); None for `(N - 1) / N`. The customary 0.9999 is meant for numbers of
            images: above some 50,000 pixels per class it gives every class the same weight.

    Returns:
        float32[C].

    Raises:
        ValueError: if no class has a pixel, a count is negative, or `scheme` or `beta` is unknown.

    >>> class_weights(torch.tensor([30, 10, 0])).tolist()
    [0.6666666865348816, 2.0, 0.0]

    Source: "balanced" is scikit-learn's; "effective" is Cui et al., arXiv 1901.05555.
    """
    if scheme not in get_args(Scheme):
        raise ValueError(f"class_weights: scheme must be one of {get_args(Scheme)}, but got {scheme=}")
    counts = pixel_counts.detach().cpu().double()
    present = counts > 0
    if bool((counts < 0).any()) or not bool(present.any()):
        got = pixel_counts.tolist()
        raise ValueError(f"class_weights: counts must be at least 0, one above 0, but got pixel_counts={got}")
    total = counts.sum()
    share = present.sum() * counts.clamp_min(1.0) / total
    if scheme == "none":
        weight = torch.ones_like(counts)
    elif scheme == "balanced":
        weight = 1.0 / share
    elif scheme == "sqrt":
        weight = share.rsqrt()
    else:
        weight = _effective(counts, present, 1.0 - 1.0 / float(total) if beta is None else beta)
    return torch.where(present, weight, torch.full_like(weight, absent)).float()


def _effective(counts: Tensor, present: Tensor, beta: float) -> Tensor:
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"class_weights: beta must lie in [0, 1), but got {beta=}")
    base = torch.tensor(beta, dtype=torch.float64)
    # expm1 of a small exponent keeps the digits that 1 - beta^n would lose.
    weight = (1.0 - base) / -torch.expm1(counts.clamp_min(1.0) * torch.log(base))
    return weight / torch.where(present, weight, torch.zeros_like(weight)).sum() * present.sum()
