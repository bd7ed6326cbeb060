"""Which trials go on: asynchronous successive halving as a function of the run's record.

A trial is compared at *rungs*: with every value that the rung has seen so far, its own included. Nothing is kept
here. The rungs are in the record, so a search that is cut anywhere decides on as if it had not been cut.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.messages import EVALUATED
from search.records import Decision, RunState, TrialRecord
from search.suggestion import is_baseline, share

PRUNE = "prune"
LEAVE_S = 60.0
"""Seconds that a trial has to leave by itself before Tune ends it."""


class Log(Protocol):
    """A run's record, open for writing."""

    @property
    def state(self) -> RunState:
        """The run as of the last event."""

    def append(self, event_type: str, /, **payload: Any) -> Any:
        """Records an event; it is durable when this returns."""


class Asha:
    """Asynchronous successive halving, the stopping variant.

    Rung k of ladder b lies at grace * eta^(k + b) steps, rounded up to the evaluation grid, at or below half of the
    run. There a trial stays if it is among the best ceil(n / eta) of the n values that the rung has seen so far,
    its own included; a value is the trial's best objective up to there. So the first always stays, the second
    stays if it is not worse than the first, and of many about one in eta does. Equal values stay. A value that is
    not finite is worse than any other.

    Args:
        grace: steps before the first rung; None: nothing is ever pruned.
        max_steps: length of a full trial.
        reduction_factor: eta, above 1.
        brackets: number of ladders; each starts one rung later than the one before.
        direction: `max` or `min`.
        eval_every: steps between evaluations.

    >>> Asha(100, 1000, 3, 1, "max", 50).rungs()
    (100, 300)
    >>> Asha(110, 1000, 3, 2, "max", 50).rungs(1)
    (350,)

    Source: Li et al., A System for Massively Parallel Hyperparameter Tuning (arXiv 1810.05934). Differs in that a
        trial is judged once, when it arrives, instead of waiting to be promoted: the top 1/eta, which the paper
        rounds down, is rounded up, since somebody must go on.
    """

    def __init__(
        self,
        grace: int | None,
        max_steps: int,
        reduction_factor: float,
        brackets: int,
        direction: str,
        eval_every: int,
    ) -> None:
        if not reduction_factor > 1 or brackets < 1 or max_steps < 1 or eval_every < 1:
            raise ValueError(
                "reduction_factor must be above 1 and the rest at least 1, but got "
                f"{reduction_factor=}, {brackets=}, {max_steps=}, {eval_every=}"
            )
        self.max_steps, self.eta, self._direction = max_steps, reduction_factor, direction
        every = (
            [] if grace is None else _milestones(max(grace, 1), max_steps / 2, reduction_factor, eval_every)
        )
        self._ladders = tuple(tuple(every[start:]) for start in range(brackets))

    def rungs(self, bracket: int = 0) -> tuple[int, ...]:
        """The milestones of a ladder, in steps, rising; empty where nothing is pruned."""
        return self._ladders[bracket] if bracket < len(self._ladders) else ()

    def bracket(self, seed: int, number: int) -> int:
        """The ladder of a trial, drawn from (seed, number); a ladder is e times as likely as one with a rung less."""
        weights = [math.exp(len(ladder)) for ladder in self._ladders]
        left = share(seed, number, "bracket") * math.fsum(weights)
        for bracket, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return bracket
        return len(weights) - 1

    def decide(self, state: RunState, trial: int, step: int, value: float | None) -> Decision:
        """What becomes of a trial after an evaluation; the state does not have that evaluation yet.

        Args:
            state: the run.
            trial: number of the trial.
            step: step of the evaluation.
            value: the objective; None or a value that is not finite where there is none.
        """
        record = state.trials[trial]
        known = record.at_step(step)
        said = record.verdict or (known.decision if known is not None else None)
        if said is not None:
            # Decided before: what was said holds, but it is not a second vote on a rung.
            return Decision(said.action, reason=said.reason)
        if step >= self.max_steps:
            return Decision("complete")
        reached = [(rung, at) for rung, at in enumerate(self.rungs(record.bracket)) if at <= step]
        if not reached:
            return Decision()
        rung, milestone = reached[-1]
        if record.rung is not None and record.rung >= rung:
            return Decision()
        seen = state.rungs.get((record.generation, record.bracket, milestone), {})
        best = self._best(record, value)
        cutoff = self._cutoff(list(seen.values()), best)
        prune = (
            cutoff is not None
            and (best is None or self._better(cutoff, best))
            and not is_baseline(record.source)
        )
        if prune:
            return Decision("prune", rung, milestone, cutoff, PRUNE)
        return Decision("continue", rung, milestone, cutoff)

    def _best(self, record: TrialRecord, value: float | None) -> float | None:
        """The trial's best objective, this evaluation included."""
        if value is None or not math.isfinite(value):
            return record.best_value
        return (
            value
            if record.best_value is None or self._better(value, record.best_value)
            else record.best_value
        )

    def _better(self, value: float, than: float) -> bool:
        return value < than if self._direction == "min" else value > than

    def _cutoff(self, others: list[float | None], own: float | None) -> float | None:
        """The worst value that still stays: number ceil(n / eta) of the n; None where it need not be reached."""
        if not others:
            return None
        finite = sorted((v for v in (*others, own) if v is not None), reverse=self._direction != "min")
        place = math.ceil((len(others) + 1) / self.eta - 1e-9)
        return finite[place - 1] if place <= len(finite) else None


