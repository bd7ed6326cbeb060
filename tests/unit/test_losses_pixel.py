"""Losses on label maps, against loops over pixels, torch, smp and MONAI."""

from __future__ import annotations

import math

import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional as F

from trainable import losses

SEEDS = st.integers(0, 2**31)
Maps = tuple[Tensor, Tensor, Tensor, Tensor]


def maps(seed: int, num_classes: int = 3, shape: tuple[int, ...] = (2, 3, 4), ignored: float = 0.3) -> Maps:
    """Logits, labels with ignored pixels, pixel weights and valid pixels."""
    rng = torch.Generator().manual_seed(seed)
    batch, *space = shape
    logits = 3 * torch.randn((batch, num_classes, *space), generator=rng)
    label = torch.randint(num_classes, shape, generator=rng)
    label[torch.rand(shape, generator=rng) < ignored] = 255
    return logits, label, torch.rand(shape, generator=rng), torch.rand(shape, generator=rng) < 0.8


def pixels(logits: Tensor, label: Tensor) -> list[tuple[list[float], int]]:
    """Softmax and label of each pixel, in double precision."""
    rows = logits.double().movedim(1, -1).reshape(-1, logits.shape[1]).tolist()
    softmax = []
    for row in rows:
        top = max(row)
        powers = [math.exp(z - top) for z in row]
        softmax.append([p / sum(powers) for p in powers])
    return list(zip(softmax, label.reshape(-1).tolist(), strict=True))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from(["valid", "all"]), st.booleans(), st.sampled_from([0.0, 0.5, 2.0]))
def test_cross_entropy_and_focal_equal_a_loop(
    seed: int, normalize: str, weighted: bool, gamma: float
) -> None:
    logits, label, pixel_weight, valid = maps(seed)
    class_weight = torch.tensor([0.5, 2.0, 3.0])
    ce_above = focal_above = ce_below = focal_below = 0.0
    for (p, y), w, v in zip(
        pixels(logits, label), pixel_weight.flatten().tolist(), valid.flatten().tolist(), strict=True
    ):
        if y == 255 or not v:
            continue
        w = w if weighted else 1.0
        c = class_weight[y].item() if weighted else 1.0
        ce_above += c * w * -math.log(p[y])
        ce_below += c * w
        focal_above += w * 0.25 * (1 - p[y]) ** gamma * -math.log(p[y])
        focal_below += w
    if normalize == "all":
        ce_below = focal_below = valid.sum().item()
    options = {"pixel_weight": pixel_weight if weighted else None, "valid": valid, "normalize": normalize}
    ce = losses.cross_entropy(logits, label, class_weight=class_weight if weighted else None, **options)
    focal = losses.focal_loss(logits, label, alpha=0.25, gamma=gamma, **options)
    assert ce.item() == pytest.approx(ce_above / max(ce_below, 1e-12), rel=1e-4, abs=1e-6)
    assert focal.item() == pytest.approx(focal_above / max(focal_below, 1e-12), rel=1e-4, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.booleans())
def test_cross_entropy_equals_torch_where_a_pixel_counts(seed: int, weighted: bool) -> None:
    logits, label, _, _ = maps(seed)
    label[0, 0, 0] = 1
    weight = torch.tensor([0.5, 2.0, 3.0]) if weighted else None
    expected = F.cross_entropy(logits, label, weight=weight, ignore_index=255)
    torch.testing.assert_close(losses.cross_entropy(logits, label, class_weight=weight), expected)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([(2, 3, 4), (1, 2, 2, 3)]), st.booleans())
