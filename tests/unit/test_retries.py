"""What a log remembers of failures, health and memory, so that a resume neither forgives nor invents any."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from search import messages
from search.events import Event, check_fields, natural
from search.failure import classify, died
from search.records import RunState, repair
from search.scheduler import Asha, ThresherScheduler
from search.verdicts import Ending, of_failure, of_outcome
from tests.support.runs import opened
from trainable.state import Report

DIED = died("The actor died unexpectedly", None)


class Log:
    """A run with one trial, in memory."""

    def __init__(self) -> None:
        self.state, self._seq = RunState(), itertools.count()
        self.append("run_opened", **opened())
        self.append("asked", trial=0, source="sampled", params={}, coords={"x": 0.5}, config={})

    def append(self, kind: str, /, **payload: Any) -> None:
        plain = natural(payload)
        check_fields(kind, plain)
        self.state.apply(Event(next(self._seq), 1, "t", kind, plain))

    def evaluated(self, step: int, **more: Any) -> None:
        decision = more.pop("decision", {"action": "continue"})
        self.append("evaluated", trial=0, attempt=1, step=step, time_s=1.0, objective=0.5,
                    record={"val/miou": 0.5}, decision=decision, **more)  # fmt: skip

    def fail(self, retries: int = 2, **why: Any) -> Ending:
        """One attempt that dies."""
        attempt = self.state.trials[0].attempts + 1
        self.append("started", trial=0, attempt=attempt)
        ending = of_failure(self.state.trials[0], attempt, DIED, "", retries=retries, **why)
        self.append(ending.event, **ending.payload)
        return ending


@pytest.mark.fault(
    5,
    how="a trial whose process dies in every attempt, with a resume after each",
    saw="FAILED after 3 attempts all the same: retries are counted from the log",
    seam=True,
)
def test_a_resume_does_not_give_a_trial_its_retries_again() -> None:
    log, ends = Log(), []
    for _ in range(3):
        ends.append(log.fail())
        log.append("closed", exit_code=0, reason="stop")
        log.append("resumed")
    assert [(end.event, end.again) for end in ends] == [("paused", True), ("paused", True), ("ended", False)]
    assert "given up after 3 attempts" in ends[-1].payload["error"]


def test_what_is_no_fault_of_the_trial_counts_for_nothing() -> None:
    log = Log()
    log.fail(run_reason="sigterm")
    log.append("started", trial=0, attempt=2)
    log.append("resumed")
    log.append("started", trial=0, attempt=3)
    full = of_failure(log.state.trials[0], 3, classify(OSError(28, "full")), "", retries=0)
    log.append(full.event, **full.payload)
    assert full.again and log.state.trials[0].failures == []


def test_who_asks_for_failed_trials_again_gives_them_their_retries() -> None:
    log = Log()
    for _ in range(3):
        log.fail()
    assert log.state.trials[0].ended
    assert [log.fail().again for _ in range(3)] == [True, True, False]


def test_a_kind_of_failure_that_may_be_tried_once_is_tried_once() -> None:
    late = classify(RuntimeError("CUDA out of memory"), step=9)
    log = Log()
    for again in (True, False):
        ending = of_failure(log.state.trials[0], 1, late, "", retries=5)
        log.append(ending.event, **ending.payload)
        assert ending.again is again


@pytest.mark.parametrize("known", [True, False])
def test_an_end_that_a_crash_ate_has_the_health_and_memory_that_were_known(known: bool) -> None:
    log = Log()
    log.append("started", trial=0, attempt=1)
    log.evaluated(10, **({"health": {"gap": 10.0}, "peak_memory_mb": 900.0} if known else {}))
    log.evaluated(
        20, **({"health": {"gap": 10.0, "plateau": 20.0}, "peak_memory_mb": 700.0} if known else {}),
        decision={"action": "complete"},
    )  # fmt: skip
    ended = dict(repair(log.state))["ended"]
    assert ended["health"] == ({"gap": 10.0, "plateau": 20.0} if known else {})
    assert ended["peak_memory_mb"] == (900.0 if known else None)


@pytest.mark.parametrize("nonfinite", [{}, {"objective": "nan", "val/miou": "nan"}])
def test_an_end_that_a_crash_ate_says_why_a_trial_has_no_value(nonfinite: dict[str, str]) -> None:
    log = Log()
    log.append("started", trial=0, attempt=1)
    for step, action in ((10, "continue"), (20, "complete")):
        log.append("evaluated", trial=0, attempt=1, step=step, time_s=1.0, objective=None, nonfinite=nonfinite,
                   record={"val/miou": None}, decision={"action": action})  # fmt: skip
    trial = log.state.trials[0]
    trial.config["objective"] = "val/miou"
    left = {"state": "COMPLETE", "stop_reason": None, "step": 20, "time_s": 1.0, "gpu_seconds": 0.0}
    whole = of_outcome(trial, 1, left, asked=None, run_reason=None).payload
    assert "val/miou has no value in any of 2 evaluations: it " in whole["error"]
    assert ("not finite (nan)" in whole["error"]) == bool(nonfinite)
    assert dict(repair(log.state))["ended"] == whole
    # The process may also die after its last report.
    assert of_failure(trial, 1, DIED, "").payload == whole


def test_an_end_that_a_crash_ate_has_no_error_where_there_is_a_value() -> None:
    log = Log()
    log.append("started", trial=0, attempt=1)
    log.evaluated(20, decision={"action": "complete"})
    assert dict(repair(log.state))["ended"]["error"] is None


def test_an_end_keeps_what_earlier_attempts_measured() -> None:
    log = Log()
    log.evaluated(10, health={"gap": 10.0}, peak_memory_mb=900.0)
    dead = of_failure(log.state.trials[0], 1, DIED, "", retries=0).payload
    assert (dead["health"], dead["peak_memory_mb"]) == ({"gap": 10.0}, 900.0)
    found = {
        "state": "STOPPED",
        "stop_reason": "plateau",
        "health": {"plateau": 20.0},
        "peak_memory_mb": 700.0,
    }
    ending = of_outcome(log.state.trials[0], 2, found, asked=None, run_reason=None)
    log.append(ending.event, **ending.payload)
    trial = log.state.trials[0]
    assert (trial.health, trial.peak_memory_mb) == ({"gap": 10.0, "plateau": 20.0}, 900.0)


@pytest.mark.parametrize("peak", [None, 512.5])
def test_health_and_memory_travel_with_every_evaluation(peak: float | None) -> None:
    log = Log()
    scheduler = ThresherScheduler(log, Asha(None, 100, 3, 1, "max", 10), lambda number, reason: None)
    report = Report(10, 1.0, 0.5, {"val/miou": 0.5}, {} if peak is None else {"gap": 10.0}, peak)
    scheduler.on_trial_result(None, SimpleNamespace(), messages.evaluated(0, 1, report))
    trial = log.state.trials[0]
    assert (trial.health, trial.peak_memory_mb) == (report.health, peak)
