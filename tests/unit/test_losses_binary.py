"""Losses of one logit and of probabilities, against loops, torch, smp, MONAI and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses.cldice import SoftclDiceLoss, soft_skel
from scipy import ndimage
from skimage.morphology import skeletonize
from torch import Tensor
from torch.nn import functional as F

from trainable import losses
from trainable.losses.boundary import max_pool

SEEDS = st.integers(0, 2**31)
SPACES = st.sampled_from([(5, 6), (4, 5, 6)])


def binary(seed: int, shape: tuple[int, ...] = (2, 3, 4)) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn((shape[0], 1, *shape[1:]), generator=rng)
    label = (torch.rand(shape, generator=rng) < 0.4).long()
    label[torch.rand(shape, generator=rng) < 0.3] = 255
    return logits, label, torch.rand(shape, generator=rng)


def counted(logits: Tensor, label: Tensor, weight: Tensor) -> list[tuple[float, int, float]]:
    rows = zip(logits.flatten().tolist(), label.flatten().tolist(), weight.flatten().tolist(), strict=True)
    return [(1 / (1 + math.exp(-z)), y, w) for z, y, w in rows if y != 255]


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(0.05, 0.95), st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([None, 10.0]))
def test_binary_losses_equal_a_loop(seed: int, alpha: float, gamma: float, pos_weight: float | None) -> None:
    logits, label, weight = binary(seed)
    rows = counted(logits, label, weight)
    below = max(sum(w for _, _, w in rows), 1e-12)
    entropy = [-(math.log(p) * (pos_weight or 1.0)) if y else -math.log(1 - p) for p, y, _ in rows]
    balance = [(alpha if y else 1 - alpha) * (1 - (p if y else 1 - p)) ** gamma for p, y, _ in rows]
    hit = sum(w * p * y for p, y, w in rows)
    false_positive = sum(w * p * (1 - y) for p, y, w in rows)
    false_negative = sum(w * (1 - p) * y for p, y, w in rows)
    options = {"pixel_weight": weight}
    value = losses.binary_cross_entropy(logits, label, pos_weight=pos_weight, **options)
    expected = sum(e * w for e, (_, _, w) in zip(entropy, rows, strict=True)) / below
    assert value.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    value = losses.binary_focal_loss(
        logits, label, alpha=alpha, gamma=gamma, pos_weight=pos_weight, **options
    )
    expected = sum(b * e * w for b, e, (_, _, w) in zip(balance, entropy, rows, strict=True)) / below
    assert value.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    value = losses.tversky_loss(logits, label, alpha=0.3, beta=0.7, **options)
    expected = 1 - (hit + 1) / (hit + 0.3 * false_positive + 0.7 * false_negative + 1)
    assert value.item() == pytest.approx(expected, abs=1e-5)
    value = losses.binary_dice_loss(logits, label, **options)
    expected = 1 - (2 * hit + 1) / (2 * hit + false_positive + false_negative + 1)
    assert value.item() == pytest.approx(expected, abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_binary_losses_equal_smp_where_it_computes_the_same(seed: int) -> None:
    logits, label, _ = binary(seed)
    label[0, 0, 0] = 1
    truth = label.unsqueeze(1).float()
    focal = smp.losses.FocalLoss("binary", alpha=0.25, gamma=2.0, ignore_index=255)
    ours = losses.binary_focal_loss(logits, label, alpha=0.25, gamma=2.0)
    torch.testing.assert_close(ours, focal(logits, truth), rtol=1e-4, atol=1e-6)
    # smp's Dice counts its smoothing term twice; without one both are the same.
    for theirs, mine in (
        (smp.losses.DiceLoss("binary", smooth=0.0, ignore_index=255), losses.binary_dice_loss),
        (
            smp.losses.TverskyLoss("binary", smooth=0.0, ignore_index=255, alpha=0.3, beta=0.7),
            losses.tversky_loss,
        ),
    ):
        torch.testing.assert_close(
            mine(logits, label, smooth=0.0), theirs(logits, truth), rtol=1e-4, atol=1e-5
        )


BINARY = {
    "bce": losses.binary_cross_entropy,
    "focal": losses.binary_focal_loss,
    "focal_sharp": lambda *a: losses.binary_focal_loss(*a, gamma=0.3, pos_weight=10.0),
    "dice": losses.binary_dice_loss,
    "tversky": losses.tversky_loss,
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_losses_are_zero_and_finite_at_the_ends(name: str) -> None:
    logits = torch.tensor([[[200.0, -200.0, 0.0]]]).requires_grad_()
    value = BINARY[name](logits, torch.full((1, 3), 255))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == 0.0
    assert torch.equal(gradient, torch.zeros_like(logits))
    for label in ([[1, 0, 255]], [[0, 1, 1]]):
        value = BINARY[name](logits, torch.tensor(label))
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", BINARY)
def test_binary_losses_take_logits_with_or_without_their_channel(name: str) -> None:
    logits, label, _ = binary(3)
    torch.testing.assert_close(BINARY[name](logits.squeeze(1), label), BINARY[name](logits, label))
    torch.testing.assert_close(
        BINARY[name](logits.bfloat16(), label), BINARY[name](logits.bfloat16().float(), label)
    )
    with pytest.raises(ValueError, match=r"logits must be \[B, 1, \*S\]"):
        BINARY[name](torch.zeros(1, 2, 4), torch.zeros(1, 4).long())


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_log_loss_equals_torch_and_may_run_under_autocast(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    probability = torch.rand(50, generator=rng)
    probability[:4] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    truth = (torch.rand(50, generator=rng) < 0.5).float()
    truth[:4] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    expected = F.binary_cross_entropy(probability, truth, reduction="none")
    torch.testing.assert_close(losses.log_loss(probability, truth), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(losses.log_loss(probability, truth), expected)
    leaf = probability.requires_grad_()
    losses.log_loss(leaf, truth).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def volumes(seed: int, space: tuple[int, ...], share: float = 0.4) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shape = (2, 2, *space)
    truth = (torch.rand(shape, generator=rng) < share).float()
    return torch.rand(shape, generator=rng), truth, (torch.rand(shape, generator=rng) < 0.7).float()


@settings(max_examples=20, deadline=None)
@given(SEEDS, SPACES, st.booleans())
def test_probability_losses_equal_numpy(seed: int, space: tuple[int, ...], balanced: bool) -> None:
    p, g, m = (value.double().numpy() for value in volumes(seed, space))
    over = tuple(range(2, p.ndim))
    overlap, extent = (p * g * m).sum(over), ((p + g) * m).sum(over)
    tensors = [torch.tensor(value, dtype=torch.float32) for value in (p, g, m)]
    value = losses.probability_dice_loss(tensors[0], tensors[1], mask=tensors[2])
    assert value.item() == pytest.approx(1 - np.mean((2 * overlap + 1e-5) / (extent + 1e-5)), abs=1e-5)
    entropy = -(g * np.log(p) + (1 - g) * np.log(1 - p))
    focal = (1 - np.exp(-entropy)) ** 2 * entropy
    focal *= (0.34 * 0.52 * g + 0.66 * 1.94 * (1 - g)) if balanced else 0.34
    value = losses.probability_focal_loss(
        tensors[0], tensors[1], alpha=0.34, balanced=balanced, background_weight=1.94, foreground_weight=0.52,
        mask=tensors[2],
    )  # fmt: skip
    assert value.item() == pytest.approx((focal * m).sum() / m.sum(), rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(SEEDS, SPACES, st.floats(0.0, 3.0), st.floats(0.5, 3.0), st.sampled_from([0.02, 0.3, 0.9]))
def test_boundary_weights_follow_scipys_distance(
    seed: int, space: tuple[int, ...], inner: float, band: float, share: float
) -> None:
    _, truth, _ = volumes(seed, space, share)
    outer = inner + band
    weights = losses.boundary_weight(truth, inner=inner, outer=outer)
    for n in range(2):
        for c in range(2):
            inside = truth[n, c].numpy() > 0.5
            if inside.all() or not inside.any():
                expected = np.zeros(space)
            else:
                phi = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
                expected = np.clip((outer - np.abs(phi)) / (outer - inner), 0, 1)
            np.testing.assert_allclose(weights[n, c].numpy(), expected, atol=1e-5)


def border_weight(truth: np.ndarray, known: np.ndarray) -> np.ndarray:
    """By scipy: 1 up to 3 voxels from the nearest known voxel of the other class, 0 from 5 on, and without a label."""
    weight = np.zeros(truth.shape)
    for n, c in np.ndindex(*truth.shape[:2]):
        classes = [known[n, c] & (truth[n, c] > 0.5), known[n, c] & (truth[n, c] <= 0.5)]
        for own, other in (classes, classes[::-1]):
            if other.any():
                distance = ndimage.distance_transform_edt(~other)
                weight[n, c][own] = np.clip((5 - distance[own]) / 2, 0, 1)
    return weight


def test_there_is_no_border_where_labels_end() -> None:
    truth, mask = torch.zeros(1, 1, 1, 12), torch.ones(1, 1, 1, 12)
    truth[..., :4] = 1
    mask[..., 4:8] = 0
    assert not losses.boundary_weight(truth, inner=3.0, outer=5.0, mask=mask).any()
    assert losses.boundary_loss(torch.full_like(truth, 0.5), truth, mask=mask).item() == 0
    mask[..., 5:8] = 1
    weight = losses.boundary_weight(truth, inner=3.0, outer=5.0, mask=mask)
    assert weight.flatten().tolist() == [0, 0.5, 1, 1, 0, 1, 1, 0.5, 0, 0, 0, 0]


@settings(max_examples=15, deadline=None)
@given(SEEDS, SPACES)
def test_boundary_and_connectivity_losses_equal_numpy(seed: int, space: tuple[int, ...]) -> None:
    probability, truth, mask = volumes(seed, space)
    weight = border_weight(truth.numpy(), np.broadcast_to(mask.numpy() > 0, truth.shape)).reshape(len(truth), -1)
    p, g = probability.flatten(1).double().numpy(), (truth * mask).flatten(1).double().numpy()
    entropy = -(g * np.log(p) + (1 - g) * np.log(1 - p))
    expected = np.mean((weight * entropy).sum(1) / (weight.sum(1) + 1e-5))
    assert losses.boundary_loss(probability, truth, mask=mask).item() == pytest.approx(expected, rel=1e-4)
    pooled = [
        np.stack(
            [[ndimage.maximum_filter(ch, 3, mode="constant", cval=-9) for ch in image] for image in value]
        )
        for value in ((probability * mask).numpy(), (truth * mask).numpy())
    ]
    m = mask.numpy()
    expected = (((pooled[0] - pooled[1]) ** 2) * m).sum() / m.sum()
    assert losses.connectivity_loss(probability, truth, mask=mask).item() == pytest.approx(expected, rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.sampled_from([(7, 8), (5, 6, 7)]), st.integers(0, 4))
def test_skeleton_and_cldice_equal_monai(seed: int, space: tuple[int, ...], iterations: int) -> None:
    probability, truth, _ = volumes(seed, space)
    ours = losses.soft_skeleton(probability, iterations=iterations)
    torch.testing.assert_close(ours, soft_skel(probability, iterations))
    # MONAI takes one ratio over all channels of an image: single channels compare.
    one, wanted = probability[:, :1], truth[:, :1]
    theirs = SoftclDiceLoss(iter_=iterations, smooth_nr=1e-5, smooth_dr=1e-5, smooth=1e-9)
    value = losses.cldice_loss(one, wanted, iterations=iterations)
    torch.testing.assert_close(value, theirs(one, wanted), rtol=1e-3, atol=1e-4)
    each = [
        losses.cldice_loss(
            probability[n : n + 1, c : c + 1], truth[n : n + 1, c : c + 1], iterations=iterations
        )
        for n in range(2)
        for c in range(2)
    ]
    torch.testing.assert_close(
        losses.cldice_loss(probability, truth, iterations=iterations), torch.stack(each).mean()
    )


def tube() -> Tensor:
    mask = torch.zeros(1, 1, 13, 25)
    mask[:, :, 4:9, 2:23] = 1.0
    return mask


def test_cubic_erosion_thins_at_least_as_fast() -> None:
    solid = tube()
    cross, cube = (losses.soft_skeleton(solid, iterations=3, erosion=kind) for kind in ("cross", "cube"))
    assert cube.sum() <= cross.sum()
    assert (cube * (1 - solid)).sum() == 0


def test_a_broken_center_line_costs_more_than_a_rough_edge() -> None:
    truth = tube()
    broken, rough = truth.clone(), truth.clone()
    broken[:, :, :, 11:13] = 0.0
    rough[:, :, 4, 6:16] = 0.0
    assert (truth - broken).sum() == (truth - rough).sum()
    assert losses.cldice_loss(broken, truth) > losses.cldice_loss(rough, truth)


@pytest.mark.parametrize("space", [(13, 10), (3, 9, 8), (1, 6, 2)])
def test_neighborhood_maxima_without_a_gradient_are_those_of_pooling(
    space: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = torch.rand(2, 1, *space, generator=torch.Generator().manual_seed(4))
    tracked = value.clone().requires_grad_()
    pooled = [max_pool(tracked, kernel).detach() for kernel in (3, 5, 7)]
    skeletons = [losses.soft_skeleton(tracked, erosion=kind).detach() for kind in ("cross", "cube")]
    for name in ("max_pool2d", "max_pool3d"):
        monkeypatch.delattr(F, name)  # it takes twenty times as long on the host
    assert all(torch.equal(max_pool(value, k), known) for k, known in zip((3, 5, 7), pooled, strict=True))
    for kind, known in zip(("cross", "cube"), skeletons, strict=True):
        assert torch.equal(losses.soft_skeleton(value, erosion=kind), known)


def test_skeleton_target_lies_inside_and_near_the_thinned_skeleton() -> None:
    truth = tube()
    target = losses.skeleton_target(truth, radius=1)
    assert set(target.flatten().tolist()) == {0.0, 1.0}
    assert (target * (1 - truth)).sum() == 0
    thinned = skeletonize(truth[0, 0].numpy() > 0)
    inside = thinned & (ndimage.distance_transform_edt(truth[0, 0].numpy()) >= 2)
    assert (target[0, 0].numpy()[inside] == 1).all()


def test_skeleton_recall_counts_what_is_missed() -> None:
    truth = tube()
    skeleton = losses.skeleton_target(truth)
    half = truth.clone()
    half[..., 12:] = 0.0
    assert losses.skeleton_recall_loss(truth, skeleton).item() == 0.0
    missed = (skeleton[..., 12:].sum() / skeleton.sum()).item()
    assert losses.skeleton_recall_loss(half, skeleton, smooth=0.0).item() == pytest.approx(missed)
    assert losses.skeleton_recall_loss(torch.ones_like(truth), skeleton).item() == 0.0


VOLUME = {
    "dice": losses.probability_dice_loss,
    "focal": losses.probability_focal_loss,
    "focal_plain": lambda *a, **k: losses.probability_focal_loss(*a, balanced=False, **k),
    "boundary": losses.boundary_loss,
    "connectivity": losses.connectivity_loss,
    "cldice": losses.cldice_loss,
    "skeleton_recall": losses.skeleton_recall_loss,
}


@pytest.mark.parametrize("name", VOLUME)
@pytest.mark.parametrize("space", [(6, 6), (5, 6, 6)])
def test_volume_losses_of_nothing_are_zero_and_their_gradients_finite(
    name: str, space: tuple[int, ...]
) -> None:
    loss = VOLUME[name]
    empty = torch.zeros(1, 1, *space)
    assert loss(empty, empty).item() == pytest.approx(0.0, abs=1e-6)
    probability, truth, _ = volumes(0, space)
    unlabeled = torch.zeros_like(truth)
    assert loss(probability, truth, mask=unlabeled).item() == pytest.approx(0.0, abs=1e-6)
    for value in (0.0, 0.5, 1.0):
        leaf = torch.full_like(truth, value).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, truth), leaf)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", VOLUME)
def test_unlabeled_voxels_have_no_influence(name: str) -> None:
    probability, truth, mask = volumes(4, (6, 7))
    hidden = mask == 0
    other = VOLUME[name](
        torch.where(hidden, 1 - probability, probability), torch.where(hidden, 1 - truth, truth), mask=mask
    )
    torch.testing.assert_close(other, VOLUME[name](probability, truth, mask=mask))


@pytest.mark.parametrize("name", [n for n in VOLUME if not n.startswith("focal")])
def test_a_perfect_prediction_costs_nothing(name: str) -> None:
    _, truth, _ = volumes(2, (6, 7))
    assert VOLUME[name](truth, truth).item() == pytest.approx(0.0, abs=2e-4)
    assert VOLUME[name](torch.zeros_like(truth), truth).item() > 0.1


def test_the_effective_pair_shows_what_alpha_and_class_weights_make_together() -> None:
    background, foreground = losses.focal_pair(0.34, 1.94, 0.52)
    assert (background, foreground) == pytest.approx((0.66 * 1.94, 0.34 * 0.52))
    p = torch.full((1, 1, 2), 0.5)
    on_foreground = losses.probability_focal_loss(
        p, torch.ones(1, 1, 2), alpha=0.34, background_weight=1.94, foreground_weight=0.52
    )
    on_background = losses.probability_focal_loss(
        p, torch.zeros(1, 1, 2), alpha=0.34, background_weight=1.94, foreground_weight=0.52
    )
    assert (on_background / on_foreground).item() == pytest.approx(background / foreground)


def test_volume_losses_refuse_what_does_not_fit() -> None:
    for loss in VOLUME.values():
        with pytest.raises(ValueError, match=r"\[N, C, \*S\], but got"):
            loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 5))
    with pytest.raises(ValueError, match="inner < outer"):
        losses.boundary_weight(torch.zeros(1, 1, 4, 4), inner=3.0, outer=3.0)
    with pytest.raises(ValueError, match="kernel must be odd"):
        losses.connectivity_loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), kernel=4)
    with pytest.raises(ValueError, match="of 2 or 3 axes"):
        losses.soft_skeleton(torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match="erosion must be"):
        losses.soft_skeleton(torch.zeros(1, 1, 4, 4), erosion="ball")
