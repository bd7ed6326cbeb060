"""Changes of shape on the device: image, labels and padding move together, each image by its own draw.

Random numbers come from torch's generator, which the loop seeds every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from trainable.data.augment import Views

TRUNCATE = 3.0


@dataclass(frozen=True)
class Warp:
    """How images are turned and bent.

    Attributes:
        rotate_p: chance of a rotation. rotate_degrees: the most, either way.
        elastic_p: chance of a bend. elastic_alpha: pixels that its unsmoothed field moves at most.
        elastic_sigma: pixels over which the field is smoothed.
        flip: mirror each axis half of the time.
    """

    rotate_p: float = 0.0
    rotate_degrees: float = 15.0
    elastic_p: float = 0.0
    elastic_alpha: float = 50.0
    elastic_sigma: float = 5.0
    flip: bool = False


def happens(chance: float, count: int, like: Tensor) -> Tensor:
    """Which of some images a change of that chance meets, bool[count], on the device of `like`.

    >>> happens(1.0, 2, torch.zeros(1)).tolist(), happens(0.0, 2, torch.zeros(1)).tolist()
    ([True, True], [False, False])
    """
    return torch.rand(count, device=like.device) < chance


def between(low: float, high: float, count: int, like: Tensor) -> Tensor:
    """Uniform numbers, float32[count], on the device of `like`.

    >>> between(2.0, 2.0, 2, torch.zeros(1)).tolist()
    [2.0, 2.0]
    """
    return low + (high - low) * torch.rand(count, device=like.device)


def smooth_field(count: int, side: tuple[int, int], alpha: float, sigma: float, like: Tensor) -> Tensor:
    """Displacements of an elastic bend: uniform noise in [-1, 1], smoothed by a Gaussian, times alpha.

    Args:
        count: B. side: (H, W). alpha: in pixels. sigma: of the Gaussian, in pixels, cut off at 3 sigma.
        like: any tensor on the wanted device.

    Returns:
        float32[B, 2, H, W], in pixels; its deviation is about `alpha / (2 sigma sqrt(3 pi))`.

    >>> smooth_field(1, (4, 4), 0.0, 2.0, torch.zeros(1)).abs().max().item()
    0.0

    Source: Simard et al., Best Practices for Convolutional Neural Networks, 2003.
    """
    reach = max(1, math.ceil(TRUNCATE * sigma))
    offset = torch.arange(-reach, reach + 1, device=like.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
    kernel = kernel / kernel.sum()
    noise = torch.rand(2 * count, 1, side[0] + 2 * reach, side[1] + 2 * reach, device=like.device) * 2.0 - 1.0
    rows = F.conv2d(noise, kernel.view(1, 1, 1, -1))
    return alpha * F.conv2d(rows, kernel.view(1, 1, -1, 1)).view(count, 2, *side)


def sampling_grid(count: int, side: tuple[int, int], warp: Warp, like: Tensor) -> Tensor:
    """Where each output pixel comes from, float32[B, H, W, 2] in [-1, 1], x first; see `Warp`."""
    turned, bent = happens(warp.rotate_p, count, like), happens(warp.elastic_p, count, like)
    angle = turned * between(-1.0, 1.0, count, like) * math.radians(warp.rotate_degrees)
    signs = 1.0 - 2.0 * (torch.rand(count, 2, device=like.device) < (0.5 if warp.flip else 0.0))
    theta = torch.zeros(count, 2, 3, device=like.device)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * signs[:, 0], -angle.sin() * signs[:, 1]
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() * signs[:, 0], angle.cos() * signs[:, 1]
    grid = F.affine_grid(theta, [count, 1, *side], align_corners=False)
    if warp.elastic_p and warp.elastic_alpha:
        moved = smooth_field(count, side, warp.elastic_alpha, warp.elastic_sigma, like)
        moved = bent.view(-1, 1, 1, 1) * moved
        grid = grid + torch.stack((moved[:, 0] * (2.0 / side[1]), moved[:, 1] * (2.0 / side[0])), -1)
    return grid


def warped(view: Views, warp: Warp) -> Views:
    """The same images turned, bent and mirrored; what lies beyond the rim is the mirror image of what lies within.

    Args:
        view: of images, not of volumes; its strong views are left out. warp: how.

    Returns:
        image by bilinear, label and valid by nearest interpolation of the same places. Of the pixels that a bilinear
        one lies between, only valid ones count.
    """
    if not (warp.flip or warp.rotate_p or warp.elastic_p):
        return view
    count, side = len(view.image), (view.image.shape[2], view.image.shape[3])
    grid = sampling_grid(count, side, warp, view.image)
    known = view.valid.unsqueeze(1).to(view.image.dtype)
    pixels = torch.cat((view.image * known, known), 1)
    mixed = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    # The nearest of four pixels has a fourth of the weight at least, and where it is not valid, the outcome is not.
    image = mixed[:, :-1] / mixed[:, -1:].clamp_min(0.2)
    planes = torch.stack((view.label, view.valid.long()), 1).float()
    found = F.grid_sample(planes, grid, mode="nearest", padding_mode="reflection", align_corners=False)
    valid = found[:, 1] > 0.5
    return replace(
        view, image=image * valid.unsqueeze(1), label=found[:, 0].round().long(), valid=valid, strong=(), boxes=()
    )


def quarter_turned(view: Views, rotate_p: float, *, flip: bool) -> Views:
    """The same images or volumes after quarter turns of the last two axes, and mirrored along every axis.

    Nothing is interpolated. A volume's first axis is never turned into another, because sections often lie farther
    apart than pixels do.

    Args:
        view: with two equal last sides; its strong views are left out. rotate_p: chance of one, two or three quarter
        turns, equally likely. flip: mirror each axis half of the time.
    """
    if not (rotate_p or flip):
        return view
    count, ndim = len(view.image), view.label.ndim - 1
    number = 1 + (3.0 * torch.rand(count, device=view.image.device)).long()
    turns = happens(rotate_p, count, view.image) * number
    mirrors = [happens(0.5 if flip else 0.0, count, view.image) for _ in range(ndim)]
    # One quarter turn is a transposition and a mirror, two are both mirrors, three a transposition and the other.
    mirrors[-1] = mirrors[-1] ^ ((turns == 1) | (turns == 2))
    mirrors[-2] = mirrors[-2] ^ ((turns == 2) | (turns == 3))

    def turn(value: Tensor) -> Tensor:
        def where(chosen: Tensor, changed: Tensor, kept: Tensor) -> Tensor:
            return torch.where(chosen.view(-1, *[1] * (value.ndim - 1)), changed, kept)

        value = where(turns % 2 == 1, value.transpose(-1, -2), value)
        for axis, mirrored in zip(range(-ndim, 0), mirrors, strict=True):
            value = where(mirrored, value.flip(axis), value)
        return value

    return replace(
        view, image=turn(view.image), label=turn(view.label), valid=turn(view.valid), strong=(), boxes=()
    )
