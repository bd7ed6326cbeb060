"""Successive halving as a function of the record, and what Tune sees of it."""

from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.records import Decision
from search.scheduler import LEAVE_S, Asha, ThresherScheduler, grace_steps
from tests.support.analytic import MemoryLog

VALUES = st.one_of(st.none(), st.just(math.nan), st.integers(0, 6).map(float), st.floats(-1, 1))


def log_of(
    trials: int,
    direction: str = "max",
    sources: dict[int, str] | None = None,
    brackets: dict[int, int] | None = None,
) -> MemoryLog:
    """A run whose trials are asked and started."""
    log = MemoryLog()
    config = {"search": {"direction": direction}}
    log.append("run_opened", schema=1, run_id="r", name="n", config=config, metrics=[])
    for number in range(trials):
        log.append(
            "asked", trial=number, source=(sources or {}).get(number, "sampled"), params={}, config={},
            bracket=(brackets or {}).get(number, 0),
        )  # fmt: skip
        log.append("started", trial=number, attempt=1)
    return log


def evaluate(log: MemoryLog, asha: Asha, number: int, step: int, value: float | None) -> Decision:
    """Decides, and records the evaluation with that."""
    decision = asha.decide(log.state, number, step, value)
    log.append(
        "evaluated", trial=number, attempt=1, step=step, time_s=1.0, objective=value, record={},
        decision=decision.to_json(),
    )  # fmt: skip
    return decision


@given(
    st.integers(1, 2000),
    st.integers(1, 3000),
    st.sampled_from([2, 3, 4, 2.5]),
    st.integers(1, 200),
    st.integers(1, 4),
)
def test_rungs_lie_on_the_grid_and_in_the_first_half(
    grace: int, steps: int, eta: float, every: int, brackets: int
) -> None:
    asha = Asha(grace, steps, eta, brackets, "max", every)
    first = asha.rungs(0)
    assert list(first) == sorted(set(first))
    assert all(at % every == 0 and grace <= at <= steps / 2 for at in first)
    wanted = []
    for k in range(40):
        at = math.ceil(grace * eta**k / every - 1e-9) * every
        if at <= steps / 2 and at not in wanted:
            wanted.append(at)
    assert list(first) == wanted
    for bracket in range(brackets):
        assert asha.rungs(bracket) == first[bracket:]


def test_without_a_grace_nothing_is_pruned() -> None:
    log, asha = log_of(3), Asha(None, 100, 3, 1, "max", 10)
    assert [evaluate(log, asha, n, 50, v).action for n, v in enumerate((3.0, 2.0, 1.0))] == ["continue"] * 3
    assert evaluate(log, asha, 0, 100, 3.0) == Decision("complete")
    assert log.state.rungs == {}


def stays(values: list[float | None], eta: float, direction: str) -> bool:
    """Slow reference: whether the last of the values that a rung has seen is among the best ceil(n / eta)."""

    def usable(value: float | None) -> bool:
        return value is not None and math.isfinite(value)

    own = values[-1]
    if len(values) == 1:
        return True
    ahead = 0
    for other in values[:-1]:
        if usable(other) and (not usable(own) or (other < own if direction == "min" else other > own)):  # type: ignore[operator]
            ahead += 1
    place = 0
    while place * eta < len(values):
        place += 1
    return ahead < place


@given(
    st.lists(VALUES, min_size=1, max_size=14),
    st.sampled_from([2, 3, 4, 2.5]),
    st.sampled_from(["max", "min"]),
)
def test_the_best_share_stays(values: list[float | None], eta: float, direction: str) -> None:
    log, asha = log_of(len(values), direction), Asha(10, 100, eta, 1, direction, 10)
    for number, value in enumerate(values):
        decision = evaluate(log, asha, number, 10, value)
        assert (decision.rung, decision.milestone) == (0, 10)
        assert (decision.action == "continue") == stays(values[: number + 1], eta, direction)
        assert decision.reason == (None if decision.action == "continue" else "prune")


def test_small_rungs_in_full() -> None:
    log, asha = log_of(7), Asha(10, 100, 3, 1, "max", 10)
    said = [evaluate(log, asha, n, 10, v) for n, v in enumerate((0.5, 0.4, 0.6, 0.55, 0.55, 0.5, math.nan))]
    assert [d.action for d in said] == [
        "continue",
        "prune",
        "continue",
        "continue",
        "continue",
        "prune",
        "prune",
    ]
    assert [d.cutoff for d in said] == [None, 0.5, 0.6, 0.55, 0.55, 0.55, 0.55]


