"""The health rules that recipes share."""

from __future__ import annotations

from collections.abc import Sequence

from trainable import health
from trainable.config import RecipeConfig
from trainable.task import Task


def constant_floor(task: Task, exclude: Sequence[str] = ()) -> float:
    """mIoU of the best answer that is the same everywhere, `max_c f_c / K` over the K classes that count.

    Args:
        task: f_c are its class shares, of the labeled pixels. exclude: classes left out of the mean.

    >>> constant_floor(Task(("land", "road", "boat"), (30, 10, 0)))
    0.375
    """
    shares = [f for name, f in zip(task.class_names, task.class_freq, strict=True) if f > 0 and name not in exclude]
    return max(shares) / len(shares) if shares else 0.0


def shared_rules(
    cfg: RecipeConfig, task: Task, objective: str, *, start_step: int | None = None, threshold: str = ""
) -> list[health.Rule]:
    """Overfitting, a collapse and a plateau of a metric to be maximized, and self-training that selects nothing.

    Args:
        cfg: the run's knobs. task: what is segmented. objective: the metric, to be maximized.
        start_step: first step with self-training; None where a recipe has none.
        threshold: what to name where nothing is selected.
    """
    limits, made = cfg.health, []
    if limits.gap_warn:
        made.append(health.gap(limits.gap_warn))
    if limits.st_inactive_evals and start_step is not None:
        made.append(health.st_inactive(limits.st_inactive_evals, limits.action, start_step, threshold))
    if limits.collapse_evals:
        made.append(health.collapsed(objective, limits.collapse_drop, limits.collapse_evals, limits.action))
    if limits.plateau_evals and objective == "val/miou":
        floor = constant_floor(task, cfg.exclude_classes)
        made.append(health.constant_predictor(objective, floor, limits.plateau_evals, limits.action))
    return made
