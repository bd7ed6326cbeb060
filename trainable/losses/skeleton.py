"""Losses on the skeletons of thin structures: surfaces, vessels, membranes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trainable.losses.boundary import max_pool, neighbor_max, on_host
from trainable.losses.probability import masked
from trainable.losses.reduction import TINY

Erosion = Literal["cross", "cube"]


def soft_skeleton(mask: Tensor, *, iterations: int = 3, erosion: Erosion = "cross") -> Tensor:
    """Skeleton of a soft mask: what an opening removes, gathered over repeated erosion.

    `s = relu(m - open(m))`, then `iterations` times `m = erode(m)`, `d = relu(m - open(m))`,
    `s = s + relu(d - s d)`. An erosion is a minimum, a dilation a maximum over the 3x3(x3) neighborhood.

    Args:
        mask: float[N, C, *S], in [0, 1]; S has two or three axes.
        iterations: repeated erosions; structures wider than `2 iterations + 2` lose their middle.
        erosion: "cross" takes the minimum along each axis, "cube" over the whole neighborhood.

    Returns:
        float32[N, C, *S], in [0, 1].

    Raises:
        ValueError: if `mask` has no two or three axes of space, or `erosion` is unknown.

    >>> bar = torch.zeros(1, 1, 5, 5)
    >>> bar[:, :, 1:4, :] = 1.0
    >>> soft_skeleton(bar)[0, 0, :, 2].tolist()
    [0.0, 0.0, 1.0, 0.0, 0.0]

    Source: clDice (arXiv 2003.07311).
    """
    if mask.ndim not in (4, 5):
        raise ValueError(
            f"soft_skeleton: mask must be [N, C, *S] of 2 or 3 axes, but got {tuple(mask.shape)}"
        )
    if erosion not in ("cross", "cube"):
        raise ValueError(f"soft_skeleton: erosion must be 'cross' or 'cube', but got {erosion=}")
    mask = mask.float()
    skeleton = F.relu(mask - max_pool(_erode(mask, erosion), 3))
    for _ in range(iterations):
        mask = _erode(mask, erosion)
        removed = F.relu(mask - max_pool(_erode(mask, erosion), 3))
        skeleton = skeleton + F.relu(removed - skeleton * removed)
    return skeleton


def cldice_loss(
    probability: Tensor,
    truth: Tensor,
    *,
    iterations: int = 3,
    smooth: float = 1e-5,
    erosion: Erosion = "cross",
    mask: Tensor | None = None,
) -> Tensor:
    """Center-line Dice loss, `1 - mean_{n,c} 2 P R / (P + R)`.

    P = `(sum skel(p) g + s) / (sum skel(p) + s)`, R = `(sum skel(g) p + s) / (sum skel(g) + s)`, sums over
    one image and channel.

    Args:
        probability: float[N, C, *S], in [0, 1]; S has two or three axes.
        truth: float[N, C, *S], 0 or 1.
        iterations: see `soft_skeleton`.
        smooth: s.
        erosion: see `soft_skeleton`.
        mask: 0 where there is no label; background in both.

    Returns:
        float32[], in [0, 1]; a channel without foreground in both adds 0.

    Raises:
        ValueError: if the shapes differ.

    >>> line = torch.zeros(1, 1, 3, 5)
    >>> line[:, :, 1] = 1.0
    >>> round(cldice_loss(line, line).item(), 6)
    0.0

    Source: arXiv 2003.07311. Differs from MONAI's, which takes one ratio over all channels of an image.
    """
    probability, truth, _ = masked(probability, truth, mask)
    predicted = soft_skeleton(probability, iterations=iterations, erosion=erosion)
    wanted = soft_skeleton(truth, iterations=iterations, erosion=erosion)
    precision = _share(predicted, truth, smooth)
    recall = _share(wanted, probability, smooth)
    return 1.0 - (2.0 * precision * recall / (precision + recall).clamp_min(TINY)).mean()


def skeleton_target(truth: Tensor, *, iterations: int = 10, radius: int = 1) -> Tensor:
    """Thickened skeleton of a label mask, within the mask: what `skeleton_recall_loss` asks for.

    Args:
        truth: float[N, C, *S], 0 or 1; S has two or three axes.
        iterations: see `soft_skeleton`.
        radius: how many voxels the skeleton is dilated by.

    Returns:
        float32[N, C, *S], 0 or 1.

    >>> bar = torch.zeros(1, 1, 5, 9)
    >>> bar[:, :, 1:4, :] = 1.0
    >>> skeleton_target(bar, radius=0)[0, 0, :, 4].tolist()
    [0.0, 0.0, 1.0, 0.0, 0.0]

    Source: Skeleton Recall (arXiv 2404.03010). Differs in that the skeleton is the morphological one,
        computed on the device, instead of a thinning on the host: it may be broken where the dilation does
        not close it.
    """
    skeleton = (soft_skeleton(truth, iterations=iterations) > 0.5).float()
    return max_pool(skeleton, 2 * radius + 1) * (truth > 0.5).float()


def skeleton_recall_loss(
    probability: Tensor, skeleton: Tensor, *, smooth: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Share of the true skeleton that is missed, `1 - mean_{n,c} (sum p s + e) / (sum s + e)`, e = `smooth`.

    It does not see false positives: use it beside a loss that does.

    Args:
        probability: float[N, C, *S], in [0, 1].
        skeleton: float[N, C, *S], 0 or 1, of `skeleton_target`.
        smooth: what is added above and below.
        mask: 0 where there is no label.

    Returns:
        float32[], in [0, 1]; a channel without a skeleton adds 0.

    Raises:
        ValueError: if the shapes differ.

    >>> skeleton_recall_loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), smooth=0.0).item()
    1.0

    Source: arXiv 2404.03010.
    """
    probability, skeleton, _ = masked(probability, skeleton, mask)
    return 1.0 - _share(skeleton, probability, smooth).mean()


def _share(skeleton: Tensor, mask: Tensor, smooth: float) -> Tensor:
    inside = (skeleton * mask).flatten(2).sum(2)
    return (inside + smooth) / (skeleton.flatten(2).sum(2) + smooth).clamp_min(TINY)


def _erode(mask: Tensor, erosion: Erosion) -> Tensor:
    if erosion == "cube":
        return -max_pool(-mask, 3)
    eroded = mask
    if on_host(mask):
        turned = -mask
        for axis in range(2, mask.ndim):
            eroded = torch.minimum(eroded, -neighbor_max(turned, axis, 1))
        return eroded
    pool = F.max_pool3d if mask.ndim == 5 else F.max_pool2d
    axes = mask.ndim - 2
    for axis in range(axes):
        kernel = tuple(3 if other == axis else 1 for other in range(axes))
        padding = tuple(1 if other == axis else 0 for other in range(axes))
        eroded = torch.minimum(eroded, -pool(-mask, kernel, stride=1, padding=padding))
    return eroded
