"""Pseudo-labels: which predictions on unlabeled images become targets, and with what weight."""

from __future__ import annotations

from trainable.pseudo_labels.growth import grow
from trainable.pseudo_labels.images import fuse_image_labels, select_images, vote_target
from trainable.pseudo_labels.mode import Mode, Numbers, State, alone
from trainable.pseudo_labels.modes import MODES
from trainable.pseudo_labels.rounds import round_target, select_two_sided, two_sided_thresholds
from trainable.pseudo_labels.select import (
    confidence,
    mean_probabilities,
    per_class,
    pixel_entropy,
    select_per_class,
    without_classes,
)
from trainable.pseudo_labels.target import (
    REJECTED,
    Target,
    label_accuracy_counts,
    make_target,
    selection_stats,
)
from trainable.pseudo_labels.weights import confidence_weighted, image_weighted

__all__ = [
    "MODES",
    "REJECTED",
    "Mode",
    "Numbers",
    "State",
    "Target",
    "alone",
    "confidence",
    "confidence_weighted",
    "fuse_image_labels",
    "grow",
    "image_weighted",
    "label_accuracy_counts",
    "make_target",
    "mean_probabilities",
    "per_class",
    "pixel_entropy",
    "round_target",
    "select_images",
    "select_per_class",
    "select_two_sided",
    "selection_stats",
    "two_sided_thresholds",
    "vote_target",
    "without_classes",
]
