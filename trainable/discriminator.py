"""The discriminator of the adversarial recipes, and what it is shown."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ImageNorm = Literal["batch_minmax", "per_image_minmax", "legacy"]
WIDTHS = (64, 128, 256, 512)
_FLAT = 1e-6  # far below the spread of any image that shows something


class Discriminator(nn.Module):
    """Tells a label map from a prediction, given the image that either belongs to.

    Four strided convolutions (kernel 4, stride 2) with leaky ReLU, channel dropout after the first three, and the
    mean over the map; one linear layer and a sigmoid make the score. In training mode the dropout makes the score
    of one and the same prediction random, as in the original.

    Args:
        num_classes: C.
        dropout: chance that a channel is dropped.

    >>> sum(p.numel() for p in Discriminator(21).parameters())
    2778561

    Source: s4GAN (arXiv 1908.05724). The mean over the map is adaptive, so that any crop will do; the original
        averages over a window as large as the map of its crops.
    """

    def __init__(self, num_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = num_classes + 3
        for number, width in enumerate(WIDTHS):
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            if number < 3:
                layers.append(nn.Dropout2d(dropout))
            channels = width
        self.layers = nn.Sequential(*layers)
        self.score = nn.Linear(channels, 1)

    def forward(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Score and features.

        Args:
            pair: float[B, C + 3, H, W], class map and image, see `shown`; at least 16 pixels a side.

        Returns:
            float32[B], in [0, 1], near 1 for a label map; float32[B, 512], the features under it.
        """
        features = self.layers(pair).float().mean((2, 3))
        # A score in bfloat16 would round to exactly 0 or 1 long before the network is that sure.
        with torch.autocast(pair.device.type, enabled=False):
            logits = F.linear(features, self.score.weight, self.score.bias)
        return logits[:, 0].sigmoid(), features


def unit_range(image: Tensor, norm: ImageNorm = "batch_minmax", other: Tensor | None = None) -> Tensor:
    """Scale images to [0, 1] by their smallest and largest value over all channels, `(x - min) / (max - min)`.

    Args:
        image: float[B, 3, *S].
        norm: `batch_minmax`, over the whole batch; `per_image_minmax`, over each image; `legacy`, over the batch,
            but divided by the range of `other`, which may lead above 1.
        other: float[B', 3, *S], only read by `legacy`: the highest value and the lowest one are its own.

    Returns:
        float32[B, 3, *S]; 0 where the images are flat.

    Raises:
        ValueError: `legacy` without the other batch.

    >>> image = torch.tensor([0.0, 1.0, 2.0, 4.0]).view(2, 1, 1, 2)
    >>> unit_range(image).flatten().tolist(), unit_range(image, "per_image_minmax").flatten().tolist()
    ([0.0, 0.25, 0.5, 1.0], [0.0, 1.0, 0.0, 1.0])

    Source: s4GAN's code scales by the batch, and labeled maps by the range of another batch (`legacy`); the V2
        recipe scales each image.
    """
    image = image.detach().float()
    if norm == "per_image_minmax":
        low = image.flatten(1).amin(1).view(-1, *[1] * (image.ndim - 1))
        span = image.flatten(1).amax(1).view(-1, *[1] * (image.ndim - 1)) - low
    elif norm == "batch_minmax":
        low, span = image.amin(), image.amax() - image.amin()
    else:
        if other is None:
            raise ValueError("unit_range: norm='legacy' must be given the other batch, but got other=None")
        low, span = image.amin(), other.detach().float().amax() - other.detach().float().amin()
    return (image - low) / span.clamp_min(_FLAT)


def shown(class_map: Tensor, image: Tensor, valid: Tensor) -> Tensor:
    """What a discriminator is shown: a class map, 0 on padding, on top of its image.

    Args:
        class_map: float[B, C, *S], probabilities or one-hot labels. image: float[B, 3, *S], in [0, 1].
        valid: bool[B, *S]; False on padding, where a label map is empty and a prediction must be, too: else padding
            alone would give predictions away.

    Returns:
        float[B, C + 3, *S].

    >>> shown(torch.ones(1, 2, 2), torch.zeros(1, 3, 2), torch.tensor([[True, False]]))[0, :, 1].tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """
    return torch.cat([class_map * valid.unsqueeze(1), image], 1)
