"""Which metric says what the best model of a run is, and whether more or less of it is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Direction = Literal["max", "min"]

_LOWER_IS_BETTER = ("gap", "val/loss", "val/loss_constant", "val/voi", "val/voi_split", "val/voi_merge")


def direction_of(metric: str) -> Direction:
    """Whether a metric is to be maximized or minimized, by its name.

    >>> direction_of("val/miou"), direction_of("val/loss"), direction_of("loss/total")
    ('max', 'min', 'min')
    """
    return "min" if metric in _LOWER_IS_BETTER or metric.startswith("loss/") else "max"


@dataclass(frozen=True)
class Objective:
    """What best model, patience, pruning and ranking of a run go by.

    Attributes:
        metric: its name. direction: `max` or `min`.

    >>> Objective("val/loss", "min").better(0.2, 0.3)
    True
    """

    metric: str
    direction: Direction = "max"

    def better(self, value: float | None, than: float | None) -> bool:
        """Whether a value is strictly better than another; a missing one never is, and any is better than it.

        One that is not finite counts as missing.

        >>> Objective("val/loss", "min").better(math.nan, None)
        False
        """
        if value is None or not math.isfinite(value):
            return False
        if than is None or not math.isfinite(than):
            return True
        return value < than if self.direction == "min" else value > than
