"""Losses between two predictions of one image, and on the spread of a prediction."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainable.losses.pixel import cross_entropy
from trainable.losses.reduction import Normalize, check_maps, pixel_weights, reduce_pixels


def softmax_mse(
    logits: Tensor,
    probabilities: Tensor,
    *,
    pixel_weight: Tensor | None = None,
    valid: Tensor | None = None,
    normalize: Normalize = "valid",
) -> Tensor:
    """Squared distance of two predictions, `mean over pixels of (1 / C) sum_c (softmax(z)_c - q_c)^2`.

    Args:
        logits: float[B, C, *S], z, of the student.
        probabilities: float[B, C, *S], q, of the teacher; they take no gradient.
        pixel_weight: float[B, *S].
        valid: bool[B, *S]; False where the image was padded.
        normalize: what the mean runs over, as in `cross_entropy`.

    Returns:
        float32[]; 0 where no pixel counts.

    Raises:
        ValueError: if the shapes differ.

    >>> softmax_mse(torch.zeros(1, 2, 1), torch.tensor([[[1.0], [0.0]]])).item()
    0.25

    Source: Mean Teacher (arXiv 1703.01780).
    """
    _same("softmax_mse", logits, probabilities)
    value = (logits.float().softmax(1) - probabilities.detach().float()).square().mean(1)
    return reduce_pixels(value, _weights(value, pixel_weight, valid), valid, normalize)


def soft_cross_entropy(
    logits: Tensor,
    probabilities: Tensor,
    *,
    pixel_weight: Tensor | None = None,
    valid: Tensor | None = None,
    normalize: Normalize = "valid",
) -> Tensor:
    """Cross-entropy with soft targets, `mean over pixels of -sum_c q_c log softmax(z)_c`.

    Args:
        logits: float[B, C, *S], z, of the student.
        probabilities: float[B, C, *S], q, of the teacher; they take no gradient.
        pixel_weight: float[B, *S].
        valid: bool[B, *S]; False where the image was padded.
        normalize: what the mean runs over, as in `cross_entropy`.

    Returns:
        float32[]; 0 where no pixel counts.

    Raises:
        ValueError: if the shapes differ.

    >>> round(soft_cross_entropy(torch.zeros(1, 2, 1), torch.tensor([[[0.3], [0.7]]])).item(), 4)
    0.6931
    """
    _same("soft_cross_entropy", logits, probabilities)
    value = -(probabilities.detach().float() * logits.float().log_softmax(1)).sum(1)
    return reduce_pixels(value, _weights(value, pixel_weight, valid), valid, normalize)


def cosine_consistency(student: Tensor, teacher: Tensor) -> Tensor:
    """Angle between two vectors per image, `mean_b (1 - cos(student_b, teacher_b))`.

    Args:
        student: float[B, K], logits of the student.
        teacher: float[B, K], logits of the teacher; they take no gradient.

    Returns:
        float32[], in [0, 2]; a vector of length 0 counts as at right angles.

    Raises:
        ValueError: if the shapes differ or the batch is empty.

    >>> cosine_consistency(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])).item()
    1.0

    Source: the multi-label mean-teacher branch of s4GAN (arXiv 1908.05724).
    """
    if student.shape != teacher.shape or student.ndim != 2 or not len(student):
        shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        raise ValueError(f"cosine_consistency: both must be [B, K] with B at least 1, but got {shapes}")
    cosine: Tensor = F.cosine_similarity(student.float(), teacher.detach().float(), dim=1)
    return (1.0 - cosine).mean()


def entropy_loss(
    logits: Tensor,
    *,
    pixel_weight: Tensor | None = None,
    valid: Tensor | None = None,
    normalize: Normalize = "valid",
) -> Tensor:
    """Mean entropy of the prediction, `mean over pixels of -sum_c p_c log p_c`, in nats.

    Args:
        logits: float[B, C, *S].
        pixel_weight: float[B, *S].
        valid: bool[B, *S]; False where the image was padded.
        normalize: what the mean runs over, as in `cross_entropy`.

    Returns:
        float32[], in [0, log C]; 0 where no pixel counts.

    >>> round(entropy_loss(torch.zeros(1, 2, 1)).item(), 4)
    0.6931
    """
    logarithm = logits.float().log_softmax(1)
    value = -(logarithm.exp() * logarithm).sum(1)
    return reduce_pixels(value, _weights(value, pixel_weight, valid), valid, normalize)


def ohem_cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    threshold: float | Tensor = 0.7,
    min_kept: int = 200_000,
    ignore_index: int = 255,
) -> Tensor:
    """Cross-entropy of the hard pixels only: those whose true class has at most probability t.

    t is `threshold`, or the `min_kept`-th smallest probability of a true class in the batch where that is
    larger, so that at least `min_kept` pixels count; all of them where the batch has no more than that.

    Args:
        logits: float[B, C, *S].
        label: int[B, *S], in [0, C) or `ignore_index`.
        threshold: a probability.
        min_kept: pixels that count at least, over the whole batch; 0 to keep to the threshold.
        ignore_index: the label of pixels that do not count.

    Returns:
        float32[], the mean over the pixels kept; 0 where there is none.

    Raises:
        ValueError: if the shapes do not fit or `min_kept` is negative.

    >>> logits = torch.tensor([[[0.0, 5.0], [0.0, 0.0]]])
    >>> round(ohem_cross_entropy(logits, torch.tensor([[0, 0]]), min_kept=1).item(), 4)
    0.6931

    Source: online hard example mining (arXiv 1604.03540), per pixel as in UniMatch (arXiv 2208.09910).
    """
    check_maps("ohem_cross_entropy", logits, label)
    if min_kept < 0:
        raise ValueError(f"ohem_cross_entropy: min_kept must be at least 0, but got {min_kept=}")
    with torch.no_grad():
        entropy = F.cross_entropy(logits.float(), label.long(), ignore_index=ignore_index, reduction="none")
        counted = label != ignore_index
        probability = torch.where(counted, (-entropy).exp(), torch.ones_like(entropy))
        limit = torch.zeros_like(entropy.sum()) + threshold
        if min_kept and label.numel():
            hardest = probability.flatten().topk(min(min_kept, label.numel()), largest=False, sorted=False)
            limit = torch.maximum(limit, hardest.values.max())
        kept = (probability <= limit) & counted
    return cross_entropy(logits, label, pixel_weight=kept.float(), ignore_index=ignore_index)


def fairness_loss(
    logits: Tensor, selected: Tensor, probability_average: Tensor, histogram_average: Tensor
) -> Tensor:
    """Self-adaptive fairness of FreeMatch, `sum_c q_c log(r_c + 1e-12)`; to be added with a small weight.

    q is `probability_average / histogram_average`, r is `mean p / histogram of argmax p` of the selected
    pixels, both scaled to sum 1; a class whose histogram is 0 drops out. It is the negative of a
    cross-entropy: as a loss it spreads the modulated mean prediction over the classes.

    Args:
        logits: float[B, C, *S], of the student on the strong view.
        selected: bool or float [B, *S], the pixels with a pseudo-label.
        probability_average: float[C], running mean of the prediction on the weak view.
        histogram_average: float[C], running share of each class among the predictions.

    Returns:
        float32[], at most 0; 0 where no pixel is selected.

    Raises:
        ValueError: if the shapes do not fit.

    >>> mean = torch.tensor([0.5, 0.5])
    >>> logits = torch.tensor([[[4.0, -4.0], [-4.0, 4.0]]])
    >>> round(fairness_loss(logits, torch.ones(1, 2), mean, mean).item(), 4)
    -0.6931

    Source: FreeMatch (arXiv 2205.07246) and its code; taken over pixels instead of images.
    """
    check_maps("fairness_loss", logits, selected)
    num_classes = logits.shape[1]
    probability = logits.float().softmax(1)
    weight = selected.float().unsqueeze(1)
    over = [0, *range(2, probability.ndim)]
    classes = torch.arange(num_classes, device=logits.device).view(1, -1, *[1] * (logits.ndim - 2))
    predicted = (probability.max(1, keepdim=True).indices == classes).float()
    count = weight.sum()
    histogram = (weight * predicted).sum(over)
    mean = (weight * probability).sum(over) / count.clamp_min(1.0)
    now = _sum_to_one(mean * _inverse(histogram / count.clamp_min(1.0)))
    before = _sum_to_one(probability_average.detach().float() * _inverse(histogram_average.detach().float()))
    value = (before * (now + 1e-12).log()).sum()
    return value * (count > 0).float()


def _inverse(value: Tensor) -> Tensor:
    positive = value > 0
    return torch.where(
        positive, 1.0 / torch.where(positive, value, torch.ones_like(value)), torch.zeros_like(value)
    )


def _sum_to_one(value: Tensor) -> Tensor:
    return value / value.sum().clamp_min(1e-12)


def _weights(value: Tensor, pixel_weight: Tensor | None, valid: Tensor | None) -> Tensor:
    nothing_ignored = torch.zeros_like(value, dtype=torch.int64)
    return pixel_weights(nothing_ignored, pixel_weight=pixel_weight, valid=valid)


def _same(where: str, logits: Tensor, probabilities: Tensor) -> None:
    if logits.shape != probabilities.shape or logits.ndim < 2:
        shapes = f"logits {tuple(logits.shape)}, probabilities {tuple(probabilities.shape)}"
        raise ValueError(f"{where}: both must be [B, C, *S], but got {shapes}")
