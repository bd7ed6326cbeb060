"""The metrics that a run's tables have: fixed at its start, whatever its trials report."""

from __future__ import annotations

from collections.abc import Sequence

_OF_THE_DATA = ("val/loss_constant",)
"""Stands beside `val/loss`, and is the same whatever the model is."""


def metric_columns(class_names: Sequence[str], own: Sequence[str] = ()) -> list[str]:
    """Every metric that a run of this many classes may have, in the order of the tables; own: the recipe's.

    >>> [name for name in metric_columns(["land", "road"]) if name.startswith("val/iou")]
    ['val/iou/land', 'val/iou/road']
    """
    means = [f"val/{name}" for name in ("f1", "precision", "recall", "accuracy", "balanced_accuracy")]
    val = ["val/miou", *(f"val/iou/{name}" for name in class_names), *means]
    auc = ["val/auc"] if len(class_names) == 2 else []
    counts = [f"st/{what}_{how}" for what in ("pixels", "images") for how in ("selected", "seen")]
    pseudo = [*counts, "st/ratio", "st/pl_accuracy"]
    each = [f"{part}/{name}" for part in ("st/ratio", "threshold") for name in class_names]
    losses = [f"loss/{part}" for part in ("total", "sup", "st", "fm", "d")]
    return [*val, *auc, "train/miou", "gap", *losses, *pseudo, *each, "lr", *own]


def objectives(class_names: Sequence[str], own: Sequence[str] = (), recipes: str = "val/miou") -> list[str]:
    """The metrics that a search may go by: what every evaluation measures of the model on the validation images.

    How the training goes (`loss/*`, `lr`, `st/*`, thresholds) and how well labeled images are remembered
    (`train/miou`, `gap`) say nothing of the model: a trial that learns nothing, or not for long, would win.

    Args:
        class_names: of the data. own: the recipe's metrics. recipes: the recipe's own objective.

    >>> objectives(["land"], ["val/voi", "lr/d", "loss/d"])[-2:]
    ['val/balanced_accuracy', 'val/voi']
    """
    known = [name for name in metric_columns(class_names, own) if name.startswith("val/")]
    return list(dict.fromkeys([*(name for name in known if name not in _OF_THE_DATA), recipes]))
