"""Scores from one confusion matrix and from histograms, against loops, scikit-learn, torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional.classification import multiclass_jaccard_index

from trainable import metrics

SEEDS = st.integers(0, 2**31)


def maps(
    seed: int, num_classes: int, size: int = 64, ignored: float = 0.2
) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    prediction = torch.randint(num_classes, (size,), generator=rng)
    label = torch.randint(num_classes, (size,), generator=rng)
    label = torch.where(torch.rand(size, generator=rng) < 0.4, prediction, label)
    label[torch.rand(size, generator=rng) < ignored] = 255
    return prediction, label


@given(st.lists(st.integers(0, 6), max_size=300))
def test_count_bins_counts(values: list[int]) -> None:
    counted = metrics.count_bins(torch.tensor(values, dtype=torch.int64), 7)
    assert counted.tolist() == [values.count(i) for i in range(7)]


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 6), st.sampled_from([torch.int64, torch.uint8, torch.int32]))
def test_confusion_matrix_counts_each_pixel_once(seed: int, num_classes: int, dtype: torch.dtype) -> None:
    prediction, label = maps(seed, num_classes)
    valid = torch.rand(label.shape, generator=torch.Generator().manual_seed(seed)) < 0.7
    matrix = metrics.confusion_matrix(prediction.to(dtype), label.to(dtype), num_classes, valid=valid)
    expected = np.zeros((num_classes, num_classes), dtype=int)
    for p, y, v in zip(prediction.tolist(), label.tolist(), valid.tolist(), strict=True):
        if v and y != 255:
            expected[y, p] += 1
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == expected.tolist()


def test_confusion_matrix_counts_no_label_that_no_class_has() -> None:
    matrix = metrics.confusion_matrix(torch.tensor([0, 1, 5, 0]), torch.tensor([0, 7, 1, -1]), 2)
    assert matrix.tolist() == [[1, 0], [0, 0]]
    with pytest.raises(ValueError, match="one shape, but got"):
        metrics.confusion_matrix(torch.zeros(3), torch.zeros(4), 2)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 6))
def test_scores_equal_scikit_learn_and_torchmetrics_over_present_classes(seed: int, num_classes: int) -> None:
    prediction, label = maps(seed, num_classes, size=40)
    kept = label != 255
    truth, guess = label[kept].numpy(), prediction[kept].numpy()
    if not truth.size:
        return
    names = [f"c{i}" for i in range(num_classes)]
    values = metrics.scores(metrics.confusion_matrix(prediction, label, num_classes), names)
    present = sorted(set(truth.tolist()))
    options = {"labels": present, "average": "macro", "zero_division": 0}
    assert values["val/miou"] == pytest.approx(sklearn_metrics.jaccard_score(truth, guess, **options))
    assert values["val/f1"] == pytest.approx(sklearn_metrics.f1_score(truth, guess, **options))
    assert values["val/precision"] == pytest.approx(sklearn_metrics.precision_score(truth, guess, **options))
    assert values["val/recall"] == pytest.approx(sklearn_metrics.recall_score(truth, guess, **options))
    assert values["val/accuracy"] == pytest.approx(np.mean(truth == guess))
    # torchmetrics gives absent classes 0, so that only the classes themselves compare, not its macro mean.
    theirs = multiclass_jaccard_index(prediction, label, num_classes, average="none", ignore_index=255)
    for c, name in enumerate(names):
        expected = theirs[c].item() if c in present else None
        assert values[f"val/iou/{name}"] == (None if expected is None else pytest.approx(expected, abs=1e-6))


@pytest.mark.fault(
    42,
    how="a class without a labeled pixel, predicted and not",
    saw=(
        "left out of mIoU; predicting it still costs the classes it takes from; its own IoU is missing, "
        "with the reason"
    ),
)
def test_an_absent_class_takes_no_part_in_the_mean_but_predicting_it_costs() -> None:
    names = ["a", "b", "absent"]
    clean = metrics.scores(torch.tensor([[4, 0, 0], [0, 4, 0], [0, 0, 0]]), names)
    spoiled = metrics.scores(torch.tensor([[2, 0, 2], [0, 4, 0], [0, 0, 0]]), names)
    assert clean["val/miou"] == 1.0
    assert spoiled["val/miou"] == 0.75
    assert spoiled["val/iou/absent"] is None
    assert metrics.missing_reasons(spoiled) == {"val/iou/absent": "no labeled pixel of class absent in val"}
    zeroed = metrics.scores(torch.tensor([[4, 0, 0], [0, 4, 0], [0, 0, 0]]), names, absent_rule="zero")
    assert zeroed["val/miou"] == pytest.approx(2 / 3)


def test_excluded_classes_leave_the_means_only() -> None:
    matrix = torch.tensor([[10, 0, 0], [5, 5, 0], [0, 0, 5]])
    values = metrics.scores(matrix, ["background", "b", "c"], exclude_classes=[0], prefix="train")
    assert values["train/miou"] == pytest.approx((0.5 + 1.0) / 2)
    assert values["train/iou/background"] == pytest.approx(10 / 15)


@pytest.mark.fault(
    29,
    how="a confusion matrix without a labeled pixel",
    saw="every score is missing, never 0, and `missing_reasons` says why for each",
)
def test_a_split_without_labels_has_no_value_and_says_why() -> None:
    values = metrics.scores(torch.zeros(2, 2, dtype=torch.int64), ["a", "b"], positive_class=1)
    assert set(values.values()) == {None}
    assert set(metrics.missing_reasons(values)) == set(values)


def test_a_binary_task_scores_its_positive_class() -> None:
    matrix = torch.tensor([[50, 10], [5, 20]])
    values = metrics.scores(matrix, ["ice", "particle"], positive_class=1)
    assert values["val/precision"] == pytest.approx(20 / 30)
    assert values["val/recall"] == pytest.approx(20 / 25)
    assert values["val/f1"] == pytest.approx(40 / 55)
    assert values["val/balanced_accuracy"] == metrics.auc_binary(matrix)
    only_ice = metrics.scores(torch.tensor([[5, 1], [0, 0]]), ["ice", "particle"], positive_class=1)
    assert only_ice["val/f1"] is None
    assert only_ice["val/iou/ice"] == pytest.approx(5 / 6)


def test_scores_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="must be 3 by 3, but got"):
        metrics.scores(torch.zeros(2, 2), ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"must lie in \[0, 2\)"):
        metrics.scores(torch.zeros(2, 2), ["a", "b"], exclude_classes=[2])
    with pytest.raises(ValueError, match="must be 2 by 2"):
        metrics.auc_binary(torch.zeros(3, 3))


def test_the_definition_changes_whenever_the_meaning_does() -> None:
    variants = [
        metrics.metric_definition(["a", "b"]),
        metrics.metric_definition(["b", "a"]),
        metrics.metric_definition(["a", "b"], ignore_index=0),
        metrics.metric_definition(["a", "b"], exclude_classes=[0]),
        metrics.metric_definition(["a", "b"], positive_class=1),
        metrics.metric_definition(["a", "b"], absent_rule="zero"),
    ]
    assert all(a != b for i, a in enumerate(variants) for b in variants[i + 1 :])


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.booleans())
def test_histogram_auc_equals_scikit_learn(seed: int, ties: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    label = (torch.rand(200, generator=rng) < 0.3).long()
    score = (torch.rand(200, generator=rng) + 0.3 * label).clamp(0, 1)
    if ties:
        score = (score * 8).floor() / 8
    noise = torch.rand(200, generator=rng) < 0.1
    label_with_ignore = torch.where(noise, torch.full_like(label, 255), label)
    if len(set(label[~noise].tolist())) < 2:
        return
    halves = [slice(0, 120), slice(120, 200)]
    histogram = torch.stack([metrics.score_histogram(score[h], label_with_ignore[h]) for h in halves]).sum(0)
    expected = sklearn_metrics.roc_auc_score(label[~noise].numpy(), score[~noise].numpy())
    tied = (histogram[0] * histogram[1]).sum() / (histogram[0].sum() * histogram[1].sum())
    assert metrics.histogram_auc(histogram) == pytest.approx(expected, abs=tied.item() / 2 + 1e-9)
    assert tied < (0.3 if ties else 0.01)


def test_histogram_auc_tells_saturated_scores_apart() -> None:
    label = torch.tensor([0, 1, 0, 1])
    score = torch.tensor([1 - 1e-4, 1 - 1e-5, 1e-6, 1e-5])
    assert metrics.histogram_auc(metrics.score_histogram(score, label)) == 0.75


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_auc_of_binarized_predictions_is_the_balanced_accuracy(seed: int) -> None:
    prediction, label = maps(seed, 2, ignored=0.0)
    if len(set(label.tolist())) < 2:
        return
    matrix = metrics.confusion_matrix(prediction, label, 2)
    expected = sklearn_metrics.roc_auc_score(label.numpy(), prediction.numpy())
    assert metrics.auc_binary(matrix) == pytest.approx(expected)
    assert expected == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(label.numpy(), prediction.numpy())
    )


def test_auc_needs_both_classes_and_at_least_two_bins() -> None:
    assert metrics.histogram_auc(metrics.score_histogram(torch.tensor([0.2]), torch.tensor([1]))) is None
    assert metrics.auc_binary(torch.tensor([[3, 1], [0, 0]])) is None
    with pytest.raises(ValueError, match="bins must be at least 2"):
        metrics.score_histogram(torch.tensor([0.2]), torch.tensor([1]), bins=1)
    with pytest.raises(ValueError, match="one shape"):
        metrics.score_histogram(torch.zeros(2), torch.zeros(3))


def test_scores_of_1_and_beyond_fall_into_the_outer_bins() -> None:
    counted = metrics.score_histogram(torch.tensor([1.0, 0.0, 1.1, -0.1]), torch.tensor([1, 1, 1, 0]), bins=4)
    assert counted.tolist() == [[1, 0, 0, 0], [1, 0, 0, 2]]
