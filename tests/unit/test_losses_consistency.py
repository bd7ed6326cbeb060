"""Losses between predictions, and between a network and its discriminator, against numpy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from trainable import losses

SEEDS = st.integers(0, 2**31)


def pair(seed: int, shape: tuple[int, ...] = (2, 3, 4, 5)) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape, generator=rng)
    teacher = (2 * torch.randn(shape, generator=rng)).softmax(1)
    space = (shape[0], *shape[2:])
    return logits, teacher, torch.rand(space, generator=rng), torch.rand(space, generator=rng) < 0.7


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from(["valid", "all"]))
def test_losses_between_predictions_equal_numpy(seed: int, normalize: str) -> None:
    logits, teacher, weight, valid = pair(seed)
    z, q, w, v = (value.double().numpy() for value in (logits, teacher, weight, valid))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    below = (w * v).sum() if normalize == "valid" else v.sum()
    options = {"pixel_weight": weight, "valid": valid, "normalize": normalize}
    expected = {
        losses.softmax_mse: ((p - q) ** 2).mean(1),
        losses.soft_cross_entropy: -(q * np.log(p)).sum(1),
    }
    for loss, value in expected.items():
        result = loss(logits, teacher, **options)
        assert result.item() == pytest.approx((value * w * v).sum() / below, rel=1e-4)
    entropy = losses.entropy_loss(logits, **options)
    assert entropy.item() == pytest.approx((-(p * np.log(p)).sum(1) * w * v).sum() / below, rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_losses_between_predictions_equal_torch_on_whole_batches(seed: int) -> None:
    logits, teacher, _, _ = pair(seed)
    torch.testing.assert_close(losses.softmax_mse(logits, teacher), F.mse_loss(logits.softmax(1), teacher))
    torch.testing.assert_close(losses.soft_cross_entropy(logits, teacher), F.cross_entropy(logits, teacher))


def test_a_teacher_takes_no_gradient() -> None:
    logits, teacher, _, _ = pair(0)
    leaf = teacher.clone().requires_grad_()
    student = logits.clone().requires_grad_()
    total = losses.softmax_mse(student, leaf) + losses.soft_cross_entropy(student, leaf)
    total = total + losses.cosine_consistency(student[:, :, 0, 0], leaf[:, :, 0, 0])
    total.backward()
    assert leaf.grad is None
    assert student.grad is not None


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_cosine_consistency_equals_torchs_embedding_loss(seed: int) -> None:
    student, teacher, _, _ = pair(seed, (4, 6))
    theirs = nn.CosineEmbeddingLoss()(student, teacher, torch.ones(4))
    torch.testing.assert_close(losses.cosine_consistency(student, teacher), theirs, rtol=1e-4, atol=1e-5)
    assert losses.cosine_consistency(student, 3 * student).item() == pytest.approx(0.0, abs=1e-5)
    assert losses.cosine_consistency(student, -student).item() == pytest.approx(2.0, abs=1e-5)


def test_a_vector_of_length_zero_gives_no_nan() -> None:
    student = torch.zeros(1, 3).requires_grad_()
    value = losses.cosine_consistency(student, torch.ones(1, 3))
    value.backward()
    assert value.item() == 1.0
    assert student.grad is not None
    assert student.grad.isfinite().all()


def fairness_reference(logits: Tensor, selected: Tensor, q: np.ndarray, h: np.ndarray) -> float:
    rows = logits.double().movedim(1, -1).reshape(-1, logits.shape[1]).numpy()[selected.flatten().numpy()]
    if not len(rows):
        return 0.0
    p = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    histogram = np.bincount(p.argmax(1), minlength=p.shape[1]) / len(p)

    def modulated(value: np.ndarray, by: np.ndarray) -> np.ndarray:
        scaled = np.divide(value, by, out=np.zeros_like(value), where=by > 0)
        return scaled / max(scaled.sum(), 1e-12)

    return float((modulated(q, h) * np.log(modulated(p.mean(0), histogram) + 1e-12)).sum())


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.2, 0.9]))
def test_fairness_equals_numpy(seed: int, share: float) -> None:
    logits, teacher, weight, _ = pair(seed)
    selected = weight < share
    average = teacher.mean((0, 2, 3))
    histogram = torch.tensor([0.5, 0.5, 0.0])
    value = losses.fairness_loss(logits, selected, average, histogram)
    expected = fairness_reference(logits, selected, average.double().numpy(), histogram.double().numpy())
    assert value.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_fairness_of_nothing_selected_gives_a_finite_gradient() -> None:
    logits = torch.randn(1, 3, 4).requires_grad_()
    losses.fairness_loss(logits, torch.zeros(1, 4), torch.full((3,), 1 / 3), torch.zeros(3)).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_no_pixel_gives_zero() -> None:
    logits, teacher, _, valid = pair(1)
    nothing = torch.zeros_like(valid)
    for normalize in ("valid", "all"):
        options = {"valid": nothing, "normalize": normalize}
        assert losses.softmax_mse(logits, teacher, **options).item() == 0.0
        assert losses.soft_cross_entropy(logits, teacher, **options).item() == 0.0
        assert losses.entropy_loss(logits, **options).item() == 0.0


def test_entropy_of_a_sure_prediction_is_zero_with_a_finite_gradient() -> None:
    logits = torch.tensor([[[500.0], [-500.0]]]).requires_grad_()
    value = losses.entropy_loss(logits)
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 5), st.integers(1, 5))
def test_feature_matching_equals_numpy(seed: int, num_real: int, num_fake: int) -> None:
    rng = np.random.default_rng(seed)
    real, fake = rng.normal(size=(num_real, 7)), rng.normal(size=(num_fake, 7))
    value = losses.feature_matching(torch.tensor(real), torch.tensor(fake))
    assert value.item() == pytest.approx(np.abs(real.mean(0) - fake.mean(0)).mean(), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_discriminator_loss_equals_torch(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    real, fake = torch.rand(3, 1, generator=rng), torch.rand(5, 1, generator=rng)
    expected = F.binary_cross_entropy(real, torch.ones(3, 1)) + F.binary_cross_entropy(
        fake, torch.zeros(5, 1)
    )
    torch.testing.assert_close(losses.discriminator_loss(real, fake), expected / 2)
    saturated = torch.tensor([0.0, 1.0]).requires_grad_()
    losses.discriminator_loss(saturated, saturated).backward()
    assert saturated.grad is not None
    assert saturated.grad.isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[B, F\] with B at least 1, but got"):
        losses.feature_matching(torch.zeros(0, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="must hold a score, but got"):
        losses.discriminator_loss(torch.zeros(0), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\[B, K\] with B at least 1, but got"):
        losses.cosine_consistency(torch.zeros(2, 3), torch.zeros(2, 4))
    for loss in (losses.softmax_mse, losses.soft_cross_entropy):
        with pytest.raises(ValueError, match=r"both must be \[B, C, \*S\], but got"):
            loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match="min_kept must be at least 0"):
        losses.ohem_cross_entropy(torch.zeros(1, 2, 3), torch.zeros(1, 3).long(), min_kept=-1)
