"""The U-Net of the paper, trained from random weights: batch norm, transposed convolutions, no pretrained encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEVELS = 5


def _twice(in_channels: int, channels: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with bias, batch norm and ReLU."""
    layers: list[nn.Module] = []
    for before in (in_channels, channels):
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Descent(nn.Module):
    """Feature maps of five levels: width channels at full size, and twice as many at each halving.

    Args:
        width: channels of the first level.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(LEVELS)]
        self.levels = nn.ModuleList(
            [_twice(before, after) for before, after in zip([3, *channels], channels, strict=False)]
        )
        self.halve = nn.MaxPool2d(2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """float[B, 3, H, W] to float[B, width 2^k, H / 2^k, W / 2^k] for k = 0 to 4."""
        features = [self.levels[0](image)]
        for level in list(self.levels)[1:]:
            features.append(level(self.halve(features[-1])))
        return features


class Ascent(nn.Module):
    """From the deepest level upwards: a transposed convolution, then two convolutions beside that level's features.

    Args:
        width: channels of the first level.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        upper = [width * 2**level for level in reversed(range(LEVELS - 1))]
        self.up = nn.ModuleList([nn.ConvTranspose2d(2 * channels, channels, 2, stride=2) for channels in upper])
        self.join = nn.ModuleList([_twice(2 * channels, channels) for channels in upper])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The levels of `Descent` to float[B, width, H, W]."""
        found = features[-1]
        for up, join, beside in zip(self.up, self.join, reversed(features[:-1]), strict=True):
            found = join(torch.cat([beside, up(found)], 1))
        return found


class PlainUnet(nn.Module):
    """U-Net of four halvings.

    Args:
        width: channels of the first level. head: float[B, width, H, W] to logits.

    >>> sum(p.numel() for p in PlainUnet(64, nn.Conv2d(64, 1, 1)).parameters())
    31043521

    which is 31,042,369 for an image of one channel, where ours has three.

    Source: U-Net (arXiv 1505.04597), with batch norm and padded convolutions.
    """

    def __init__(self, width: int, head: nn.Module) -> None:
        super().__init__()
        self.encoder = Descent(width)
        self.decoder = Ascent(width)
        self.segmentation_head = head

    def forward(self, image: Tensor) -> Tensor:
        """float[B, 3, H, W] to logits float[B, C, H, W]; sides are multiples of 16."""
        logits: Tensor = self.segmentation_head(self.decoder(self.encoder(image)))
        return logits
