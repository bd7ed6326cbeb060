"""The head of DeepLabV2: atrous convolutions to the classes, summed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATES = (6, 12, 18, 24)


class Deepest(nn.Module):
    """A decoder that hands on the encoder's deepest features."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """float[B, F, h, w], the last of the features."""
        return features[-1]


class AtrousSum(nn.Module):
    """3x3 convolutions at several rates, each to the classes, summed and brought to the image's size.

    Args:
        in_channels: F, of the features.
        num_logits: C.
        stride: pixels of the image per feature.
        rates: of the convolutions.

    Source: DeepLabV2 (arXiv 1606.00915). All four rates count by default; the code of s4GAN leaves its
        loop after two.
    """

    def __init__(self, in_channels: int, num_logits: int, stride: int, rates: Sequence[int] = RATES) -> None:
        super().__init__()
        self.stride = stride
        self.branches = nn.ModuleList(
            [nn.Conv2d(in_channels, num_logits, 3, padding=rate, dilation=rate) for rate in rates]
        )
        for branch in self.branches:
            assert isinstance(branch, nn.Conv2d) and branch.bias is not None
            nn.init.normal_(branch.weight, 0.0, 0.01)
            nn.init.zeros_(branch.bias)

    def forward(self, features: Tensor) -> Tensor:
        """float[B, F, h, w] to float[B, C, stride h, stride w]."""
        logits: Tensor = torch.stack([branch(features) for branch in self.branches]).sum(0)
        return F.interpolate(logits, scale_factor=self.stride, mode="bilinear", align_corners=True)
