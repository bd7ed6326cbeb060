"""What a run knows: a pure fold of its events.

Every decision of a search is a function of a `RunState`, and a `RunState` is a function of the log. So a run that
is cut anywhere and read again goes on as if it had not been cut.
"""

from __future__ import annotations

from typing import Any

from search.events import EVENT_TYPES, SCHEMA, Event
from search.run_state import RunState, fold
from search.trial_record import (
    ACTIONS,
    FINAL_STATES,
    STATE_OF_ACTION,
    Decision,
    Evaluation,
    TrialRecord,
    TrialState,
)
from trainable.errors import StoreError

__all__ = [
    "ACTIONS",
    "EVENT_TYPES",
    "FINAL_STATES",
    "SCHEMA",
    "Decision",
    "Evaluation",
    "Event",
    "RunState",
    "TrialRecord",
    "TrialState",
    "fold",
    "repair",
    "told_payload",
    "why_no_value",
]


def told_payload(
    trial: TrialRecord, state: str | None = None, stop_reason: str | None = None
) -> dict[str, Any]:
    """What the sampler is to be told of an ended trial: the payload of its `told` event.

    "complete": it ran its budget, or its own patience ended it. "pruned": pruned, ended by a health rule or by
    hand, or diverged (then without a value). "fail": it failed, or nothing finite was ever measured. "skip": the
    sampler cannot represent it, because it has no coordinates in the space.

    Args:
        trial: the trial.
        state: the final state, where the trial's own does not yet say it.
        stop_reason: the reason that goes with `state`.

    Raises:
        StoreError: the trial has not ended.
    """
    end = trial.state if state is None else TrialState(state)
    reason = trial.stop_reason if state is None else stop_reason
    if not end.ended:
        raise StoreError(f"trial {trial.number}: must have ended to be told, but got state={end}")
    by_patience = end is TrialState.STOPPED and reason == "patience"
    if not trial.coords:
        said = "skip"
    elif end is TrialState.FAILED:
        said = "fail"
    elif end is TrialState.DIVERGED or not (end is TrialState.COMPLETE or by_patience):
        said = "pruned"
    else:
        said = "complete" if trial.best_value is not None else "fail"
    value = None if said == "fail" or end is TrialState.DIVERGED else trial.best_value
    return {"trial": trial.number, "state": said, "value": value}


def why_no_value(trial: TrialRecord, state: str) -> str | None:
    """Why a trial that ran to its end has no result.

    Args:
        trial: the trial. state: how it ended.

    Returns:
        The metric and the reason; None where there is a result, and where nobody would look for one.
    """
    if state != TrialState.COMPLETE or trial.best_value is not None or not trial.evaluations:
        return None
    last = trial.evaluations[-1]
    metric = trial.config.get("objective") or "the objective"
    spoiled = {name: kind for name, kind in last.nonfinite.items() if name != "objective"}
    cause = f"it was not finite ({spoiled[metric]})" if metric in spoiled else (
        "it could not be formed, because no pixel or no class of the validation images counts for it; see `data check`"
    )  # fmt: skip
    return f"{metric} has no value in any of {len(trial.evaluations)} evaluations: {cause}"


def repair(state: RunState) -> list[tuple[str, dict[str, Any]]]:
    """The events that a crash ate, as (type, payload) to be appended in this order; the state is not changed.

    A trial whose evaluation was decided to end it, but whose `ended` is missing, gets that; one that has ended
    but was not told gets its `told`. Appending them and calling again gives [].

    >>> repair(RunState())
    []
    """
    missing: list[tuple[str, dict[str, Any]]] = []
    for trial in state.trials.values():
        if not trial.ended and trial.verdict is not None:
            ended = _eaten_end(state, trial, trial.verdict)
            missing.append(("ended", ended))
            missing.append(("told", told_payload(trial, ended["state"], ended["stop_reason"])))
        elif trial.ended and not trial.told:
            missing.append(("told", told_payload(trial)))
    return missing


def _eaten_end(state: RunState, trial: TrialRecord, verdict: Decision) -> dict[str, Any]:
    resources = state.run.get("config", {}).get("resources")
    resources = resources if isinstance(resources, dict) else {}
    gpus = 0.0
    if trial.device is not None and not trial.device.startswith("cpu"):
        each, workers = resources.get("gpus_per_trial"), resources.get("workers_per_trial")
        gpus = (each if isinstance(each, int | float) else 1) * (workers if isinstance(workers, int) else 1)
    return {
        "trial": trial.number,
        "attempt": trial.attempts,
        "state": str(STATE_OF_ACTION[verdict.action]),
        "stop_reason": verdict.reason,
        "error": why_no_value(trial, STATE_OF_ACTION[verdict.action]),
        "step": trial.step,
        "time_s": trial.time_s,
        "gpu_seconds": gpus * trial.time_s,
        # Both as of the last evaluation: what came after it went with the process.
        "peak_memory_mb": trial.peak_memory_mb,
        "health": dict(trial.health),
    }
