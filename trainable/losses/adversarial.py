"""Losses between a segmentation network and its discriminator."""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.losses.binary import log_loss


def feature_matching(real: Tensor, fake: Tensor) -> Tensor:
    """Distance of two batches in feature space, `mean_f |mean_b real[b, f] - mean_b fake[b, f]|`.

    The batches may differ in size. Detach the side that must not learn from it.

    Args:
        real: float[B, F], the discriminator's features of labeled images with their labels.
        fake: float[B', F], of unlabeled images with their predictions.

    Returns:
        float32[].

    Raises:
        ValueError: if a batch is empty or the numbers of features differ.

    >>> feature_matching(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[1.0, 1.0]])).item()
    1.0

    Source: arXiv 1606.03498, with the absolute instead of the squared difference, as in s4GAN (arXiv
        1908.05724).
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or not len(real) or not len(fake):
        shapes = f"real {tuple(real.shape)}, fake {tuple(fake.shape)}"
        raise ValueError(f"feature_matching: both must be [B, F] with B at least 1, but got {shapes}")
    return (real.float().mean(0) - fake.float().mean(0)).abs().mean()


def discriminator_loss(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """Binary cross-entropy of both batches, `(mean -log(1 - fake) + mean -log real) / 2`.

    Each batch has its own mean, so the two weigh the same whatever their sizes. A discriminator that always
    says one half scores log 2 = 0.693.

    Args:
        real_score: float[B] or float[B, 1], in [0, 1], after the sigmoid.
        fake_score: float[B'] or float[B', 1], of predictions that take no gradient.

    Returns:
        float32[].

    Raises:
        ValueError: if a batch is empty.

    >>> round(discriminator_loss(torch.tensor([0.5]), torch.tensor([0.5, 0.5])).item(), 4)
    0.6931

    Source: s4GAN (arXiv 1908.05724).
    """
    if not real_score.numel() or not fake_score.numel():
        sizes = f"real {tuple(real_score.shape)}, fake {tuple(fake_score.shape)}"
        raise ValueError(f"discriminator_loss: both batches must hold a score, but got {sizes}")
    real = log_loss(real_score, torch.ones_like(real_score))
    fake = log_loss(fake_score, torch.zeros_like(fake_score))
    return (real.mean() + fake.mean()) / 2.0
