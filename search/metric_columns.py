"""The metrics that a run's tables have: fixed at its start, whatever its trials report."""

from __future__ import annotations

from collections.abc import Sequence


def metric_columns(class_names: Sequence[str], own: Sequence[str] = ()) -> list[str]:
    """Every metric that a run of this many classes may have, in the order of the tables; own: the recipe's.

    >>> [name for name in metric_columns(["land", "road"]) if name.startswith("val/iou")]
    ['val/iou/land', 'val/iou/road']
    """
    val = ["val/miou", *(f"val/iou/{name}" for name in class_names), "val/f1", "val/precision", "val/recall"]
    auc = ["val/auc"] if len(class_names) == 2 else []
    pseudo = ["st/pixels_selected", "st/pixels_seen", "st/ratio", "st/images_selected", "st/pl_accuracy"]
    each = [f"{part}/{name}" for part in ("st/ratio", "threshold") for name in class_names]
    losses = [f"loss/{part}" for part in ("total", "sup", "st", "fm", "d")]
    return [*val, *auc, "train/miou", "gap", *losses, *pseudo, *each, "lr", *own]
