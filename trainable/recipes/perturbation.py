"""Noise on an encoder's feature maps. Random numbers come from torch's generator, which the loop seeds every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def channel_dropout(features: Sequence[Tensor], image: Tensor, p: float) -> list[Tensor]:
    """Drop whole channels with probability `p`, and scale the others by 1 / (1 - p).

    Args:
        features: float[B, C_i, *S_i] each. The image itself, which some encoders pass on first, stays as it is.
        image: float[B, 3, *S], what was encoded.
        p: in [0, 1).

    >>> noisy = channel_dropout([torch.ones(2, 4, 3, 3)], torch.zeros(2, 3, 6, 6), 0.5)[0]
    >>> sorted(set(noisy.flatten().tolist())) in ([0.0, 2.0], [0.0], [2.0])
    True

    Source: the feature perturbation of UniMatch (arXiv 2208.09910).
    """
    return [f if _is_image(f, image) else F.dropout2d(f, p, training=True) for f in features]


def complementary_dropout(features: Sequence[Tensor], image: Tensor, keep_share: float = 0.5) -> list[Tensor]:
    """Split the channels of every image at random between its two views: what one lacks, the other has doubled.

    Factors are 0 or 2, and sum to 2 over the two views. A share of the images keeps all channels in both. Maps with
    the same number of channels share one split, as those of a vision transformer do.

    Args:
        features: float[2 B, C_i, *S_i] each, the B images' first views, then their second ones. The image itself stays
            as it is.
        image: float[2 B, 3, *S], what was encoded.
        keep_share: share of the images that are left alone, rounded down.

    Source: the complementary dropout of UniMatch V2 (arXiv 2410.10777).
    """
    number = len(image) // 2
    rank = torch.rand(number, device=image.device).argsort().argsort()
    kept = (rank < int(keep_share * number)).unsqueeze(1)
    factors: dict[int, Tensor] = {}
    noisy = []
    for f in features:
        if _is_image(f, image):
            noisy.append(f)
            continue
        channels = f.shape[1]
        if channels not in factors:
            first = (torch.rand(number, channels, device=image.device) < 0.5) * 2.0
            first = torch.where(kept, torch.ones_like(first), first)
            factors[channels] = torch.cat([first, 2.0 - first])
        noisy.append(f * factors[channels].to(f.dtype).view(*f.shape[:2], *[1] * (f.ndim - 2)))
    return noisy


def _is_image(feature: Tensor, image: Tensor) -> bool:
    return feature.shape[1] == image.shape[1] and feature.shape[2] >= image.shape[2]
