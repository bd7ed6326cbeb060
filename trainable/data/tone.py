"""Changes of brightness on the device, and scales of an image by its own values.

Images are float[B, 3, *S]. Random numbers come from torch's generator, which the loop seeds every step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainable.data.augment import MEAN, STD, blur, normalize
from trainable.data.streams import BLUR_TAPS
from trainable.data.warp import between, happens

DISCS = 3
SAMPLE = 1 << 16
GRADE = 1 / 255


@dataclass(frozen=True)
class Tone:
    """How images are changed in brightness, of the range 0 to 1.

    Attributes:
        contrast_p: chance of another contrast and brightness. contrast: the factor is in 1 +- this, about mid-gray.
        brightness: the offset is in +- this.
        blur_p: chance of a Gaussian blur of the last two axes, sigma in [0.1, 2] pixels.
        noise_p: chance of noise on every pixel. noise_min: its least deviation. noise_max: its largest.
        ice_p: chance of up to three bright or dark discs of contamination.
    """

    contrast_p: float = 0.0
    contrast: float = 0.2
    brightness: float = 0.1
    blur_p: float = 0.0
    noise_p: float = 0.0
    noise_min: float = 0.01
    noise_max: float = 0.05
    ice_p: float = 0.0


def denormalize(image: Tensor) -> Tensor:
    """float[B, 3, *S] of ImageNet's statistics to [0, 1]; the inverse of `normalize`.

    >>> denormalize(torch.zeros(1, 3, 1, 1)).flatten().tolist() == torch.tensor(MEAN).tolist()
    True
    """
    # Channel by channel, because a tensor made of numbers would make the host wait for its copy.
    return torch.stack([image[:, c] * STD[c] + MEAN[c] for c in range(3)], 1)


def renormalize(image: Tensor, valid: Tensor) -> Tensor:
    """float[B, 3, *S] in [0, 1] to ImageNet's statistics; 0 on padding, bool[B, *S]."""
    return normalize(image) * valid.unsqueeze(1)


def known_pixels(image: Tensor) -> Tensor:
    """Where a normalized image is not padding, bool[B, *S]: padding is 0, which no 8-bit color becomes.

    >>> known_pixels(torch.tensor([[[0.0, 0.1]], [[0.0, 0.0]]]).view(1, 2, 1, 2)).tolist()
    [[[False, True]]]
    """
    return (image != 0).any(1)


def toned(image: Tensor, tone: Tone) -> Tensor:
    """Discs, contrast and brightness, blur and noise, in this order, each image by its own draw.

    Args:
        image: float[B, 3, *S] in [0, 1]. tone: how much.

    Returns:
        float[B, 3, *S]; after noise no longer clamped to [0, 1].
    """
    count, ones = len(image), (1,) * (image.ndim - 1)
    if tone.ice_p:
        image = icy(image, tone.ice_p)
    if tone.contrast_p:
        met = happens(tone.contrast_p, count, image)
        factor = 1.0 + met * between(-tone.contrast, tone.contrast, count, image)
        offset = met * between(-tone.brightness, tone.brightness, count, image)
        changed = (image - 0.5) * factor.view(-1, *ones) + 0.5 + offset.view(-1, *ones)
        image = torch.where(met.view(-1, *ones), changed.clamp(0.0, 1.0), image)
    if tone.blur_p:
        sigma = torch.where(happens(tone.blur_p, count, image), between(0.1, 2.0, count, image), 1e-3)
        offset = torch.arange(BLUR_TAPS, device=image.device) - BLUR_TAPS // 2
        kernel = torch.exp(-0.5 * (offset / sigma.unsqueeze(1)) ** 2)
        image = blur(image, kernel / kernel.sum(1, keepdim=True))
    if tone.noise_p and tone.noise_max:
        deviation = happens(tone.noise_p, count, image) * between(tone.noise_min, tone.noise_max, count, image)
        # Drawn once for all channels, so that a gray image stays gray.
        image = image + deviation.view(-1, *ones) * torch.randn_like(image[:, :1])
    return image


def icy(image: Tensor, chance: float) -> Tensor:
    """Paint up to three discs over an image, as ice and dirt lie over a micrograph.

    A disc's radius is 2 % to 8 % of the side, and it is 0.1 to 0.4 brighter or darker, fading at its rim; whatever
    lies below keeps its label.

    Args:
        image: float[B, 3, H, W] in [0, 1]. chance: that an image is met.
    """
    count, (height, width) = len(image), image.shape[2:]
    met = happens(chance, count, image)
    rows = (torch.arange(height, device=image.device) + 0.5).view(1, -1, 1)
    columns = (torch.arange(width, device=image.device) + 0.5).view(1, 1, -1)
    total = torch.zeros(count, height, width, device=image.device)
    for number in range(DISCS):
        there = met if number == 0 else met & happens(0.5, count, image)
        y, x = between(0.0, height, count, image), between(0.0, width, count, image)
        radius = between(0.02, 0.08, count, image) * min(height, width)
        strength = between(0.1, 0.4, count, image) * (1.0 - 2.0 * happens(0.5, count, image))
        distance = ((rows - y.view(-1, 1, 1)) ** 2 + (columns - x.view(-1, 1, 1)) ** 2).sqrt()
        inside = (radius.view(-1, 1, 1) + 0.5 - distance).clamp(0.0, 1.0)
        total = total + (there * strength).view(-1, 1, 1) * inside
    return torch.where(total.unsqueeze(1) != 0, (image + total.unsqueeze(1)).clamp(0.0, 1.0), image)


