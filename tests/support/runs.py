"""A search in small: no Ray, no training, every decision a function of the log alone."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from search.records import Decision, RunState, TrialRecord, repair
from search.store import RunLog, Store

METRICS = ["val/miou", "train/miou", "loss/total", "val/iou/road", "val/iou/tree"]
STEPS = (100, 200, 300, 400)
MILESTONES = {100: 0, 200: 1}


def opened(**changed: Any) -> dict[str, Any]:
    """Payload of a `run_opened`."""
    return {
        "schema": 1,
        "run_id": "r-1",
        "name": "small",
        "generation": 0,
        "config": {"search": {"direction": "max", "objective": "val/miou", "trials": 6}, "resources": {}},
        "versions": {"thresher": "0"},
        "git_revision": "abc",
        "data_hash": "d" * 64,
        "space_hash": "s" * 64,
        "space": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}},
        "metrics": METRICS,
        "metric_definition": {"ignore_index": 255},
        **changed,
    }


def noise(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:6], "big") / 2**48


def score(lr: float, number: int, step: int) -> float:
    """What a trial measures; one in seven gives NaN for a while."""
    if number % 7 == 5 and step < 300:
        return math.nan
    return 1.0 - abs(math.log10(lr) + 2) / 4 + 0.1 * noise(number, step)


def ask(state: RunState, number: int) -> dict[str, Any]:
    """A suggestion: near the best finished trial once there are two, else anywhere."""
    told = [trial.number for trial in state.finished if trial.told]
    best = max((state.trials[n] for n in told), key=lambda t: t.best_value or -1.0, default=None)
    where = noise("ask", number)
    log_lr = -4 + 3 * where if best is None or len(told) < 2 else best.coords["log_lr"] + 0.4 * (where - 0.5)
    return {
        "trial": number,
        "generation": state.generation,
        "source": "sampled",
        "parent": None,
        "bracket": 0,
        "params": {"lr": 10.0**log_lr},
        "coords": {"log_lr": log_lr},
        "config": {"train": {"lr": 10.0**log_lr}},
        "seed": 0,
        "sampler": {"name": "near", "seed": number, "told": told},
    }


def decide(state: RunState, trial: TrialRecord, step: int, value: float) -> Decision:
    """Prunes the worse half of a rung; the last step completes."""
    if step in MILESTONES:
        so_far = trial.best_value if math.isnan(value) else max(value, trial.best_value or -math.inf)
        others = state.rungs.get((trial.generation, trial.bracket, step), {})
        known = sorted(v for n, v in others.items() if v is not None and n != trial.number)
        cutoff = known[len(known) // 2] if len(known) >= 2 else None
        rung = MILESTONES[step]
        if cutoff is not None and (so_far is None or so_far < cutoff):
            return Decision("prune", rung, step, cutoff, "below the rung's cutoff")
        return Decision("continue", rung, step, cutoff)
    return Decision("complete", reason="budget") if step == STEPS[-1] else Decision()


def drive(log: RunLog, total: int = 6) -> None:
    """Goes on with a search until its trials are done, from wherever the log stands."""
    for kind, payload in repair(log.state):
        log.append(kind, **payload)
    while True:
        pending = log.state.pending()
        if pending:
            trial = pending[0]
        elif log.state.next_number < total:
            log.append("asked", **ask(log.state, log.state.next_number))
            trial = log.state.trials[log.state.next_number - 1]
        else:
            break
        _train(log, trial)
    if log.state.closed is None:
        log.append("closed", exit_code=0, reason=None)


def _train(log: RunLog, trial: TrialRecord) -> None:
    number = trial.number
    log.append("started", trial=number, attempt=trial.attempts + 1, node="n", pid=1, device="cpu")
    for step in STEPS:
        if step <= trial.step:
            continue
        value = score(trial.params["lr"], number, step)
        decision = decide(log.state, trial, step, value)
        record = {name: value if name == "val/miou" else noise(name, number, step) for name in METRICS}
        log.append(
            "evaluated",
            trial=number,
            attempt=trial.attempts,
            step=step,
            time_s=step / 10,
            objective=value,
            record=record,
            decision=decision.to_json(),
        )
        if decision.ends:
            break
    for kind, payload in repair(log.state):
        log.append(kind, **payload)


def essence(state: RunState) -> dict[str, Any]:
    """All that a search decided and measured, without times, attempts and places in the log."""
    return {
        "rungs": state.rungs,
        "trials": {
            trial.number: (
                str(trial.state),
                trial.params,
                trial.sampler,
                trial.stop_reason,
                trial.best_value,
                trial.best_step,
                trial.told_state,
                trial.told_value,
                trial.rung,
                [(row.step, row.objective, dict(row.record), row.decision) for row in trial.evaluations],
            )
            for trial in state.trials.values()
        },
    }


def unbroken(store: Store, total: int = 6) -> RunState:
    """A search from beginning to end."""
    with RunLog.create(store, heartbeat=False, **opened()) as log:
        drive(log, total)
        return log.state
