"""One confusion matrix, and everything that is read from it.
 The matrix is counted on the device and added up over the whole split; `scores` reads it once, on the host.
Rows are labels, columns predictions.
 The absent-class rule: a class that no labeled pixel of the split has takes no part in a mean. Predicting it
still costs, since those pixels are missing from the classes they belong to. A value that cannot be formed is
None, and `missing_reasons` says why; it is never 0 and never NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from trainable.metrics.counting import count_bins

AbsentRule = Literal["exclude", "zero"]


def confusion_matrix(
    prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255, valid: Tensor | None = None
) -> Tensor:
    """Count pixels by (label, prediction), without a host sync.

    Args:
        prediction: int[*], the predicted class of each pixel.
        label: int[*], of the same shape. Labels outside [0, C) are not counted, whether or not they equal
            `ignore_index`: an unknown label has to be refused when the data are read.
        num_classes: C.
        ignore_index: the label of pixels that do not count.
        valid: bool[*]; False where the image was padded.

    Returns:
        int64[C, C], `matrix[i, j]` = pixels of label i predicted as j; all 0 where no pixel counts.

    Raises:
        ValueError: if the shapes differ.

    >>> confusion_matrix(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 255]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    if prediction.shape != label.shape:
        shapes = f"prediction {tuple(prediction.shape)}, label {tuple(label.shape)}"
        raise ValueError(f"confusion_matrix: prediction and label must have one shape, but got {shapes}")
    prediction, label = prediction.long(), label.long()
    counted = (label != ignore_index) & (label >= 0) & (label < num_classes)
    counted &= (prediction >= 0) & (prediction < num_classes)
    if valid is not None:
        counted &= valid
    dump = torch.full_like(label, num_classes * num_classes)
    cell = torch.where(counted, label * num_classes + prediction, dump)
    return count_bins(cell, num_classes * num_classes + 1)[:-1].view(num_classes, num_classes)


def scores(
    matrix: Tensor,
    class_names: Sequence[str],
    *,
    prefix: str = "val",
    exclude_classes: Collection[int] = (),
    positive_class: int | None = None,
    absent_rule: AbsentRule = "exclude",
) -> dict[str, float | None]:
    """Read every score of a split from its confusion matrix, on the host.

    With TP, FP, FN of class c: iou = TP / (TP + FP + FN), precision = TP / (TP + FP), recall = TP / (TP +
    FN), f1 = 2 TP / (2 TP + FP + FN). miou, f1, precision and recall are plain means over the classes that
    have labeled pixels and are not excluded; f1 is the mean of the classes' f1. A present class that is never
    predicted counts 0. In a binary task f1, precision and recall are those of the positive class alone.
    accuracy is the share of right pixels among all that count; balanced_accuracy is the mean recall over the
    present classes, which for two classes is also the area under the curve of the binarized prediction.

    Args:
        matrix: int64[C, C], rows labels, columns predictions.
        class_names: C names.
        prefix: what stands before the slash in the metrics' names.
        exclude_classes: classes left out of the means; their own iou is still reported.
        positive_class: the class that f1, precision and recall describe; None for a macro mean.
        absent_rule: "exclude" drops absent classes from the mean; "zero" counts them as 0, which reproduces
            scripts that divide by the number of classes.

    Returns:
        `<prefix>/miou`, `/f1`, `/precision`, `/recall`, `/accuracy`, `/balanced_accuracy` and `/iou/<class>`;
        None for what cannot be formed.

    Raises:
        ValueError: if the matrix is not C by C or a class number is out of range.

    >>> values = scores(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), ["land", "water", "road"])
    >>> values["val/miou"] == (3 / 4 + 2 / 3) / 2, values["val/iou/road"]
    (True, None)
    """
    _check(matrix, class_names, [*exclude_classes, *([] if positive_class is None else [positive_class])])
    table = matrix.tolist()
    num_classes = len(class_names)
    hit = [int(table[c][c]) for c in range(num_classes)]
    labeled = [int(sum(table[c])) for c in range(num_classes)]
    predicted = [int(sum(row[c] for row in table)) for c in range(num_classes)]
    kept = [c for c in range(num_classes) if c not in exclude_classes]
    present = [c for c in kept if labeled[c] > 0]
    iou = {c: hit[c] / (labeled[c] + predicted[c] - hit[c]) for c in range(num_classes) if labeled[c] > 0}
    precision = {c: hit[c] / predicted[c] if predicted[c] else 0.0 for c in iou}
    recall = {c: hit[c] / labeled[c] for c in iou}
    f1 = {c: 2 * hit[c] / (labeled[c] + predicted[c]) for c in iou}
    over = present if absent_rule == "exclude" or not present else kept
    single = over if positive_class is None else [positive_class]
    total = sum(labeled)
    values = {
        "miou": _mean(iou, over),
        "f1": _mean(f1, single),
        "precision": _mean(precision, single),
        "recall": _mean(recall, single),
        "accuracy": sum(hit) / total if total else None,
        "balanced_accuracy": _mean(recall, present),
    }
    values |= {f"iou/{name}": iou.get(c) for c, name in enumerate(class_names)}
    if positive_class is not None and positive_class not in iou:
        values |= {"f1": None, "precision": None, "recall": None}
    return {f"{prefix}/{name}": value for name, value in values.items()}


