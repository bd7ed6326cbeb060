"""What a run reports, what it ends with, and everything that a resume needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    # Whoever reads a report needs no torch, whose import takes seconds.
    from torch import Tensor

OutcomeState = Literal["COMPLETE", "STOPPED", "PAUSED", "DIVERGED"]


@dataclass(frozen=True)
class Report:
    """One evaluation.

    Attributes:
        step: optimizer steps done.
        time_s: training seconds so far, over all attempts.
        objective: the run's objective here; None where it has no value.
        record: every metric by name; None where it has no value.
        health: by rule, the step at which it was first broken, so far.
        peak_memory_mb: most memory of this attempt so far, see `Outcome`; None where it is not known.
    """

    step: int
    time_s: float
    objective: float | None
    record: dict[str, float | None]
    health: dict[str, float] = field(default_factory=dict)
    peak_memory_mb: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: COMPLETE (ran its steps), STOPPED (patience or a health rule), PAUSED (asked to stop), DIVERGED.
        stop_reason: `patience`, the health rule, or what the caller asked.
        step: optimizer steps done. time_s: training seconds over all attempts.
        best_value: best objective; None where there is none. best_step: its step.
        peak_memory_mb: device memory; on the CPU resident memory; None where it is not known.
        device: its name.
        health: by rule, the step at which it was first broken.
        error: for DIVERGED: step, learning rate and parts of the loss.
    """

    state: OutcomeState
    stop_reason: str | None
    step: int
    time_s: float
    best_value: float | None = None
    best_step: int | None = None
    peak_memory_mb: float | None = None
    device: str = "cpu"
    health: dict[str, float] = field(default_factory=dict)
    error: str | None = None


class Reporter(Protocol):
    """Takes an evaluation; returns when it is recorded."""

    def __call__(self, report: Report) -> None: ...


class StopQuestion(Protocol):
    """Returns why the run should stop, or None; cheap enough for every step."""

    def __call__(self) -> str | None: ...


def ignore_report(report: Report) -> None:
    """A reporter that keeps nothing."""


def never_stop() -> str | None:
    """A run that nobody stops."""
    return None


@dataclass
class LoopState:
    """Everything about a run that its networks, optimizers and files do not hold themselves.

    Attributes:
        step: optimizer steps done.
        phase: number of the current phase. begun: whether its targets are written.
        evaluated_step: the step of the last evaluation; -1 before the first.
        best_value: best objective. best_step: its step.
        evals_since_best: evaluations without a better value, which is what patience counts.
        time_s: training seconds over all attempts.
        health: what each rule remembers. broken: by rule, the step at which it was first broken.
        recipe: what the recipe remembers on the host.
        targets: file of the current phase's targets, relative to the run's folder.
        meters: sums since the last evaluation.
        last_report: the report of `evaluated_step`.
    """

    step: int = 0
    phase: int = 0
    begun: bool = False
    evaluated_step: int = -1
    best_value: float | None = None
    best_step: int | None = None
    evals_since_best: int = 0
    time_s: float = 0.0
    health: dict[str, dict[str, float]] = field(default_factory=dict)
    broken: dict[str, float] = field(default_factory=dict)
    recipe: dict[str, float] = field(default_factory=dict)
    targets: str | None = None
    meters: dict[str, Any] = field(default_factory=dict)
    last_report: dict[str, Any] | None = None


@dataclass
class Snapshot:
    """A run at one step, ready to be written.

    Attributes:
        fingerprint: what must be equal for the snapshot to fit: recipe, network, classes, seed.
        loop: the loop's own state.
        nets: state of every network, averages included.
        optimizers: state of every optimizer.
        device_state: the recipe's tensors, thresholds among them.
    """

    fingerprint: dict[str, Any]
    loop: dict[str, Any]
    nets: dict[str, dict[str, Tensor]]
    optimizers: dict[str, dict[str, Any]]
    device_state: dict[str, Tensor]


@dataclass(frozen=True)
class Progress:
    """Where a run is, for people.

    Attributes:
        step: optimizer steps done. steps: of the whole run. phase: its name.
        signals: means and sums since the last evaluation, by metric name.
        record: the last evaluation; empty before the first.
        message: a warning or a note; empty where there is none.
    """

    step: int
    steps: int
    phase: str
    signals: dict[str, float | None] = field(default_factory=dict)
    record: dict[str, float | None] = field(default_factory=dict)
    message: str = ""


class Observer(Protocol):
    """Sees a run's progress between steps, about once a second."""

    def __call__(self, progress: Progress) -> None: ...
