"""The state of a run: a pure fold of its events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from search.events import Event
from search.trial_record import FINAL_STATES, Decision, Evaluation, TrialRecord, TrialState
from trainable.errors import StoreError


@dataclass(slots=True)
class RunState:
    """Everything that the log says, as of event `seq`.

    Attributes:
        run: payload of `run_opened`; empty before it.
        trials: by number, in number order.
        rungs: by (generation, bracket, milestone): of each trial, by number, its best objective so far when
            the milestone was decided; None when it had no finite one.
        generation: the current search space's number; `spaces` holds each generation's event payload.
        next_number: number of the next new trial.
        closed: payload of the last `closed`; None while the run is open.
        settings: what `resume --set` changed, later over earlier.
        space_asked: whether another space is among them, of which no generation has begun yet.
        total: number of trials asked for, as last set; None when only the configuration says it.
        history: every row that stands, with its trial's number, in the order of the log.
        seq: the last event applied; -1 before the first.
    """

    run: dict[str, Any] = field(default_factory=dict)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    rungs: dict[tuple[int, int, int], dict[int, float | None]] = field(default_factory=dict)
    generation: int = 0
    spaces: dict[int, dict[str, Any]] = field(default_factory=dict)
    incompatible: set[int] = field(default_factory=set)
    next_number: int = 0
    closed: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    space_asked: bool = False
    total: int | None = None
    resumes: int = 0
    history: list[tuple[int, Evaluation]] = field(default_factory=list, repr=False)
    epoch: int = 0
    seq: int = -1

    @property
    def direction(self) -> str:
        """`max` or `min`: which objective is better."""
        search = self.run.get("config", {}).get("search")
        return "min" if isinstance(search, dict) and search.get("direction") == "min" else "max"

    def better(self, value: float, than: float | None) -> bool:
        """Whether an objective is strictly better than another; anything is better than None."""
        return than is None or (value < than if self.direction == "min" else value > than)

    @property
    def objective(self) -> str:
        """Name of the metric that ranks; `objective` where the run does not say."""
        search = self.run.get("config", {}).get("search")
        found = search.get("objective") if isinstance(search, dict) else None
        return "objective" if found is None else str(found)

    def pending(self) -> list[TrialRecord]:
        """Trials to be continued: interrupted ones first, then those never started, in number order."""
        waiting = [trial for trial in self.trials.values() if not trial.ended and trial.verdict is None]
        return sorted(waiting, key=lambda trial: (trial.attempts == 0, trial.number))

    @property
    def finished(self) -> list[TrialRecord]:
        """Trials that have ended, in number order."""
        return [trial for trial in self.trials.values() if trial.ended]

    def ranked(self) -> list[TrialRecord]:
        """Trials with an objective, the best first; never a diverged one; of equals the first."""
        sign = 1.0 if self.direction == "min" else -1.0
        found = [t for t in self.trials.values() if t.best_value is not None and t.state is not TrialState.DIVERGED]
        return sorted(found, key=lambda trial: sign * (trial.best_value or 0.0))

    def best(self) -> TrialRecord | None:
        """The trial with the best objective so far; never a diverged one; of equals the first."""
        best: TrialRecord | None = None
        for trial in self.trials.values():
            value = trial.best_value
            if value is None or trial.state is TrialState.DIVERGED:
                continue
            if best is None or self.better(value, best.best_value):
                best = trial
        return best

    def check(self, event_type: str, payload: Mapping[str, Any]) -> None:
        """Finds out whether an event of this payload may come next, so that none that may not is ever written.

        Raises:
            StoreError: it may not: a trial that was never asked, or one asked twice; a value of the wrong kind.
        """
        wrong = _what_is_wrong(self, event_type, payload)
        if wrong is not None:
            raise StoreError(f"{event_type}: must fit the run, but {wrong}")

    def apply(self, event: Event) -> None:
        """Moves the state on by one event.

        Raises:
            StoreError: the event does not follow: a gap or a repeat in `seq`, or see `check`. The state is then
                unchanged.
        """
        if event.seq != self.seq + 1:
            raise StoreError(
                f"event {event.seq} ({event.type}): must follow event {self.seq}, but got seq={event.seq}: "
                "events are missing; restore the events folder from a copy"
            )
        self.check(event.type, event.payload)
        _APPLY[event.type](self, event)
        self.seq, self.epoch = event.seq, max(self.epoch, event.epoch)


def fold(events: Iterable[Event]) -> RunState:
    """Reads a whole log.

    >>> fold([]).trials
    {}
    """
    state = RunState()
    for event in events:
        state.apply(event)
    return state


def _what_is_wrong(state: RunState, event_type: str, payload: Mapping[str, Any]) -> str | None:
    number = payload.get("trial")
    if event_type == "run_opened":
        return "it is open already" if state.run else None
    if event_type == "asked":
        if number in state.trials:
            return f"trial {number} was asked before"
        if number is None or number < state.next_number:
            return f"trial numbers rise, and got {number} after {state.next_number - 1}"
        return None if _numbers(payload.get("coords") or {}) else "coords must be numbers"
    if number is not None and number not in state.trials:
        return f"trial {number} was never asked"
    if event_type == "evaluated":
        if not _numbers(payload["record"]):
            return "record must hold numbers"
        return Decision.what_is_wrong(payload["decision"])
    if event_type == "ended" and payload["state"] not in FINAL_STATES:
        return f"state must be one of {', '.join(FINAL_STATES)}, and got {payload['state']!r}"
    if event_type == "generation" and payload["generation"] < state.generation:
        return f"generations rise, and got {payload['generation']} after {state.generation}"
    return None


def _numbers(values: Mapping[str, Any]) -> bool:
    """Whether all values are numbers that a float can hold, or missing."""
    kinds = set(map(type, values.values()))
    return kinds <= {float, int, type(None)} and (
        int not in kinds or all(type(value) is not int or abs(value) < 2**63 for value in values.values())
    )


def _run_opened(state: RunState, event: Event) -> None:
    state.run = {**event.payload, "opened_at": event.time}
    state.generation = event.payload.get("generation", 0)
    state.spaces[state.generation] = event.payload


def _asked(state: RunState, event: Event) -> None:
    trial = TrialRecord.asked(event, state.generation)
    state.trials[trial.number] = trial
    state.next_number = trial.number + 1


def _started(state: RunState, event: Event) -> None:
    state.trials[event.payload["trial"]].start(event)


def _evaluated(state: RunState, event: Event) -> None:
    trial = state.trials[event.payload["trial"]]
    row = trial.evaluate(event, state.better)
    if row is None:
        return
    state.history.append((trial.number, row))
    if row.decision.milestone is not None:
        rung = state.rungs.setdefault((trial.generation, trial.bracket, row.decision.milestone), {})
        rung.setdefault(trial.number, trial.best_value)


def _paused(state: RunState, event: Event) -> None:
    state.trials[event.payload["trial"]].pause(event)


def _ended(state: RunState, event: Event) -> None:
    state.trials[event.payload["trial"]].end(event)


def _told(state: RunState, event: Event) -> None:
    trial = state.trials[event.payload["trial"]]
    trial.told_state, trial.told_value = event.payload["state"], event.payload.get("value")


def _deleted(state: RunState, event: Event) -> None:
    what = event.payload.get("what")
    gone = what if isinstance(what, list) else [] if what is None else [what]
    state.trials[event.payload["trial"]].deleted.extend(str(item) for item in gone)


def _resumed(state: RunState, event: Event) -> None:
    for trial in state.trials.values():
        if trial.state is TrialState.RUNNING:
            # Whoever ran it is gone.
            trial.state, trial.pause_reason = TrialState.PAUSED, "interrupted"
    state.resumes += 1
    state.closed = None
    state.settings.update(event.payload.get("set") or {})
    state.space_asked = state.space_asked or "space" in (event.payload.get("set") or {})
    if event.payload.get("total") is not None:
        state.total = event.payload["total"]


def _generation(state: RunState, event: Event) -> None:
    state.generation, state.space_asked = event.payload["generation"], False
    state.spaces[state.generation] = event.payload
    state.incompatible = {
        number for number in event.payload.get("incompatible", ()) if isinstance(number, int)
    }


def _closed(state: RunState, event: Event) -> None:
    state.closed = event.payload


_APPLY: dict[str, Callable[[RunState, Event], None]] = {
    "run_opened": _run_opened,
    "asked": _asked,
    "started": _started,
    "evaluated": _evaluated,
    "paused": _paused,
    "ended": _ended,
    "told": _told,
    "deleted": _deleted,
    "resumed": _resumed,
    "generation": _generation,
    "closed": _closed,
}
