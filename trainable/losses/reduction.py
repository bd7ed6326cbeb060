"""How a map of values becomes one number, without asking the device how many elements counted."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Normalize = Literal["valid", "all"]
# Far below any sum of weights in use, yet its square is still a float32.
TINY = 1e-12


def weighted_mean(value: Tensor, weight: Tensor, denominator: Tensor | None = None) -> Tensor:
    """`sum(weight * value) / sum(weight)`, or over a denominator of the caller's; 0 where that is 0.

    Args:
        value: float[*].
        weight: float[*] or bool[*], of the same shape, at least 0.
        denominator: float[], what to divide by instead.

    Returns:
        float[].

    >>> weighted_mean(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 1.0])).item()
    2.0
    """
    weight = weight.to(value.dtype)
    below = weight.sum() if denominator is None else denominator.to(value.dtype)
    return (value * weight).sum() / below.clamp_min(TINY)


def pixel_weights(
    label: Tensor,
    *,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    valid: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Weight of each pixel: `1[label != ignore_index] * valid * class_weight[label] * pixel_weight`.

    Args:
        label: int[B, *S].
        class_weight: float[C].
        pixel_weight: float[B, *S].
        valid: bool[B, *S]; False where the image was padded.
        ignore_index: the label of pixels that do not count.

    Returns:
        float32[B, *S].

    >>> pixel_weights(torch.tensor([[0, 1, 255]]), class_weight=torch.tensor([2.0, 3.0])).tolist()
    [[2.0, 3.0, 0.0]]
    """
    counted = label != ignore_index
    if valid is not None:
        counted = counted & valid
    weight = counted.float()
    if class_weight is not None:
        position = torch.where(counted, label, torch.zeros_like(label)).long()
        weight = weight * class_weight.float()[position]
    if pixel_weight is not None:
        weight = weight * pixel_weight.float()
    return weight


def reduce_pixels(value: Tensor, weight: Tensor, valid: Tensor | None, normalize: Normalize) -> Tensor:
    """Weighted mean of a map, over its weights ("valid") or over the number of its pixels ("all").

    Args:
        value: float[B, *S].
        weight: float[B, *S].
        valid: bool[B, *S], the pixels that "all" counts; None for every pixel.
        normalize: "valid" or "all".

    Returns:
        float[].

    Raises:
        ValueError: if `normalize` is neither.

    >>> value, weight = torch.tensor([[4.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    >>> reduce_pixels(value, weight, None, "valid").item(), reduce_pixels(value, weight, None, "all").item()
    (4.0, 2.0)
    """
    if normalize == "valid":
        return weighted_mean(value, weight)
    if normalize == "all":
        every = torch.ones_like(weight, dtype=torch.bool) if valid is None else valid
        return weighted_mean(value, weight, every.sum())
    raise ValueError(f"losses: normalize must be 'valid' or 'all', but got {normalize=}")


def check_maps(where: str, logits: Tensor, label: Tensor) -> None:
    """Refuse a label map that does not lie on the grid of its logits.

    Raises:
        ValueError: unless logits are [B, C, *S] and label [B, *S].

    >>> check_maps("loss", torch.zeros(1, 2, 3), torch.zeros(1, 3))
    """
    if logits.ndim < 2 or (logits.shape[0], *logits.shape[2:]) != tuple(label.shape):
        shapes = f"logits {tuple(logits.shape)}, label {tuple(label.shape)}"
        raise ValueError(f"{where}: logits must be [B, C, *S] and label [B, *S], but got {shapes}")
