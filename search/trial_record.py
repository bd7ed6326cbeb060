"""One trial as the log tells it: where it stands, its rows, and what was decided about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from search.events import Event
from trainable.errors import StoreError


class TrialState(StrEnum):
    """Where a trial stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    STOPPED = "STOPPED"
    DIVERGED = "DIVERGED"
    FAILED = "FAILED"

    @property
    def ended(self) -> bool:
        """Whether the trial has come to its end (a failed one may be started again on request)."""
        return self not in (TrialState.PENDING, TrialState.RUNNING, TrialState.PAUSED)


FINAL_STATES = tuple(str(state) for state in TrialState if state.ended)
ACTIONS = ("continue", "prune", "complete", "stop")
STATE_OF_ACTION = {
    "prune": TrialState.PRUNED,
    "complete": TrialState.COMPLETE,
    "stop": TrialState.STOPPED,
}


_DECISION_KINDS: dict[str, tuple[type, ...]] = {
    "rung": (int, type(None)),
    "milestone": (int, type(None)),
    "cutoff": (int, float, type(None)),
    "reason": (str, type(None)),
}


@dataclass(frozen=True, slots=True)
class Decision:
    """What the scheduler said to one evaluation.

    Attributes:
        action: one of `ACTIONS`.
        rung: index of the rung that this evaluation decided, from 0; None when it decided none.
        milestone: the nominal step of that rung.
        cutoff: the value that the trial had to reach there; None when there was nobody to compare with.
        reason: why the trial ends; None while it continues.
    """

    action: str = "continue"
    rung: int | None = None
    milestone: int | None = None
    cutoff: float | None = None
    reason: str | None = None

    @property
    def ends(self) -> bool:
        """Whether the trial is to leave."""
        return self.action != "continue"

    def to_json(self) -> dict[str, Any]:
        """The decision as it stands in an `evaluated` event."""
        return {
            "action": self.action,
            "rung": self.rung,
            "milestone": self.milestone,
            "cutoff": self.cutoff,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Decision:
        """Reads a decision back; the inverse of `to_json`.

        Raises:
            StoreError: it is not a decision.
        """
        wrong = cls.what_is_wrong(found)
        if wrong is not None:
            raise StoreError(f"evaluated: {wrong}")
        return cls.trusted(found)

    @classmethod
    def trusted(cls, found: Mapping[str, Any]) -> Decision:
        """As `from_json`, for what has been checked."""
        rung, milestone, cutoff = found.get("rung"), found.get("milestone"), found.get("cutoff")
        return cls(found.get("action", "continue"), rung, milestone, cutoff, found.get("reason"))

    @staticmethod
    def what_is_wrong(found: Mapping[str, Any]) -> str | None:
        """Says why a piece of JSON is no decision, or None."""
        if found.get("action", "continue") not in ACTIONS:
            return f"action must be one of {', '.join(ACTIONS)}, and got {found.get('action')!r}"
        for name, kinds in _DECISION_KINDS.items():
            if type(found.get(name)) not in kinds:
                return f"decision's {name} has the wrong type, {found[name]!r:.40}"
        return None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One row of the history: the first that was recorded for its trial and step.

    Attributes:
        attempt: which start of the trial made it, from 1.
        step: training steps done.
        time_s: training seconds so far, over all attempts.
        objective: the objective at this step; None when it was not finite or not there.
        record: every metric; None where it was not finite.
        decision: what the scheduler said.
        nonfinite: names of the metrics that were not finite, and what they were ("nan", "inf", "-inf").
        seq: place in the log.
    """

    attempt: int
    step: int
    time_s: float | None
    objective: float | None
    record: Mapping[str, float | None]
    decision: Decision
    nonfinite: Mapping[str, str]
    seq: int


@dataclass(slots=True)
class TrialRecord:
    """What is known of one trial.

    Attributes:
        evaluations: first row per step, as they were recorded.
        best_value: best finite objective so far, in the run's direction; `best_step` and `best_record` go with it.
        step: the last step that was evaluated; `steps` may be further: where the trial was paused or ended.
        verdict: the decision that ends the trial, once there is one, though `ended` may not be written yet.
        failures: kinds of the failures after which it was started again, in the order of the log.
        health: by rule, the step at which it was first broken; as of the last evaluation, or the end.
        peak_memory_mb: most memory of all attempts, as far as it is known.
        told_state: what the sampler was told ("complete", "pruned", "fail", "skip"); None when not yet told.
    """

    number: int
    source: str
    params: dict[str, Any]
    config: dict[str, Any]
    coords: dict[str, float] = field(default_factory=dict)
    state: TrialState = TrialState.PENDING
    parent: int | str | None = None
    generation: int = 0
    bracket: int = 0
    seed: int | None = None
    sampler: dict[str, Any] | None = None
    attempts: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    best_value: float | None = None
    best_step: int | None = None
    best_record: Mapping[str, float | None] | None = None
    last_record: Mapping[str, float | None] | None = None
    step: int = 0
    steps: int = 0
    rung: int | None = None
    verdict: Decision | None = None
    pause_reason: str | None = None
    failures: list[str] = field(default_factory=list)
    stop_reason: str | None = None
    error: str | dict[str, Any] | None = None
    time_s: float = 0.0
    gpu_seconds: float | None = None
    peak_memory_mb: float | None = None
    asked_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    node: str | None = None
    pid: int | None = None
    device: str | None = None
    health: dict[str, Any] = field(default_factory=dict)
    told_state: str | None = None
    told_value: float | None = None
    deleted: list[str] = field(default_factory=list)
    _rows: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def told(self) -> bool:
        """Whether the sampler was told how the trial ended."""
        return self.told_state is not None

    @property
    def ended(self) -> bool:
        """Whether the trial has come to its end."""
        return self.state.ended

    def at_step(self, step: int) -> Evaluation | None:
        """The row that stands for a step, or None."""
        index = self._rows.get(step)
        return None if index is None else self.evaluations[index]

    @classmethod
    def asked(cls, event: Event, generation: int) -> TrialRecord:
        """A trial at its beginning; `generation` holds where the event names none."""
        payload = event.payload
        return cls(
            number=payload["trial"],
            source=payload["source"],
            params=payload["params"],
            config=payload["config"],
            coords=payload.get("coords") or {},
            parent=payload.get("parent"),
            generation=payload.get("generation", generation),
            bracket=payload.get("bracket", 0),
            seed=payload.get("seed"),
            sampler=payload.get("sampler"),
            asked_at=event.time,
        )

    def start(self, event: Event) -> None:
        """Folds in a `started`."""
        if self.ended:
            # Started again on request: how it ended no longer holds, its rows do.
            self.stop_reason = self.error = self.ended_at = self.verdict = None
            self.told_state = self.told_value = None
            self.failures = []
        payload = event.payload
        self.state, self.pause_reason = TrialState.RUNNING, None
        self.attempts = max(self.attempts, payload["attempt"])
        self.started_at = self.started_at or event.time
        self.node, self.pid, self.device = payload.get("node"), payload.get("pid"), payload.get("device")

    def evaluate(self, event: Event, better: Callable[[float, float | None], bool]) -> Evaluation | None:
        """Folds in an `evaluated`; returns its row, or None when its step has one already."""
        payload = event.payload
        step = payload["step"]
        if step in self._rows:
            return None
        row = Evaluation(
            attempt=payload["attempt"],
            step=step,
            time_s=payload.get("time_s"),
            objective=payload.get("objective"),
            record=payload["record"],
            decision=Decision.trusted(payload["decision"]),
            nonfinite=payload.get("nonfinite", {}),
            seq=event.seq,
        )
        self._rows[step] = len(self.evaluations)
        self.evaluations.append(row)
        if row.time_s is not None:
            self.time_s = max(self.time_s, row.time_s)
        self._measure(payload)
        if row.objective is not None and better(row.objective, self.best_value):
            self.best_value, self.best_step, self.best_record = row.objective, step, row.record
        if step >= self.step:
            self.step, self.last_record = step, row.record
        self.steps = max(self.steps, step)
        if row.decision.rung is not None:
            self.rung = max(row.decision.rung, -1 if self.rung is None else self.rung)
        if row.decision.ends and self.verdict is None and not self.ended:
            self.verdict = row.decision
        return row

    def pause(self, event: Event) -> None:
        """Folds in a `paused`; one of an earlier attempt changes nothing."""
        attempt = event.payload.get("attempt", self.attempts)
        if not self.ended and attempt >= self.attempts:
            # One that died before its first word never said that it had started, and was an attempt all the same.
            self.attempts = attempt
            self.steps = max(self.steps, event.payload.get("step") or 0)
            self.state, self.pause_reason = TrialState.PAUSED, event.payload.get("reason")
            if event.payload.get("failure") is not None:
                self.failures.append(event.payload["failure"])

    def end(self, event: Event) -> None:
        """Folds in an `ended`; a trial ends once, so what was said first stands."""
        if self.ended:
            return
        payload = event.payload
        self.attempts = max(self.attempts, payload.get("attempt") or 0)
        self.state, self.ended_at, self.pause_reason = TrialState(payload["state"]), event.time, None
        self.stop_reason, self.error = payload.get("stop_reason"), payload.get("error")
        self.time_s = max(self.time_s, payload.get("time_s") or 0.0)
        self.steps = max(self.steps, payload.get("step") or 0)
        self.gpu_seconds = payload.get("gpu_seconds")
        self._measure(payload)

    def _measure(self, payload: Mapping[str, Any]) -> None:
        """Takes what an event knows of memory and health; what it does not know stays as it was."""
        peak = payload.get("peak_memory_mb")
        if peak is not None:
            self.peak_memory_mb = max(peak, self.peak_memory_mb or 0.0)
        self.health.update(payload.get("health") or {})