def test_a_trial_is_judged_by_its_best_so_far() -> None:
    log, asha = log_of(2), Asha(20, 100, 2, 1, "max", 10)
    evaluate(log, asha, 0, 10, 0.3)
    evaluate(log, asha, 0, 20, 0.4)
    evaluate(log, asha, 1, 10, 0.5)
    assert evaluate(log, asha, 1, 20, 0.1).action == "continue"
    assert log.state.rungs == {(0, 0, 20): {0: 0.4, 1: 0.5}}


def test_a_baseline_is_never_pruned_but_counts() -> None:
    log = log_of(4, sources={1: "default", 2: "preset:V3.1"})
    asha = Asha(10, 100, 3, 1, "max", 10)
    said = [evaluate(log, asha, n, 10, v) for n, v in enumerate((0.5, 0.1, 0.9, 0.8))]
    assert [d.action for d in said] == ["continue", "continue", "continue", "continue"]
    assert said[1].cutoff == 0.5
    assert log.state.rungs[0, 0, 10] == {0: 0.5, 1: 0.1, 2: 0.9, 3: 0.8}


def test_a_milestone_is_decided_once() -> None:
    log, asha = log_of(3), Asha(20, 200, 2, 1, "max", 10)
    evaluate(log, asha, 0, 20, 0.5)
    for step in (30, 35, 38):
        assert evaluate(log, asha, 0, step, 0.9) == Decision()
    # Evaluated again after a restart: recorded, not decided again, and no second vote.
    assert evaluate(log, asha, 0, 20, 0.1) == Decision()
    assert log.state.rungs == {(0, 0, 20): {0: 0.5}}
    assert evaluate(log, asha, 0, 40, 0.2).milestone == 40


def test_a_rung_that_was_passed_unseen_is_not_filled_later() -> None:
    log, asha = log_of(2), Asha(10, 200, 3, 1, "max", 10)
    assert asha.rungs() == (10, 30, 90)
    assert evaluate(log, asha, 0, 40, 0.5).milestone == 30
    assert evaluate(log, asha, 0, 50, 0.5) == Decision()
    assert set(log.state.rungs) == {(0, 0, 30)}


def test_what_was_decided_holds_until_the_trial_has_left() -> None:
    log, asha = log_of(2), Asha(10, 100, 3, 1, "max", 10)
    evaluate(log, asha, 0, 10, 0.9)
    assert evaluate(log, asha, 1, 10, 0.1).action == "prune"
    assert evaluate(log, asha, 1, 10, 0.1) == Decision("prune", reason="prune")
    assert evaluate(log, asha, 1, 20, 0.99) == Decision("prune", reason="prune")
    assert log.state.rungs == {(0, 0, 10): {0: 0.9, 1: 0.1}}


def test_ladders_do_not_mix_nor_do_generations() -> None:
    log, asha = log_of(2, brackets={1: 1}), Asha(10, 100, 3, 2, "max", 10)
    evaluate(log, asha, 0, 30, 0.9)
    assert evaluate(log, asha, 1, 30, 0.1) == Decision("continue", 0, 30, None)
    log.append("generation", generation=1)
    log.append("asked", trial=2, source="sampled", params={}, config={}, generation=1)
    assert evaluate(log, asha, 2, 30, 0.1).action == "continue"
    assert set(log.state.rungs) == {(0, 0, 30), (0, 1, 30), (1, 0, 30)}


def test_brackets_depend_on_seed_and_number_alone() -> None:
    asha = Asha(10, 1000, 3, 3, "max", 10)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    drawn = [asha.bracket(0, number) for number in range(3000)]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[union-attr]
    assert drawn == [asha.bracket(0, number) for number in range(3000)]
    assert drawn != [asha.bracket(1, number) for number in range(3000)]
    weights = [math.exp(len(asha.rungs(b))) for b in range(3)]
    for bracket, weight in enumerate(weights):
        assert drawn.count(bracket) / 3000 == pytest.approx(weight / sum(weights), abs=0.03)
    assert {Asha(10, 1000, 3, 1, "max", 10).bracket(0, n) for n in range(50)} == {0}


