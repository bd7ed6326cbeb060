"""Rules that keep or reject whole images, and targets that several heads vote for."""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.pseudo_labels.select import confidence
from trainable.pseudo_labels.target import Target, make_target


def select_images(
    score: Tensor, probabilities: Tensor, threshold: float | Tensor, valid: Tensor | None = None
) -> Target:
    """Keep every pixel of the images whose score is above the threshold, strictly.

    The target of a kept image is the most probable class of each of its pixels, however unsure.

    Args:
        score: float[B] or float[B, 1], the discriminator's score of the prediction, in [0, 1].
        probabilities: float[B, C, *S], or logits: only their order matters.
        threshold: a number or `float[]`.
        valid: bool[B, *S]; False where the image was padded.

    Returns:
        The target; `st/images_selected` counts the images above the threshold.

    Raises:
        ValueError: unless there is one score per image.

    >>> probabilities = torch.tensor([[[0.6], [0.4]], [[0.1], [0.9]]])
    >>> select_images(torch.tensor([0.7, 0.2]), probabilities, threshold=0.6).label.tolist()
    [[0], [255]]

    Source: s4GAN (arXiv 1908.05724). A fresh discriminator scores about one half and a winning one about 0.
    """
    batch, num_classes = probabilities.shape[:2]
    if score.numel() != batch:
        got = f"score {tuple(score.shape)}, probabilities {tuple(probabilities.shape)}"
        raise ValueError(f"select_images: score must hold one number per image, but got {got}")
    _, label = confidence(probabilities)
    passed = score.detach().float().reshape(batch, *[1] * (label.ndim - 1)) > threshold
    return make_target(label, passed.expand(label.shape), valid, num_classes)


def vote_target(
    head_logits: Tensor, mean_weight: float | Tensor = 5.0, valid: Tensor | None = None
) -> Target:
    """Label each pixel with the class that most heads name; their sum votes `mean_weight` times.

    `argmax_c (mean_weight * 1[c = argmax sum_k z_k] + sum_k 1[c = argmax z_k])`; the smaller class number
    wins a tie. Every pixel is kept.

    Args:
        head_logits: float[K, B, C, *S], z, one entry per head.
        mean_weight: votes of the ensemble.
        valid: bool[B, *S]; False where the image was padded.

    Returns:
        The target.

    Raises:
        ValueError: unless the logits are [K, B, C, *S] with at least one head.

    >>> heads = torch.tensor([[[[9.0], [0.0]]], [[[0.0], [1.0]]], [[[0.0], [1.0]]]])
    >>> vote_target(heads, mean_weight=5.0).label.tolist(), vote_target(heads, mean_weight=0.5).label.tolist()
    ([[0]], [[1]])

    Source: DiverseHead (arXiv 2311.13716).
    """
    if head_logits.ndim < 3 or not len(head_logits):
        raise ValueError(f"vote_target: logits must be [K, B, C, *S], but got {tuple(head_logits.shape)}")
    logits = head_logits.detach().float()
    num_classes = logits.shape[2]
    classes = torch.arange(num_classes, device=logits.device).view(1, -1, *[1] * (logits.ndim - 3))
    votes = mean_weight * (_largest(logits.sum(0)).unsqueeze(1) == classes).float()
    # Head by head, so that the one-hot maps of all heads never lie in memory together.
    for head in logits:
        votes = votes + (_largest(head).unsqueeze(1) == classes).float()
    label = _largest(votes)
    return make_target(label, torch.ones_like(label, dtype=torch.bool), valid, num_classes)


def fuse_image_labels(
    logits: Tensor, presence: Tensor, threshold: float | Tensor = 0.2, *, legacy_zero: bool = False
) -> Tensor:
    """Rule out the classes that an image classifier does not see in the image.

    Args:
        logits: float[B, C, *S], of the segmentation network.
        presence: float[B, C], the classifier's probability that the class occurs.
        threshold: a class below it is ruled out.
        legacy_zero: set its logit to 0, as the original does, instead of minus infinity. A logit of 0 still
            wins over negative ones.

    Returns:
        float[B, C, *S]. For an image in which no class would be left, the logits as they are; with `legacy_zero` 0
        everywhere, which makes it class 0.

    Raises:
        ValueError: if the shapes do not fit.

    >>> logits, presence = torch.tensor([[[-2.0], [-1.0]]]), torch.tensor([[0.9, 0.1]])
    >>> fuse_image_labels(logits, presence).argmax(1).tolist()
    [[0]]
    >>> fuse_image_labels(logits, presence, legacy_zero=True).argmax(1).tolist()
    [[1]]

    Source: s4GAN with the multi-label mean-teacher branch (arXiv 1908.05724).
    """
    if presence.shape != logits.shape[:2]:
        shapes = f"logits {tuple(logits.shape)}, presence {tuple(presence.shape)}"
        raise ValueError(f"fuse_image_labels: presence must be [B, C], but got {shapes}")
    seen = presence >= threshold
    if not legacy_zero:
        seen = seen | ~seen.any(1, keepdim=True)
    seen = seen.view(*presence.shape, *[1] * (logits.ndim - 2))
    return torch.where(seen, logits, torch.full_like(logits, 0.0 if legacy_zero else -torch.inf))


def _largest(value: Tensor) -> Tensor:
    """Index of the largest channel; the smaller of two equal ones. On a CPU `max` is several times `argmax`."""
    return value.max(1).indices
