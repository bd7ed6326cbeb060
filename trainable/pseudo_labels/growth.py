"""Pseudo-labels that grow: a region that is nearly all sure of one class takes that class as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.losses.pixel import one_hot
from trainable.pseudo_labels.target import REJECTED, Target


def grow(target: Target, regions: Tensor, thresholds: Tensor) -> Target:
    """Let regions take the class that nearly all of their chosen pixels have.

    A region of n pixels, k of them chosen and m of these of the most frequent class c, grows where `k >= t_c n`,
    `m > t_c k` and t_c > 0. All of its pixels then have the label c, those that were not chosen with weight 1. Of
    several regions over a pixel the last one counts. With t_c = 0 everything is chosen already, and nothing grows.

    Args:
        target: what was chosen.
        regions: bool[B, M, *S]; padding is no part of any.
        thresholds: float[C], t.

    Returns:
        The target after growth. Its statistics stay those of what was chosen, beside `st/pixels_grown`, int64[]: how
        many pixels joined it.

    Raises:
        ValueError: unless the regions lie on the target's grid.

    >>> target = Target(torch.tensor([[1, 1, 1, 255, 255]]), torch.tensor([[1.0, 1, 1, 0, 0]]), torch.ones(1, 5) > 0)
    >>> grow(target, torch.tensor([[[True, True, True, True, False]]]), torch.tensor([0.7, 0.7])).label.tolist()
    [[1, 1, 1, 1, 255]]

    Source: the region propagation of CorrMatch (arXiv 2306.04300). Differs in that all regions are judged by the labels
        before growth, where the original judges one after another.
    """
    if regions.ndim != target.label.ndim + 1 or regions[:, 0].shape != target.label.shape:
        shapes = f"regions {tuple(regions.shape)}, label {tuple(target.label.shape)}"
        raise ValueError(f"grow: regions must be [B, M, *S], but got {shapes}")
    # Image by image: the maps of all images at once would be the largest tensors of a step.
    images = zip(target.label, target.valid, regions, strict=True)
    label = torch.stack([_grown(one, maps & valid, thresholds) for one, valid, maps in images])
    joined = (target.label == REJECTED) & (label != REJECTED)
    weight = torch.where(joined, torch.ones_like(target.weight), target.weight)
    return Target(label, weight, target.valid, target.stats | {"st/pixels_grown": joined.sum()})


def _grown(label: Tensor, regions: Tensor, thresholds: Tensor) -> Tensor:
    """One image: int64[*S], bool[M, *S] and float[C] to int64[*S]."""
    inside = regions.flatten(1)
    with torch.autocast(label.device.type, enabled=False):  # counts of pixels do not fit into bfloat16
        counts = inside.float() @ one_hot(label.unsqueeze(0), len(thresholds))[0].flatten(1).T
    size, chosen, (most, winner) = inside.sum(1), counts.sum(1), counts.max(1)
    limit = thresholds[winner]
    grows = (limit > 0) & (chosen > 0) & (chosen >= limit * size) & (most > limit * chosen)
    number = torch.arange(1, len(regions) + 1, device=label.device, dtype=torch.int32) * grows
    last = (regions * number.view(-1, *[1] * label.ndim)).amax(0).long()
    return torch.where(last > 0, winner[(last - 1).clamp_min(0)], label)
