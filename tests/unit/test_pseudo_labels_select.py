"""Rules for pseudo-labels that keep no state, against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainable import pseudo_labels as pl

SEEDS = st.integers(0, 2**31)


def predicted(seed: int, num_classes: int = 3, shape: tuple[int, ...] = (2, 4, 5)) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn((shape[0], num_classes, *shape[1:]), generator=rng)
    return logits.softmax(1), torch.rand(shape, generator=rng) < 0.8


def check_counts(target: pl.Target, proposal: Tensor, num_classes: int) -> None:
    """The statistics are those of the label map itself."""
    kept = target.label != pl.REJECTED
    stats = {name: value.tolist() for name, value in target.stats.items()}
    assert stats["st/pixels_selected"] == kept.sum().item()
    assert stats["st/pixels_seen"] == target.valid.sum().item()
    assert stats["st/images_selected"] == sum(image.any().item() for image in kept)
    assert stats["st/images_seen"] == sum(image.any().item() for image in target.valid)
    assert stats["st/selected"] == [(target.label == c).sum().item() for c in range(num_classes)]
    assert stats["st/predicted"] == [
        ((proposal == c) & target.valid).sum().item() for c in range(num_classes)
    ]
    assert sum(stats["st/predicted"]) == stats["st/pixels_seen"]


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.lists(st.floats(0.0, 0.99), min_size=3, max_size=3), st.booleans())
def test_select_per_class_keeps_confident_pixels(seed: int, thresholds: list[float], padded: bool) -> None:
    probabilities, valid = predicted(seed)
    limits = torch.tensor(thresholds, dtype=torch.float32)
    target = pl.select_per_class(probabilities, limits, valid if padded else None)
    best = probabilities.argmax(1)
    for place in np.ndindex(*best.shape):
        c = best[place].item()
        confident = probabilities[place[0], c, place[1], place[2]] > limits[c]
        keep = bool(confident) and (not padded or valid[place].item())
        assert target.label[place].item() == (c if keep else 255)
        assert target.weight[place].item() == float(keep)
    check_counts(target, best, 3)
    assert target.stats["threshold"].tolist() == limits.tolist()


def test_a_pixel_at_its_threshold_is_rejected_and_zero_keeps_everything() -> None:
    probabilities = torch.tensor([[[0.5, 0.75], [0.5, 0.25]]])
    assert pl.select_per_class(probabilities, 0.75).label.tolist() == [[255, 255]]
    assert pl.select_per_class(probabilities, torch.tensor(0.7)).label.tolist() == [[255, 0]]
    assert (pl.select_per_class(probabilities, 0.0).label != 255).all()


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.0, 0.9), st.floats(0.0, 0.09))
def test_a_higher_threshold_keeps_a_part_of_what_a_lower_one_keeps(
    seed: int, low: float, more: float
) -> None:
    probabilities, valid = predicted(seed)
    lower, higher = (pl.select_per_class(probabilities, t, valid) for t in (low, low + more))
    assert ((higher.label == lower.label) | (higher.label == 255)).all()


def test_thresholds_of_the_wrong_number_are_refused() -> None:
    with pytest.raises(ValueError, match="one for each of 3 classes, but got"):
        pl.select_per_class(torch.rand(1, 3, 4), torch.tensor([0.5, 0.5]))


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_confidence_entropy_and_mean_of_heads(seed: int) -> None:
    probabilities, _ = predicted(seed)
    value, label = pl.confidence(probabilities.bfloat16())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, probabilities.bfloat16().float().amax(1))
    assert torch.equal(probabilities.argmax(1), pl.confidence(probabilities)[1])
    assert label.dtype == torch.int64
    p = probabilities.double().numpy()
    np.testing.assert_allclose(pl.pixel_entropy(probabilities), -(p * np.log(p)).sum(1), rtol=1e-4, atol=1e-6)
    heads = torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(seed))
    expected = torch.stack([head.softmax(1) for head in heads]).mean(0)
    torch.testing.assert_close(pl.mean_probabilities(heads), expected)
    assert pl.pixel_entropy(torch.tensor([[[1.0], [0.0]]])).item() == 0.0


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.0, 0.95))
def test_select_images_keeps_or_rejects_whole_images(seed: int, threshold: float) -> None:
    probabilities, valid = predicted(seed, shape=(4, 3, 3))
    score = torch.rand(4, 1, generator=torch.Generator().manual_seed(seed))
    target = pl.select_images(score, probabilities, threshold, valid)
    best = probabilities.argmax(1)
    for b in range(4):
        passed = score[b].item() > threshold
        expected = torch.where(valid[b], best[b], 255) if passed else torch.full_like(best[b], 255)
        assert torch.equal(target.label[b], expected)
    check_counts(target, best, 3)
    assert target.stats["st/images_seen"] == 4


def test_select_images_needs_one_score_per_image() -> None:
    with pytest.raises(ValueError, match="one number per image, but got"):
        pl.select_images(torch.rand(3), torch.rand(2, 3, 4), 0.5)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 10), st.sampled_from([0.0, 1.0, 5.0, 10.0]))
def test_votes_are_counted_with_the_sum_of_logits_as_an_elector(
    seed: int, heads: int, mean_weight: float
) -> None:
    logits = torch.randn(heads, 2, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
    target = pl.vote_target(logits, mean_weight)
    for b, y, x in np.ndindex(2, 3, 3):
        column = logits[:, b, :, y, x]
        votes = [0.0] * 4
        for head in column:
            votes[int(head.argmax())] += 1
        votes[int(column.sum(0).argmax())] += mean_weight
        assert target.label[b, y, x].item() == votes.index(max(votes))
    assert target.stats["st/pixels_selected"] == target.stats["st/pixels_seen"] == 18


def test_votes_leave_padding_out_and_need_heads() -> None:
    valid = torch.tensor([[True, False]])
    target = pl.vote_target(torch.randn(3, 1, 2, 2), valid=valid)
    assert target.label[0, 1] == 255
    with pytest.raises(ValueError, match=r"must be \[K, B, C, \*S\], but got"):
        pl.vote_target(torch.zeros(0, 1, 2, 2))


def test_an_image_classifier_rules_classes_out() -> None:
    logits = torch.tensor([[[-1.0], [-3.0], [-2.0]], [[1.0], [2.0], [3.0]]])
    presence = torch.tensor([[0.1, 0.3, 0.2], [0.0, 0.1, 0.19]])
    assert pl.fuse_image_labels(logits, presence).argmax(1).tolist() == [[2], [2]]
    zeroed = pl.fuse_image_labels(logits, presence, legacy_zero=True)
    assert zeroed[0].flatten().tolist() == [0.0, -3.0, -2.0]
    assert zeroed[1].flatten().tolist() == [0.0, 0.0, 0.0]  # the product of logits and 1{p >= t}, to the letter
    # With no class left the classifier has nothing to say, and a softmax must stay finite.
    assert pl.fuse_image_labels(logits, presence)[1].tolist() == logits[1].tolist()
    assert pl.fuse_image_labels(logits, presence).softmax(1).isfinite().all()
    with pytest.raises(ValueError, match=r"presence must be \[B, C\]"):
        pl.fuse_image_labels(logits, torch.zeros(2, 2))


def test_two_sided_thresholds_relax_by_round_as_documented() -> None:
    rounds = [pl.two_sided_thresholds(k) for k in (1, 2, 3)]
    assert rounds == [pytest.approx(pair) for pair in ((0.95, 0.05), (0.93, 0.07), (0.91, 0.09))]
    assert pl.two_sided_thresholds(100) == (0.80, 0.20)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30), st.floats(0.7, 0.99), st.floats(0.01, 0.3), st.floats(0, 0.05), st.floats(0.51, 0.95),
    st.floats(0.05, 0.49),
)  # fmt: skip
def test_two_sided_thresholds_never_cross(
    k: int, pos: float, neg: float, decay: float, floor: float, ceil: float
) -> None:
    upper, lower = pl.two_sided_thresholds(
        k, positive=pos, negative=neg, decay=decay, positive_floor=floor, negative_ceiling=ceil
    )
    assert lower < upper
    assert upper == max(floor, pos - decay * (k - 1))
    assert lower == min(ceil, neg + decay * (k - 1))


def test_two_sided_thresholds_refuse_what_would_cross() -> None:
    with pytest.raises(ValueError, match="negative must stay below positive, but got"):
        pl.two_sided_thresholds(9, decay=0.2, positive_floor=0.3, negative_ceiling=0.6)
    with pytest.raises(ValueError, match="round >= 1"):
        pl.two_sided_thresholds(0)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.booleans())
def test_round_targets_follow_the_rules_pixel_by_pixel(seed: int, keep_negatives: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    probability = torch.rand(2, 4, 4, generator=rng)
    label = (torch.rand(2, 4, 4, generator=rng) < 0.2).long()
    label[torch.rand(2, 4, 4, generator=rng) < 0.2] = 255
    target = pl.round_target(probability, label, 0.8, 0.3, keep_negatives=keep_negatives)
    for place in np.ndindex(2, 4, 4):
        p, y = probability[place].item(), label[place].item()
        expected = 255
        if p < 0.3:
            expected = 0
        if p > 0.8:
            expected = 1
        if keep_negatives and y == 0:
            expected = 0
        if y == 1:
            expected = 1
        assert target.label[place].item() == expected
    unlabeled = torch.full_like(label, 255)
    alone = pl.round_target(probability, unlabeled, 0.8, 0.3)
    assert torch.equal(alone.label, pl.select_two_sided(probability, 0.8, 0.3).label)
    with pytest.raises(ValueError, match="one shape, but got"):
        pl.round_target(probability, label[:1], 0.8, 0.3)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_accuracy_of_pseudo_labels_counts_known_pixels_only(seed: int) -> None:
    probabilities, valid = predicted(seed)
    target = pl.select_per_class(probabilities, 0.5, valid)
    truth = torch.randint(3, valid.shape, generator=torch.Generator().manual_seed(seed))
    truth[0, 0] = 255
    counts = pl.label_accuracy_counts(target, truth)
    pairs = zip(target.label.flatten().tolist(), truth.flatten().tolist(), strict=True)
    known = [(a, b) for a, b in pairs if a != 255 and b != 255]
    assert counts["st/pl_known"] == len(known)
    assert counts["st/pl_right"] == sum(a == b for a, b in known)


def test_a_target_takes_no_gradient_and_its_thresholds_are_a_copy() -> None:
    probabilities = torch.rand(1, 3, 4).requires_grad_()
    limits = torch.tensor([0.1, 0.2, 0.3])
    target = pl.select_per_class(probabilities, limits)
    limits.fill_(0.9)
    assert not target.weight.requires_grad
    assert target.stats["threshold"].tolist() == pytest.approx([0.1, 0.2, 0.3])
