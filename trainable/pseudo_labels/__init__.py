"""Pseudo-labels: which predictions on unlabeled images become targets, and with what weight."""

from __future__ import annotations

from trainable.pseudo_labels.select import (
    confidence,
    mean_probabilities,
    per_class,
    pixel_entropy,
    select_per_class,
)
from trainable.pseudo_labels.target import (
    REJECTED,
    Target,
    label_accuracy_counts,
    make_target,
    selection_stats,
)

__all__ = [
    "REJECTED",
    "Target",
    "confidence",
    "label_accuracy_counts",
    "make_target",
    "mean_probabilities",
    "per_class",
    "pixel_entropy",
    "select_per_class",
    "selection_stats",
]
