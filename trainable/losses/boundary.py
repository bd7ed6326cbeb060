"""Losses that look at the border between foreground and background."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainable.losses.binary import log_loss
from trainable.losses.probability import masked
from trainable.losses.reduction import weighted_mean

_FAR = 1e6


def boundary_weight(
    truth: Tensor, *, inner: float = 3.0, outer: float = 5.0, mask: Tensor | None = None
) -> Tensor:
    """Weight of each voxel by its distance from the border: 1 near it, 0 far from it, linear between.

    With phi = distance to the nearest foreground voxel (outside) or background voxel (inside), Euclidean, in
    voxels:
    `clamp((outer - phi) / (outer - inner), 0, 1)`. Distances beyond `outer` have no part in it, so the
    transform is exact although it looks no further, and it runs on the device.

    Args:
        truth: float[N, C, *S], 0 or 1; S has two or three axes.
        inner: the distance up to which the weight is 1, at least 0.
        outer: the distance from which it is 0, above `inner`.
        mask: float or bool [N, 1 or C, *S], 0 where there is no label. Such voxels are neither foreground nor
            background: where labels end there is no border, and distances lead across.

    Returns:
        float32[N, C, *S], 0 where there is no label; all 0 for a channel that is foreground or background
        throughout, as it has no border.

    Raises:
        ValueError: unless 0 <= inner < outer.

    >>> boundary_weight(torch.tensor([[[[0.0, 0.0, 0.0, 1.0]]]]), inner=1.0, outer=3.0).tolist()
    [[[[0.0, 0.5, 1.0, 1.0]]]]
    """
    if not 0.0 <= inner < outer:
        raise ValueError(f"boundary_weight: 0 <= inner < outer must hold, but got {inner=}, {outer=}")
    known = torch.ones_like(truth, dtype=torch.bool) if mask is None else (mask > 0).expand_as(truth)
    inside, outside = (truth > 0.5) & known, (truth <= 0.5) & known
    reach = int(outer)
    distance = torch.where(inside, _squared_distance(outside, reach), _squared_distance(inside, reach)).sqrt()
    return ((outer - distance) / (outer - inner)).clamp(0.0, 1.0) * known


def boundary_loss(
    probability: Tensor, truth: Tensor, *, inner: float = 3.0, outer: float = 5.0, mask: Tensor | None = None
) -> Tensor:
    """Cross-entropy near the border, `mean_n sum w bce / (sum w + 1e-5)` with w of `boundary_weight`.

    Args:
        probability: float[N, C, *S], in [0, 1].
        truth: float[N, C, *S], 0 or 1.
        inner: see `boundary_weight`.
        outer: see `boundary_weight`.
        mask: 0 where there is no label; such voxels take part neither in the sums nor in the border.

    Returns:
        float32[]; an image without a border adds 0.

    Raises:
        ValueError: if the shapes differ.

    >>> probability, truth = torch.full((1, 1, 1, 4), 0.5), torch.tensor([[[[0.0, 0.0, 1.0, 1.0]]]])
    >>> round(boundary_loss(probability, truth).item(), 4)
    0.6931

    Source: the composite loss of the surface recipe. It is neither the boundary loss of Kervadec et al.
        (arXiv 1812.07032), an integral over the distance map, nor a loss on edge filters.
    """
    _, truth, labeled = masked(probability, truth, mask)
    weight = boundary_weight(truth, inner=inner, outer=outer, mask=labeled) * labeled
    entropy = log_loss(probability, truth)
    return ((weight * entropy).flatten(1).sum(1) / (weight.flatten(1).sum(1) + 1e-5)).mean()


def connectivity_loss(
    probability: Tensor, truth: Tensor, *, kernel: int = 3, mask: Tensor | None = None
) -> Tensor:
    """Squared difference of neighborhood maxima, `mean (maxpool_k p - maxpool_k g)^2`, stride 1.

    Args:
        probability: float[N, C, *S], in [0, 1]; S has two or three axes.
        truth: float[N, C, *S], 0 or 1.
        kernel: k, the odd edge of the neighborhood.
        mask: 0 where there is no label.

    Returns:
        float32[]; 0 where no voxel has a label.

    Raises:
        ValueError: if the shapes differ or `kernel` is even.

    >>> connectivity_loss(torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3)).item()
    1.0

    Source: the composite loss of the surface recipe.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"connectivity_loss: kernel must be odd and positive, but got {kernel=}")
    probability, truth, labeled = masked(probability, truth, mask)
    return weighted_mean((max_pool(probability, kernel) - max_pool(truth, kernel)) ** 2, labeled)


def max_pool(value: Tensor, kernel: int) -> Tensor:
    """Maximum over a square or cubic neighborhood, at the same size.

    Args:
        value: float[N, C, *S]; S has two or three axes.
        kernel: the odd edge of the neighborhood.

    Returns:
        float[N, C, *S].

    >>> max_pool(torch.tensor([[[[0.0, 0.0, 1.0]]]]), 3).tolist()
    [[[[0.0, 1.0, 1.0]]]]
    """
    if on_host(value):
        for axis in range(2, value.ndim):
            value = neighbor_max(value, axis, kernel // 2)
        return value
    pool = F.max_pool3d if value.ndim == 5 else F.max_pool2d
    return pool(value, kernel, stride=1, padding=kernel // 2)


def on_host(value: Tensor) -> bool:
    """Whether a maximum is better taken by `neighbor_max`: on the host, where pooling is slow, without a gradient.

    >>> on_host(torch.zeros(1)), on_host(torch.zeros(1, requires_grad=True))
    (True, False)
    """
    return value.device.type == "cpu" and not (value.requires_grad and torch.is_grad_enabled())


def neighbor_max(value: Tensor, axis: int, reach: int) -> Tensor:
    """Maximum over up to `reach` neighbors to either side along one axis, at the same size; without a gradient.

    >>> neighbor_max(torch.tensor([[0.0, 0.0, 1.0]]), 1, 1).tolist()
    [[0.0, 1.0, 1.0]]
    """
    found = value.clone()
    for step in range(1, min(reach, value.shape[axis] - 1) + 1):
        rest = value.shape[axis] - step
        for to, source in ((step, 0), (0, step)):
            part = found.narrow(axis, to, rest)
            torch.maximum(part, value.narrow(axis, source, rest), out=part)
    return found


def _squared_distance(to: Tensor, reach: int) -> Tensor:
    """Squared Euclidean distance to the nearest True voxel, right up to `reach`, at least that beyond it."""
    squared = (~to).float() * _FAR
    for axis in range(2, to.ndim):
        nearest = squared
        for step in range(1, min(reach, to.shape[axis] - 1) + 1):
            ahead = squared.narrow(axis, step, to.shape[axis] - step) + step * step
            behind = squared.narrow(axis, 0, to.shape[axis] - step) + step * step
            edge = torch.full_like(squared.narrow(axis, 0, step), _FAR)
            nearest = torch.minimum(nearest, torch.cat((ahead, edge), axis))
            nearest = torch.minimum(nearest, torch.cat((edge, behind), axis))
        squared = nearest
    return squared