def auc_binary(matrix: Tensor) -> float | None:
    """Area under the curve of a *binarized* prediction: (recall + specificity) / 2, the balanced accuracy.

    This is what a script computes that passes 0/1 predictions where scores belong. It says nothing about the
    order of the probabilities; `histogram_auc` does.

    Args:
        matrix: int64[2, 2], rows labels, columns predictions.

    Returns:
        A value in [0, 1]; None where one of the classes has no pixel.

    Raises:
        ValueError: if the matrix is not 2 by 2.

    >>> auc_binary(torch.tensor([[3, 1], [1, 1]]))
    0.625
    """
    _check(matrix, ["negative", "positive"], [])
    (true_negative, false_positive), (false_negative, true_positive) = matrix.tolist()
    negative, positive = true_negative + false_positive, false_negative + true_positive
    if not negative or not positive:
        return None
    return float(true_positive / positive + true_negative / negative) / 2


def missing_reasons(values: dict[str, float | None]) -> dict[str, str]:
    """Say why the values that are None could not be formed.

    Args:
        values: what `scores` returned.

    Returns:
        One sentence per metric that is None; empty where all have values.

    >>> missing_reasons({"val/iou/road": None, "val/miou": 0.5})
    {'val/iou/road': 'no labeled pixel of class road in val'}
    """
    reasons = {}
    for name, value in values.items():
        if value is None:
            prefix, _, rest = name.partition("/")
            name_of = rest.removeprefix("iou/")
            what = f"of class {name_of}" if name_of != rest else "of a counted class"
            reasons[name] = f"no labeled pixel {what} in {prefix}"
    return reasons


def metric_definition(
    class_names: Sequence[str],
    *,
    ignore_index: int = 255,
    exclude_classes: Collection[int] = (),
    positive_class: int | None = None,
    absent_rule: AbsentRule = "exclude",
) -> dict[str, Any]:
    """Describe what the scores mean, to be kept with the run: two runs compare only where this is equal.

    Args:
        class_names: C names, in the order of their numbers.
        ignore_index: the label of pixels that do not count.
        exclude_classes: classes left out of the means.
        positive_class: the class that f1, precision and recall describe; None for a macro mean.
        absent_rule: see `scores`.

    Returns:
        A dictionary of plain values.

    >>> metric_definition(["land", "water"], positive_class=1)["f1_precision_recall"]
    'of class water'
    """
    absent = {
        "exclude": "classes without a labeled pixel in the split take no part in a mean",
        "zero": "classes without a labeled pixel in the split count 0 in a mean",
    }
    return {
        "version": 1,
        "classes": list(class_names),
        "ignore_index": ignore_index,
        "excluded_from_means": [class_names[c] for c in sorted(exclude_classes)],
        "miou": "plain mean of TP / (TP + FP + FN) over classes, one confusion matrix per split",
        "f1_precision_recall": (
            "plain mean over classes" if positive_class is None else f"of class {class_names[positive_class]}"
        ),
        "never_predicted": "a present class that is never predicted counts 0",
        "absent_classes": absent[absent_rule],
        "resolution": "native size of the label; padding does not count",
    }


def _mean(values: dict[int, float], classes: Sequence[int]) -> float | None:
    return sum(values.get(c, 0.0) for c in classes) / len(classes) if classes else None


def _check(matrix: Tensor, class_names: Sequence[str], classes: Collection[int]) -> None:
    num_classes = len(class_names)
    if tuple(matrix.shape) != (num_classes, num_classes):
        shape = tuple(matrix.shape)
        raise ValueError(f"scores: the matrix must be {num_classes} by {num_classes}, but got {shape=}")
    for number in classes:
        if not 0 <= number < num_classes:
            raise ValueError(f"scores: a class must lie in [0, {num_classes}), but got class={number}")