def test_dice_equals_a_loop(seed: int, shape: tuple[int, ...], weighted: bool) -> None:
    logits, label, pixel_weight, valid = maps(seed, shape=shape)
    total = 0.0
    for n in range(shape[0]):
        overlap, extent = [0.0] * 3, [0.0] * 3
        image = pixels(logits[n : n + 1], label[n : n + 1])
        for (p, y), w, v in zip(
            image, pixel_weight[n].flatten().tolist(), valid[n].flatten().tolist(), strict=True
        ):
            if y == 255 or not v:
                continue
            for c in range(3):
                w_now = w if weighted else 1.0
                overlap[c] += w_now * p[c] * (c == y)
                extent[c] += w_now * (p[c] + (c == y))
        total += sum((2 * overlap[c] + 1) / (extent[c] + 1) for c in range(3))
    value = losses.dice_loss(logits, label, pixel_weight=pixel_weight if weighted else None, valid=valid)
    assert value.item() == pytest.approx(1 - total / (3 * shape[0]), abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_dice_equals_monai_and_smp_where_they_compute_the_same(seed: int) -> None:
    logits, label, _, _ = maps(seed, shape=(1, 4, 5), ignored=0.0)
    value = losses.dice_loss(logits, label)
    # MONAI knows no ignored label; with smoothing on both sides of the ratio it is the same quantity.
    monai = DiceLoss(softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0)
    torch.testing.assert_close(value, monai(logits, label.unsqueeze(1)))
    # smp sums over the batch, drops classes without a label, and counts its smoothing term twice.
    if len(set(label.flatten().tolist())) == 3:
        theirs = smp.losses.DiceLoss("multiclass", smooth=0.5)
        torch.testing.assert_close(value, theirs(logits, label))


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_focal_of_two_classes_equals_smp(seed: int) -> None:
    logits, label, _, _ = maps(seed, num_classes=2)
    label[0, 0, 0] = 1
    # smp takes one logit, and its alpha stands for the positive class only: with alpha off both are the same.
    theirs = smp.losses.FocalLoss("binary", gamma=2.0, ignore_index=255)
    expected = theirs((logits[:, 1] - logits[:, 0]).unsqueeze(1), label.unsqueeze(1).float())
    torch.testing.assert_close(losses.focal_loss(logits, label, alpha=1.0), expected, rtol=1e-4, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(0, 30), st.floats(0.05, 0.95))
def test_ohem_keeps_the_hardest(seed: int, min_kept: int, threshold: float) -> None:
    logits, label, _, _ = maps(seed)
    counted = sorted(p[y] for p, y in pixels(logits, label) if y != 255)
    limit = threshold
    if min_kept:
        limit = max(limit, 1.0 if min_kept > len(counted) else counted[min_kept - 1])
    kept = [p for p in counted if p <= limit + 1e-9]
    expected = sum(-math.log(p) for p in kept) / max(len(kept), 1)
    value = losses.ohem_cross_entropy(logits, label, threshold=threshold, min_kept=min_kept)
    assert value.item() == pytest.approx(expected, rel=1e-3, abs=1e-5)


LABEL_LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "cross_entropy_all": lambda *a, **k: losses.cross_entropy(*a, normalize="all", **k),
    "dice": losses.dice_loss,
    "focal": losses.focal_loss,
    "focal_sharp": lambda *a, **k: losses.focal_loss(*a, gamma=0.3, **k),
    "ohem": losses.ohem_cross_entropy,
}


@pytest.mark.parametrize("name", LABEL_LOSSES)
def test_nothing_to_count_gives_zero_and_a_zero_gradient(name: str) -> None:
    logits = torch.randn(2, 3, 4, 4).requires_grad_()
    value = LABEL_LOSSES[name](logits, torch.full((2, 4, 4), 255))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("name", LABEL_LOSSES)
def test_gradients_stay_finite_however_sure_the_network_is(name: str) -> None:
    logits = torch.tensor([[[90.0, -90.0, 0.0], [-90.0, 90.0, 0.0]]]).requires_grad_()
    for label in ([[0, 1, 255]], [[1, 0, 1]], [[0, 0, 0]]):
        value = LABEL_LOSSES[name](logits, torch.tensor(label))
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LABEL_LOSSES)
def test_ignored_pixels_have_no_influence(name: str) -> None:
    logits, label, _, _ = maps(5)
    changed = torch.where((label == 255).unsqueeze(1), -7.0, logits)
    torch.testing.assert_close(LABEL_LOSSES[name](changed, label), LABEL_LOSSES[name](logits, label))


