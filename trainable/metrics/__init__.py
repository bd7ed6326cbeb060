"""Scores: counted on the device, read on the host once per evaluation."""

from __future__ import annotations

from trainable.metrics.confusion import (
    auc_binary,
    confusion_matrix,
    metric_definition,
    missing_reasons,
    scores,
)
from trainable.metrics.counting import count_bins, count_classes
from trainable.metrics.ranking import histogram_auc, score_histogram

__all__ = [
    "auc_binary",
    "confusion_matrix",
    "count_bins",
    "count_classes",
    "histogram_auc",
    "metric_definition",
    "missing_reasons",
    "score_histogram",
    "scores",
]