@pytest.mark.parametrize(
    ("config", "eta", "grace"),
    [
        ({"steps": 75_000, "eval_every_steps": 500, "st.start_step": 500, "st.ramp_steps": 0}, 3, 25_000),
        ({"steps": 1000, "eval_every_steps": 100, "st.start_step": 300, "st.ramp_steps": 200}, 3, 600),
        ({"steps": 1000, "eval_every_steps": 300}, 3, 600),
        ({"steps": 1000, "eval_every_steps": 50}, 2.5, 400),
    ],
)
def test_the_first_rung_waits_for_self_training(config: dict[str, int], eta: float, grace: int) -> None:
    assert grace_steps(config, eta) == grace


@pytest.mark.parametrize(
    "wrong", [{"reduction_factor": 1}, {"brackets": 0}, {"eval_every": 0}, {"max_steps": 0}]
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be above 1"):
        Asha(
            **{
                "grace": 1,
                "max_steps": 10,
                "reduction_factor": 3,
                "brackets": 1,
                "direction": "max",
                "eval_every": 1,
                **wrong,
            }
        )


def message(number: int, step: int, value: float, **changed: Any) -> dict[str, Any]:
    return {
        "kind": "evaluated", "trial": number, "attempt": 1, "step": step, "time_s": 1.0, "objective": value,
        "record": json.dumps({"val/miou": None if math.isnan(value) else value}), **changed,
    }  # fmt: skip


def tell(scheduler: ThresherScheduler, found: dict[str, Any]) -> str:
    return scheduler.on_trial_result(None, SimpleNamespace(config=found), found)  # type: ignore[arg-type]


def test_an_evaluation_is_recorded_before_its_flag_is_raised() -> None:
    log, seen = log_of(2), []
    asha = Asha(10, 100, 3, 1, "max", 10)
    scheduler = ThresherScheduler(
        log, asha, lambda n, why: seen.append((n, why, log.state.trials[n].verdict))
    )
    assert tell(scheduler, message(0, 10, 0.9)) == "CONTINUE"
    assert tell(scheduler, message(1, 10, math.nan)) == "CONTINUE"
    assert seen == [(1, "prune", Decision("prune", 0, 10, 0.9, "prune"))]
    row = log.state.trials[1].evaluations[0]
    assert (row.objective, dict(row.record)) == (None, {"val/miou": None})
    assert tell(scheduler, message(0, 100, 0.9)) == "CONTINUE"
    assert log.state.trials[0].verdict == Decision("complete")
    assert len(seen) == 1


def test_what_cannot_be_recorded_has_no_consequence() -> None:
    log, seen = log_of(2), []
    scheduler = ThresherScheduler(log, Asha(10, 100, 3, 1, "max", 10), lambda n, why: seen.append(n))
    tell(scheduler, message(0, 10, 0.9))

    def full(event_type: str, /, **payload: Any) -> Any:
        raise OSError("no space")

    log.append = full  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no space"):
        tell(scheduler, message(1, 10, 0.1))
    assert seen == []
    assert log.state.trials[1].evaluations == []


def test_other_messages_pass() -> None:
    log = log_of(1)
    scheduler = ThresherScheduler(log, Asha(10, 100, 3, 1, "max", 10), lambda n, why: None)
    for other in ({"kind": "started", "trial": 0}, {"done": True}, {"kind": "outcome", "step": 100}):
        assert tell(scheduler, other) == "CONTINUE"
    assert log.state.trials[0].evaluations == []


def test_a_trial_that_does_not_leave_is_ended_after_a_minute() -> None:
    log, now = log_of(2), [0.0]
    scheduler = ThresherScheduler(log, Asha(10, 100, 3, 1, "max", 10), lambda n, why: None, lambda: now[0])
    tell(scheduler, message(0, 10, 0.9))
    assert tell(scheduler, message(1, 10, 0.1)) == "CONTINUE"
    now[0] = LEAVE_S
    assert tell(scheduler, message(1, 20, 0.1)) == "CONTINUE"
    now[0] = LEAVE_S + 1
    assert tell(scheduler, message(1, 30, 0.1)) == "STOP"
    assert tell(scheduler, message(0, 30, 0.9)) == "CONTINUE"