def standardized(image: Tensor, valid: Tensor) -> Tensor:
    """Each image less its mean, over its deviation, of all channels together; 0 on padding.

    Args:
        image: float[B, 3, *S]. valid: bool[B, *S].

    >>> image = torch.tensor([1.0, 3.0, 9.0]).view(1, 1, 3).expand(1, 3, 3)
    >>> standardized(image, torch.tensor([[True, True, False]]))[0, 0].tolist()
    [-1.0, 1.0, 0.0]
    """
    mean, deviation = _measured(image, valid)
    return (image - mean) * valid.unsqueeze(1) / deviation.clamp_min(1e-6)


def _measured(image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each image over all channels and valid pixels, float[B, 1, ...] each."""
    weight = valid.unsqueeze(1).float().expand_as(image)
    over = tuple(range(1, image.ndim))
    number = weight.sum(over, keepdim=True).clamp_min(1.0)
    mean = (image * weight).sum(over, keepdim=True) / number
    offset = (image - mean) * weight
    return mean, ((offset * offset).sum(over, keepdim=True) / number).sqrt()


def toned_by_level(image: Tensor, valid: Tensor, tone: Tone, level: Tensor) -> Tensor:
    """Crops changed in brightness, less the mean of the whole image, over its deviation; 0 on padding.

    The network is to see a crop as it will see that part of the image: scaled by the image, not by the crop. What the
    changes do to the whole image is told by what they do to the crop: contrast and blur multiply the deviation, noise
    adds to its square. Of a crop that is a whole image it is `standardized` of `toned`.

    Args:
        image: float[B, 3, *S] in [0, 1]. valid: bool[B, *S]. tone: how much.
        level: float[B, 2], mean and deviation of the whole images before.

    >>> crop, valid = torch.full((1, 3, 2), 0.7), torch.ones(1, 2, dtype=torch.bool)
    >>> [round(v, 4) for v in toned_by_level(crop, valid, Tone(), torch.tensor([[0.5, 0.1]]))[0, 0].tolist()]
    [2.0, 2.0]
    """
    quiet = toned(image, replace(tone, noise_p=0.0))
    noisy = toned(quiet, Tone(noise_p=tone.noise_p, noise_min=tone.noise_min, noise_max=tone.noise_max))
    (before, spread), (_, wider), (after, widest) = (_measured(part, valid) for part in (image, quiet, noisy))
    # A crop of one gray level does not tell what contrast does.
    factor = torch.where(spread > GRADE, wider / spread.clamp_min(GRADE), 1.0)
    mean, deviation = level.view(-1, 2, *[1] * (image.ndim - 1)).unbind(1)
    mean = after + (mean - before) * factor
    noise = (widest.square() - wider.square()).clamp_min(0.0)
    deviation = ((deviation * factor).square() + noise).sqrt()
    return (noisy - mean) * valid.unsqueeze(1) / deviation.clamp_min(1e-6)


def stretched(image: Tensor, valid: Tensor, percent: float) -> Tensor:
    """Each image's brightness between two of its own percentiles, mapped to [0, 1] and clipped.

    The percentiles are those of the channels' mean, of every n-th pixel where there are more than 65,536.

    Args:
        image: float[B, 3, *S]. valid: bool[B, *S]. percent: p; the ends are the p-th and the (100 - p)-th percentile.

    Returns:
        float[B, 3, *S] in [0, 1]; what lies on padding means nothing.

    >>> image = torch.arange(5.0).view(1, 1, 5).expand(1, 3, 5)
    >>> stretched(image, torch.ones(1, 5, dtype=torch.bool), 25.0)[0, 0].tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    gray, known = image.detach().mean(1).flatten(1), valid.flatten(1)
    every = max(1, -(-gray.shape[1] // SAMPLE))
    gray, known = gray[:, ::every], known[:, ::every]
    ordered = torch.where(known, gray, torch.inf).sort(1).values
    last = (known.sum(1, keepdim=True) - 1).clamp_min(0)
    ends = [ordered.gather(1, (last * share).round().long()) for share in (percent / 100, 1 - percent / 100)]
    low, high = (torch.where(end.isfinite(), end, 0.0).view(-1, *[1] * (image.ndim - 1)) for end in ends)
    return ((image - low) / (high - low).clamp_min(1e-6)).clamp(0.0, 1.0)
