"""What a training run says of itself while it runs and when it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

EndState = Literal["COMPLETE", "STOPPED", "PAUSED", "DIVERGED"]


@dataclass(frozen=True)
class Report:
    """One evaluation, as it is handed to whoever runs the training.

    Attributes:
        step: training steps done.
        time_s: training seconds so far, over all attempts.
        objective: what is searched for; None where it has no value.
        record: every metric by name; None where it has no value.
    """

    step: int
    time_s: float
    objective: float | None
    record: Mapping[str, float | None]


@dataclass(frozen=True)
class Outcome:
    """How a training run left.

    Attributes:
        state: COMPLETE ran its budget, STOPPED by its own rules or on request, PAUSED to be continued,
            DIVERGED not finite.
        stop_reason: why it left before its budget; None where it did not.
        step: training steps done.
        time_s: training seconds, over all attempts.
        best_value: best objective so far.
        best_step: where that was.
        peak_memory_mb: most memory held at a time: the device's, on the CPU the process's.
        device: what it ran on.
        health: value of each health rule at the end.
        error: what went wrong; None where nothing did.
    """

    state: EndState
    stop_reason: str | None
    step: int
    time_s: float
    best_value: float | None
    best_step: int | None
    peak_memory_mb: float | None
    device: str
    health: Mapping[str, float | None] = field(default_factory=dict)
    error: str | None = None
