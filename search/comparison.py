"""What several seeds of each configuration say: mean, standard deviation, and whether a difference is one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from search.records import TrialRecord

CLASS_PREFIX = "val/iou/"


@dataclass(frozen=True)
class Row:
    """One configuration over its seeds.

    Attributes:
        name: of the configuration.
        seeds: how many of its runs have a result.
        mean: of the best objective; None where there is no result.
        sd: sample standard deviation; None below two results.
        difference: mean of the first configuration minus this one's; None for the first itself.
        verdict: `better`, `worse` or `none` (a difference under 2 standard deviations), of the first against this
            one; `unknown` below two results each; empty for the first itself.
        classes: mean of each class's IoU at the best evaluation.
    """

    name: str
    seeds: int
    mean: float | None
    sd: float | None
    difference: float | None = None
    verdict: str = ""
    classes: dict[str, float] = field(default_factory=dict)


def compare(by_name: Mapping[str, Sequence[TrialRecord]], direction: str = "max") -> list[Row]:
    """One row per configuration; each is held against the first.

    Formula: difference = m_1 - m_k; it counts when |m_1 - m_k| >= 2 s with s = sqrt((s_1^2 + s_k^2) / 2), where m are
        means and s sample standard deviations over the seeds.

    Args:
        by_name: trials by configuration, the one in question first.
        direction: `max` or `min`.
    """
    rows = [_row(name, trials) for name, trials in by_name.items()]
    return [rows[0], *(_against(rows[0], row, direction) for row in rows[1:])] if rows else []


def _row(name: str, trials: Sequence[TrialRecord]) -> Row:
    values = [float(t.best_value) for t in trials if t.best_value is not None]
    mean = statistics.fmean(values) if values else None
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Row(name, len(values), mean, sd, classes=_classes(trials))


def _classes(trials: Sequence[TrialRecord]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for trial in trials:
        for name, value in (trial.best_record or {}).items():
            if name.startswith(CLASS_PREFIX) and value is not None:
                found.setdefault(name.removeprefix(CLASS_PREFIX), []).append(value)
    return {name: statistics.fmean(values) for name, values in found.items()}


def _against(first: Row, row: Row, direction: str) -> Row:
    if first.mean is None or row.mean is None:
        return Row(row.name, row.seeds, row.mean, row.sd, None, "unknown", row.classes)
    difference = first.mean - row.mean
    verdict = "unknown"
    if first.sd is not None and row.sd is not None:
        limit = 2 * math.sqrt((first.sd**2 + row.sd**2) / 2)
        better = difference > 0 if direction == "max" else difference < 0
        verdict = "none" if difference == 0 or abs(difference) < limit else "better" if better else "worse"
    return Row(row.name, row.seeds, row.mean, row.sd, difference, verdict, row.classes)