def _milestones(grace: int, last: float, eta: float, every: int) -> list[int]:
    found: list[int] = []
    exact = float(grace)
    while (at := math.ceil(exact / every - 1e-9) * every) <= last:
        found += [at] if at not in found else []
        exact *= eta
    return found


def grace_steps(config: Mapping[str, Any], reduction_factor: float) -> int:
    """The first rung where nobody says: no trial is judged before self-training has acted.

    max(ST start + ramp + one evaluation, steps / eta), rounded up to the evaluation grid.

    Args:
        config: a full configuration by dotted name; a recipe without self-training has no `st.*`.
        reduction_factor: eta.

    >>> grace_steps({"steps": 9000, "eval_every_steps": 500, "st.start_step": 500, "st.ramp_steps": 1000}, 3)
    3000
    """
    every, steps = int(config["eval_every_steps"]), int(config["steps"])
    acts = int(config.get("st.start_step") or 0) + int(config.get("st.ramp_steps") or 0) + every
    return math.ceil(max(acts, steps / reduction_factor) / every - 1e-9) * every


class ThresherScheduler(FIFOScheduler):
    """Records every evaluation with what becomes of the trial, before anybody acts on it.

    Tune is always told to continue: a trial that is to leave learns it from its flag and returns in order. Only one
    that still evaluates a minute later is ended by Tune.

    Args:
        log: the run's record.
        asha: decides.
        request_stop: raises a trial's flag (number, reason); the flag must be up when it returns, because the
            trial asks for it as soon as it is let go on.
        clock: seconds that only rise.
    """

    def __init__(
        self,
        log: Log,
        asha: Asha,
        request_stop: Callable[[int, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._log, self._asha, self._request_stop, self._clock = log, asha, request_stop, clock
        self._told_to_leave: dict[tuple[int, int], float] = {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Records an evaluation and its decision; other messages are not its business."""
        if result.get("kind") != EVALUATED:
            return str(TrialScheduler.CONTINUE)
        number, attempt = int(result["trial"]), int(result["attempt"])
        step, objective = int(result["step"]), finite(result.get("objective"))
        decision = self._asha.decide(self._log.state, number, step, objective)
        self._log.append(
            "evaluated",
            trial=number,
            attempt=attempt,
            step=step,
            time_s=finite(result.get("time_s")),
            objective=result.get("objective"),
            record=json.loads(result["record"]),
            decision=decision.to_json(),
            health=json.loads(result.get("health") or "{}"),
            peak_memory_mb=finite(result.get("peak_memory_mb")),
        )
        if decision.ends and decision.action != "complete":
            self._request_stop(number, decision.reason or decision.action)
            since = self._told_to_leave.setdefault((number, attempt), self._clock())
            if self._clock() - since > LEAVE_S:
                return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def debug_string(self) -> str:
        """One line on the rungs."""
        return f"successive halving at {', '.join(map(str, self._asha.rungs())) or 'no'} steps"


def finite(value: Any) -> float | None:
    """A number, or None for one that is not finite or not there.

    >>> finite(float("nan")), finite(None), finite(1)
    (None, None, 1.0)
    """
    return float(value) if value is not None and math.isfinite(value) else None
