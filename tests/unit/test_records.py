"""The fold of a log: pure, incremental, and the same after a cut anywhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.events import Event, check_fields, decode, encode, is_whole, natural
from search.records import Decision, RunState, TrialState, fold, repair, told_payload
from search.store import RunLog, open_store
from tests.support.runs import METRICS, drive, essence, opened, unbroken
from trainable.errors import SchemaError, StoreError

_counter = iter(range(10**9))


def _memory() -> Any:
    return open_store(f"memory://records-{next(_counter)}")


class _Log:
    """Events in a list, numbered."""

    def __init__(self, **run: Any) -> None:
        self.events: list[Event] = []
        self.state = RunState()
        self.add("run_opened", **opened(**run))

    def add(self, kind: str, **payload: Any) -> None:
        plain = natural(payload)
        check_fields(kind, plain)
        event = Event(len(self.events), 1, f"t{len(self.events)}", kind, plain)
        self.state.apply(event)
        self.events.append(event)

    def ask(self, number: int, **changed: Any) -> None:
        base = {"source": "sampled", "params": {"lr": 0.1}, "coords": {"lr": 0.5}, "config": {}}
        self.add("asked", trial=number, **{**base, **changed})

    def row(self, trial: int, step: int, value: float | None, attempt: int = 1, **decision: Any) -> None:
        self.add(
            "evaluated",
            trial=trial,
            attempt=attempt,
            step=step,
            time_s=float(step),
            objective=value,
            record={"val/miou": value},
            decision={"action": "continue", **decision},
        )


# ---- lines ----

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=6), _json, max_size=4))
def test_an_event_survives_its_line(config: dict[str, Any]) -> None:
    payload = natural(opened(config=config))
    event = Event(7, 3, "2026-01-01T00:00:00.000000Z", "run_opened", payload)
    line = encode(event)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert is_whole(line[:-1])
    assert list(decode([line[:-1]])) == [event]


@given(st.data())
def test_any_flipped_bit_is_seen(data: st.DataObject) -> None:
    line = bytearray(encode(Event(1, 1, "t", "told", {"trial": 0, "state": "complete", "value": 0.5}))[:-1])
    position = data.draw(st.integers(0, len(line) * 8 - 1))
    line[position // 8] ^= 1 << (position % 8)
    assert not is_whole(bytes(line))


def test_what_is_not_finite_is_null_and_named() -> None:
    plain = natural({"objective": math.inf, "record": {"a": math.nan, "b": -math.inf, "c": 1}, "time_s": 2.0})
    assert plain["objective"] is None
    assert plain["record"] == {"a": None, "b": None, "c": 1}
    assert plain["nonfinite"] == {"objective": "inf", "a": "nan", "b": "-inf"}


def test_a_value_without_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="config.x: an event holds JSON values only"):
        natural({"config": {"x": object()}})


@pytest.mark.parametrize(
    ("kind", "payload", "message"),
    [
        ("started", {"trial": 1}, "must have attempt"),
        ("started", {"trial": "1", "attempt": 1}, "trial must be int"),
        ("started", {"trial": True, "attempt": 1}, "trial must be int"),
        (
            "ended",
            {"trial": 1, "state": "FAILED", "time_s": "long"},
            "time_s must be NoneType or float or int",
        ),
    ],
)
def test_fields_are_checked(kind: str, payload: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        check_fields(kind, payload)


@pytest.mark.fault(
    21,
    how="a run_opened of the next schema",
    saw="SchemaError names both schemas",
)
def test_a_newer_schema_is_refused_by_name() -> None:
    line = encode(Event(0, 1, "t", "run_opened", natural(opened(schema=2))))
    with pytest.raises(SchemaError, match="schema must be at most 1, but got schema=2"):
        list(decode([line[:-1]]))
    unknown = encode(Event(4, 1, "t", "teleported", {"trial": 0}))
    with pytest.raises(SchemaError, match="'teleported'.*schema 2 or later"):
        list(decode([unknown[:-1]]))


# ---- the fold ----


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 6), st.none() | st.floats(width=16), st.integers(1, 2)),
        max_size=30,
    ),
    st.sampled_from(["max", "min"]),
)
def test_rows_against_a_plain_reference(
    rows: list[tuple[int, int, float | None, int]], direction: str
) -> None:
    log = _Log(config={"search": {"direction": direction}})
    for number in range(3):
        log.ask(number)
    for trial, step, value, attempt in rows:
        log.row(trial, step * 10, value, attempt)
    for number in range(3):
        first: dict[int, float | None] = {}
        for trial, step, value, _ in rows:
            if trial == number and step * 10 not in first:
                first[step * 10] = value if value is not None and math.isfinite(value) else None
        record = log.state.trials[number]
        assert {row.step: row.objective for row in record.evaluations} == first
        finite = [value for value in first.values() if value is not None]
        best = (max if direction == "max" else min)(finite) if finite else None
        assert record.best_value == best
        if best is not None:
            assert record.best_step == next(step for step, value in first.items() if value == best)
            assert record.best_record == {"val/miou": best}
        if first:
            assert record.step == max(first)
            assert record.last_record == {"val/miou": first[max(first)]}


def test_folding_whole_and_in_pieces_is_the_same() -> None:
    store = _memory()
    state = unbroken(store)
    events = list(store.read())
    assert fold(events) == state
    piecewise = RunState()
    for event in events:
        piecewise.apply(event)
    assert piecewise == state
    assert [event.seq for event in events] == list(range(len(events)))


def test_a_gap_and_a_repeat_are_refused() -> None:
    events = _Log().events
    with pytest.raises(StoreError, match="must follow event -1, but got seq=3"):
        fold([Event(3, 1, "t", "closed", {"exit_code": 0})])
    with pytest.raises(StoreError, match="must follow event 0, but got seq=0"):
        fold([*events, *events])


@pytest.mark.parametrize(
    ("kind", "payload", "message"),
    [
        ("started", {"trial": 9, "attempt": 1}, "trial 9 was never asked"),
        ("asked", {"trial": 0, "source": "s", "params": {}, "config": {}}, "trial 0 was asked before"),
        ("ended", {"trial": 0, "state": "RUNNING"}, "state must be one of COMPLETE"),
        ("run_opened", opened(), "it is open already"),
        (
            "evaluated",
            {"trial": 0, "attempt": 1, "step": 1, "record": {"a": "x"}, "decision": {}},
            "record must hold numbers",
        ),
        (
            "evaluated",
            {"trial": 0, "attempt": 1, "step": 1, "record": {}, "decision": {"action": "jump"}},
            "action must be one of",
        ),
        (
            "evaluated",
            {"trial": 0, "attempt": 1, "step": 1, "record": {}, "decision": {"milestone": "x"}},
            "milestone has the wrong type",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(kind: str, payload: Any, message: str) -> None:
    log, same = _Log(), _Log()
    log.ask(0)
    same.ask(0)
    with pytest.raises(StoreError, match=message):
        log.state.apply(Event(2, 1, "t", kind, payload))
    assert log.state == same.state


def test_a_decided_milestone_stays_decided() -> None:
    log = _Log()
    log.ask(0)
    log.row(0, 100, 0.5, rung=0, milestone=100, cutoff=None)
    log.row(0, 100, 0.9, attempt=2, rung=0, milestone=100, cutoff=0.1)
    log.row(0, 110, 0.7, rung=0, milestone=100)
    assert log.state.rungs == {(0, 0, 100): {0: 0.5}}


def test_rungs_hold_the_best_so_far() -> None:
    log = _Log()
    log.ask(0, bracket=1, generation=0)
    log.row(0, 50, 0.8)
    log.row(0, 100, 0.3, rung=0, milestone=100)
    log.ask(1, bracket=1)
    log.row(1, 100, math.nan, rung=0, milestone=100)
    assert log.state.rungs == {(0, 1, 100): {0: 0.8, 1: None}}


def test_states() -> None:
    log = _Log()
    for number in range(4):
        log.ask(number)
    trials = log.state.trials
    assert trials[0].state == "PENDING"
    log.add("started", trial=0, attempt=1, device="cuda:0")
    log.add("started", trial=2, attempt=1)
    assert trials[0].state is TrialState.RUNNING and trials[0].attempts == 1 and trials[0].device == "cuda:0"
    log.add("resumed", host="h", pid=1, set={"search.trials": 9}, total=9)
    assert trials[0].state is TrialState.PAUSED and trials[0].pause_reason == "interrupted"
    assert log.state.total == 9 and log.state.settings == {"search.trials": 9}
    assert [trial.number for trial in log.state.pending()] == [0, 2, 1, 3]
    log.add("started", trial=0, attempt=2)
    log.add("paused", trial=0, attempt=1, step=5, reason="late")
    assert trials[0].state is TrialState.RUNNING
    log.add("ended", trial=0, state="FAILED", error="boom", time_s=3.0, health={"nan": 1})
    log.add("ended", trial=0, state="COMPLETE")
    assert trials[0].state is TrialState.FAILED and trials[0].error == "boom"
    assert [trial.number for trial in log.state.finished] == [0]
    log.add("told", trial=0, state="fail")
    log.add("started", trial=0, attempt=3)
    assert trials[0].state is TrialState.RUNNING and trials[0].error is None and not trials[0].told
    log.add("deleted", trial=0, what="checkpoints", reason="keep")
    assert trials[0].deleted == ["checkpoints"]
    log.add("closed", exit_code=0)
    assert log.state.closed == {"exit_code": 0}
    log.add("generation", generation=1, space={"x": 1}, space_hash="h", incompatible=[2])
    assert log.state.generation == 1 and log.state.incompatible == {2} and set(log.state.spaces) == {0, 1}


@pytest.mark.fault(
    28,
    how="a trial that was best and then diverged",
    saw="it is never the best trial",
)
def test_a_diverged_trial_is_never_best() -> None:
    log = _Log()
    for number, value in enumerate((0.9, 0.5, 0.5)):
        log.ask(number)
        log.row(number, 1, value)
    log.add("ended", trial=0, state="DIVERGED")
    best = log.state.best()
    assert best is not None and best.number == 1
    assert RunState().best() is None


@pytest.mark.parametrize(
    ("state", "reason", "value", "coords", "said", "told"),
    [
        ("COMPLETE", None, 0.5, True, "complete", 0.5),
        ("COMPLETE", None, None, True, "fail", None),
        ("STOPPED", "patience", 0.5, True, "complete", 0.5),
        ("STOPPED", "collapsed", 0.5, True, "pruned", 0.5),
        ("PRUNED", "rung", 0.5, True, "pruned", 0.5),
        ("DIVERGED", None, 0.5, True, "pruned", None),
        ("FAILED", None, 0.5, True, "fail", None),
        ("COMPLETE", None, 0.5, False, "skip", 0.5),
    ],
)
def test_what_the_sampler_is_told(
    state: str, reason: str | None, value: float | None, coords: bool, said: str, told: float | None
) -> None:
    log = _Log()
    log.ask(0, coords={"lr": 1.0} if coords else {})
    log.row(0, 1, value)
    log.add("ended", trial=0, state=state, stop_reason=reason)
    assert told_payload(log.state.trials[0]) == {"trial": 0, "state": said, "value": told}


def test_nothing_is_told_of_a_running_trial() -> None:
    log = _Log()
    log.ask(0)
    with pytest.raises(StoreError, match="must have ended"):
        told_payload(log.state.trials[0])


@pytest.mark.fault(
    2,
    how="a log that stops between the last evaluation and the trial's end",
    saw="the end and what the searcher is told are derived and written once; a second replay adds nothing",
)
def test_an_end_that_a_crash_ate_is_derived() -> None:
    log = _Log(config={"resources": {"gpus_per_trial": 2, "workers_per_trial": 1}})
    log.ask(0)
    log.add("started", trial=0, attempt=1, device="cuda:0")
    log.row(0, 100, 0.4, action="prune", rung=0, milestone=100, cutoff=0.5, reason="rung 0")
    assert log.state.pending() == []
    (kind, ended), (also, told) = repair(log.state)
    assert (kind, also) == ("ended", "told")
    assert (ended["state"], ended["stop_reason"], ended["step"]) == ("PRUNED", "rung 0", 100)
    assert ended["gpu_seconds"] == 200.0
    assert told == {"trial": 0, "state": "pruned", "value": 0.4}
    log.add(kind, **ended)
    assert repair(log.state) == [(also, told)]
    log.add(also, **told)
    assert repair(log.state) == []


def test_the_first_verdict_stands() -> None:
    log = _Log()
    log.ask(0)
    log.row(0, 100, 0.4, action="stop", reason="patience")
    log.row(0, 200, 0.4, action="prune", reason="rung")
    assert log.state.trials[0].verdict == Decision("stop", reason="patience")


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_search_cut_anywhere_goes_on_as_if_unbroken(data: st.DataObject) -> None:
    """Every prefix is tried over and over in the store tests; here several cuts in one search."""

    wanted = essence(unbroken(_memory()))
    events = list(_replayed())
    cut = data.draw(st.integers(1, len(events)))
    store = _memory()
    with store:
        store.acquire(heartbeat=False)
        for event in events[:cut]:
            store.append(event.type, event.payload)
    with RunLog.resume(store, heartbeat=False) as log:
        drive(log)
        assert essence(log.state) == wanted
        assert repair(log.state) == []


def _replayed() -> list[Event]:
    store = _memory()
    unbroken(store)
    return list(store.read())


def test_the_columns_of_the_small_search() -> None:
    state = unbroken(_memory())
    assert len(state.trials) == 6
    assert {str(trial.state) for trial in state.trials.values()} == {"COMPLETE", "PRUNED"}
    assert list(state.trials[0].evaluations[0].record) == METRICS
