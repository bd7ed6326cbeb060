"""From what a trial said last to the event that records it: pure functions of the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from search.failure import Failure
from search.records import why_no_value
from search.trial_record import STATE_OF_ACTION, TrialRecord, TrialState

FAILING_AT_LEAST = 3


@dataclass(frozen=True)
class Ending:
    """What is to be recorded of an attempt that is over.

    Attributes:
        event: `ended` or `paused`.
        payload: its fields.
        again: whether the trial starts again in this sweep.
        cause: of a failure that is final, what makes it the same as another.
    """

    event: str
    payload: dict[str, Any]
    again: bool = False
    cause: str | None = None

    @property
    def words(self) -> str:
        """One line for people."""
        reason = self.payload.get("stop_reason") or self.payload.get("reason")
        state = self.payload.get("state") or ("to be tried again" if self.again else "PAUSED")
        return f"{state} ({reason})" if reason else str(state)


def of_outcome(
    trial: TrialRecord, attempt: int, found: Mapping[str, Any], *, asked: str | None, run_reason: str | None
) -> Ending:
    """What an attempt comes to that left by itself.

    Args:
        trial: its record.
        attempt: which start of it.
        found: its outcome, as plain JSON.
        asked: why this trial alone was told to leave.
        run_reason: why the whole run was told to.
    """
    state, reason = found["state"], found.get("stop_reason")
    if trial.verdict is not None:
        # The scheduler's decision stands in the log; how the process left changes nothing.
        state, reason = str(STATE_OF_ACTION[trial.verdict.action]), trial.verdict.reason
    elif state == "PAUSED" or (reason is not None and reason in (asked, run_reason)):
        if asked is None or reason != asked:
            step = found.get("step")
            return Ending(
                "paused", {"trial": trial.number, "attempt": attempt, "step": step, "reason": reason}
            )
        state = "STOPPED"
    return Ending("ended", _ended(trial, attempt, state, reason, found))


def of_failure(
    trial: TrialRecord,
    attempt: int,
    failure: Failure,
    log: str,
    *,
    retries: int = 2,
    asked: str | None = None,
    run_reason: str | None = None,
    peak_memory_mb: float | None = None,
    gpus: float = 0.0,
) -> Ending:
    """What an attempt comes to that ended with an exception or died.

    Args:
        trial: its record.
        attempt: which start of it.
        failure: what went wrong.
        log: the last lines of its log.
        retries: how often a trial is started again after failures.
        asked: why this trial alone was told to leave.
        run_reason: why the whole run was told to.
        peak_memory_mb: most memory that it held, where known.
        gpus: GPUs that it held.
    """
    number, earlier = trial.number, trial.failures
    paused = {"trial": number, "attempt": attempt, "step": trial.step, "reason": failure.kind}
    measured: dict[str, Any] = {
        "step": trial.step, "time_s": trial.time_s, "gpu_seconds": gpus * trial.time_s,
        "peak_memory_mb": peak_memory_mb,
    }  # fmt: skip
    if trial.verdict is not None:
        state = str(STATE_OF_ACTION[trial.verdict.action])
        return Ending("ended", _ended(trial, attempt, state, trial.verdict.reason, measured))
    if asked is not None:
        return Ending("ended", _ended(trial, attempt, "STOPPED", asked, measured))
    if failure.kind == "diverged":
        measured["error"] = _in_words(failure, log)
        return Ending("ended", _ended(trial, attempt, "DIVERGED", "non_finite", measured))
    if failure.kind == "disk_full":
        return Ending("paused", paused, again=True)
    if failure.retry and run_reason is not None:
        return Ending("paused", {**paused, "reason": run_reason})
    if failure.retry and _may_try_again(failure, earlier, retries):
        return Ending("paused", {**paused, "failure": failure.kind}, again=True)
    if failure.retry and earlier:
        failure = replace(failure, message=f"{failure.message}; given up after {attempt} attempts")
    measured["error"] = _in_words(failure, log)
    return Ending("ended", _ended(trial, attempt, "FAILED", failure.kind, measured), cause=failure.cause)


def _may_try_again(failure: Failure, earlier: Sequence[str], retries: int) -> bool:
    """Whether the sweep's own number of retries, and that of this kind of failure, allow another."""
    same_kind = sum(kind == failure.kind for kind in earlier)
    return len(earlier) < retries and (failure.retries is None or same_kind < failure.retries)


def _in_words(failure: Failure, log: str) -> str:
    said = f"{failure.message}\ncause: {failure.cause}"
    return f"{said}\nlast lines of train.log:\n{log}" if log else said


def common_cause(endings: Sequence[tuple[TrialState, str | None]], concurrent: int, total: int) -> str | None:
    """The cause that the latest trials all failed of, once there are enough of them to be no accident.

    Args:
        endings: final state and cause of the trials that ended in this sitting, in order.
        concurrent: trials at a time: one rung of a failing search.
        total: trials asked for.

    >>> common_cause([(TrialState.FAILED, "KeyError at trainable/loop.py:3 in step")] * 3, 2, 64)
    'KeyError at trainable/loop.py:3 in step'
    >>> common_cause([(TrialState.COMPLETE, None), (TrialState.FAILED, "x"), (TrialState.FAILED, "x")], 2, 64)
    """
    enough = min(max(FAILING_AT_LEAST, concurrent), max(total, 1))
    latest = endings[-enough:]
    if len(latest) < enough or any(state is not TrialState.FAILED for state, _ in latest):
        return None
    causes = {cause for _, cause in latest}
    return causes.pop() if len(causes) == 1 else None


def _ended(
    trial: TrialRecord, attempt: int, state: str, reason: str | None, found: Mapping[str, Any]
) -> dict[str, Any]:
    health = {name: value for name, value in (found.get("health") or {}).items() if value is not None}
    peaks = [peak for peak in (trial.peak_memory_mb, found.get("peak_memory_mb")) if peak is not None]
    return {
        "trial": trial.number,
        "attempt": attempt,
        "state": state,
        "stop_reason": None if state == "COMPLETE" else reason,
        "error": found.get("error") or why_no_value(trial, state),
        "step": found.get("step"),
        "time_s": found.get("time_s"),
        "gpu_seconds": found.get("gpu_seconds"),
        "peak_memory_mb": max(peaks, default=None),
        "health": {**trial.health, **health},
    }