@pytest.mark.parametrize("name", LABEL_LOSSES)
def test_low_precision_logits_are_worked_on_in_float32(name: str) -> None:
    logits, label, _, _ = maps(6)
    value = LABEL_LOSSES[name](logits.bfloat16(), label)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, LABEL_LOSSES[name](logits.bfloat16().float(), label))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(LABEL_LOSSES[name](logits.bfloat16(), label), value)


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "focal"])
def test_a_weight_of_two_is_the_pixel_twice(name: str) -> None:
    logits, label, _, _ = maps(7, shape=(1, 1, 6), ignored=0.0)
    weight = torch.ones(1, 1, 6)
    weight[..., 0] = 2.0
    doubled = LABEL_LOSSES[name](
        torch.cat((logits, logits[..., :1]), -1), torch.cat((label, label[..., :1]), -1)
    )
    torch.testing.assert_close(LABEL_LOSSES[name](logits, label, pixel_weight=weight), doubled)


def test_numbers_may_be_tensors() -> None:
    logits, label, _, _ = maps(8)
    number, tensor = losses.focal_loss(logits, label, alpha=0.3, gamma=1.5), torch.tensor(1.5)
    torch.testing.assert_close(
        losses.focal_loss(logits, label, alpha=torch.tensor(0.3), gamma=tensor), number
    )
    number = losses.ohem_cross_entropy(logits, label, threshold=0.4, min_kept=2)
    hard = losses.ohem_cross_entropy(logits, label, threshold=torch.tensor(0.4), min_kept=2)
    torch.testing.assert_close(hard, number)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=6).filter(any))
def test_class_weights_even_out_what_they_promise(counts: list[int]) -> None:
    pixels_of, present = torch.tensor(counts), [c for c in counts if c]
    total, num_present = sum(present), len(present)
    balanced, root, effective, none = (
        losses.class_weights(pixels_of, scheme).tolist()
        for scheme in ("balanced", "sqrt", "effective", "none")
    )
    for c, n in enumerate(counts):
        if n == 0:
            assert balanced[c] == root[c] == effective[c] == none[c] == 0.0
            continue
        assert balanced[c] * n * num_present == pytest.approx(total, rel=1e-5)
        assert root[c] ** 2 == pytest.approx(balanced[c], rel=1e-5)
        assert none[c] == 1.0
    assert sum(effective) == pytest.approx(num_present, rel=1e-5)
    order = sorted(present)
    by_count = [effective[counts.index(n)] for n in order]
    assert by_count == sorted(by_count, reverse=True)


def test_effective_weights_follow_their_formula_and_the_usual_beta_is_flat_on_pixels() -> None:
    counts = torch.tensor([100, 1_000, 10_000])
    raw = [(1 - 0.999) / (1 - 0.999**n) for n in counts.tolist()]
    expected = [w * 3 / sum(raw) for w in raw]
    assert losses.class_weights(counts, "effective", beta=0.999).tolist() == pytest.approx(expected, rel=1e-5)
    flat = losses.class_weights(torch.tensor([10**6, 10**8]), "effective", beta=0.9999)
    assert flat.tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    slope = losses.class_weights(torch.tensor([10**6, 10**8]), "effective")
    assert slope[0] > 10 * slope[1]


def test_class_weights_refuse_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="one above 0, but got"):
        losses.class_weights(torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="at least 0"):
        losses.class_weights(torch.tensor([-1, 5]))
    with pytest.raises(ValueError, match="scheme must be one of"):
        losses.class_weights(torch.tensor([1, 2]), "even")
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\)"):
        losses.class_weights(torch.tensor([1, 2]), "effective", beta=1.0)
    assert losses.class_weights(torch.tensor([4, 0]), absent=1.0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", LABEL_LOSSES)
def test_maps_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"logits must be \[B, C, \*S\]"):
        LABEL_LOSSES[name](torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="normalize must be 'valid' or 'all'"):
        losses.cross_entropy(torch.zeros(1, 2, 4), torch.zeros(1, 4).long(), normalize="mean")
