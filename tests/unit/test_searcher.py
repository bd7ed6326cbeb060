"""What is tried next is a function of the record: cut anywhere, in another process, kept or made anew."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from search.asker import LEAST_TOLD, _Study, replay
from search.events import encode
from search.known import Known, known_trials, seen
from search.records import RunState, fold
from search.searcher import ThresherSearcher
from search.suggestion import baselines
from tests.support import analytic
from tests.support.analytic import MemoryLog, Search, asker_of, base_config, configured, essence, space_of
from trainable.config import flatten
from trainable.recipes import RECIPES
from trainable.recipes.per_class import PerClassConfig

ROOT = Path(__file__).parents[2]
TOTAL = 12
NUM_BASELINES = 3


@pytest.fixture(scope="module")
def alone() -> MemoryLog:
    """A search with one trial at a time, never interrupted."""
    log = MemoryLog()
    Search(log, total=TOTAL).run()
    return log


@pytest.fixture(scope="module")
def three() -> MemoryLog:
    """A search with three trials at a time."""
    log = MemoryLog()
    Search(log, concurrency=3, total=TOTAL + 4).run()
    return log


def test_the_search_holds_something_of_everything(alone: MemoryLog, three: MemoryLog) -> None:
    trials = [t for log in (alone, three) for t in log.state.trials.values()]
    assert {"COMPLETE", "PRUNED"} <= {str(t.state) for t in trials}
    assert {"complete", "pruned", "skip"} <= {t.told_state for t in trials}
    assert {"startup", "tpe", "baseline"} <= {(t.sampler or {})["name"] for t in trials}
    assert any(t.attempts > 1 for t in trials)
    assert [t.source for t in list(alone.state.trials.values())[:3]] == [
        "default",
        "preset:V3.0",
        "preset:V3.1",
    ]


@pytest.mark.fault(
    2,
    how=(
        "the log of a search is cut after every event and in the middle of every line, and the search "
        "goes on"
    ),
    saw="every suggestion, decision and `told` equals the unbroken search; each trial is told once",
)
def test_one_at_a_time_cut_after_every_event_and_in_every_line(alone: MemoryLog) -> None:
    wanted, lines = essence(alone.state), [encode(event) for event in alone.events]
    # One asker for all: what it keeps from one log must not show in the next.
    draw, asker = random.Random(0), asker_of()
    for kept in range(1, len(lines)):
        torn = lines[kept][: draw.randrange(len(lines[kept]))]
        log = MemoryLog.from_bytes(b"".join(lines[:kept]) + torn)
        assert len(log.events) == kept
        Search(log, total=TOTAL, asker=asker).run()
        assert essence(log.state) == wanted, f"cut after event {kept - 1}, {alone.events[kept - 1].type}"


@pytest.mark.parametrize("kept", range(4, 150, 9))
def test_three_at_a_time_cut_anywhere(three: MemoryLog, kept: int) -> None:
    lines = [encode(event) for event in three.events]
    log = MemoryLog.from_bytes(b"".join(lines[:kept]))
    Search(log, concurrency=3, total=TOTAL + 4).run()
    asker = asker_of()
    assert replay(log.events, lambda state: asker) == []
    check_decisions(log)
    before, after = three.state.trials, log.state.trials
    assert list(after) == list(before) == list(range(TOTAL + 4))
    for number in range(NUM_BASELINES + 4):
        assert after[number].params == before[number].params
    assert all(trial.ended and trial.told for trial in after.values())
    for trial in after.values():
        steps = [row.step for row in trial.evaluations]
        assert steps == list(range(analytic.EVERY, trial.step + 1, analytic.EVERY))


def check_decisions(log: MemoryLog) -> None:
    """Every decision of a log follows from the log before it."""
    state, asha = RunState(), analytic.asha_of()
    for event in log.events:
        if event.type == "evaluated":
            said = asha.decide(
                state, event.payload["trial"], event.payload["step"], event.payload["objective"]
            )
            assert said.to_json() == event.payload["decision"]
        state.apply(event)


def test_every_suggestion_can_be_computed_again(alone: MemoryLog, three: MemoryLog) -> None:
    for log in (alone, three):
        # A new asker each time: nothing that was kept from ask to ask has changed anything.
        assert replay(log.events, lambda state: asker_of()) == []
        check_decisions(log)


def test_replay_finds_a_suggestion_that_does_not_follow(alone: MemoryLog) -> None:
    at = next(i for i, e in enumerate(alone.events) if e.type == "asked" and e.payload["trial"] == 9)
    event = alone.events[at]
    other = {**event.payload, "params": {**event.payload["params"], "st.weight": 1.0}}
    asker = asker_of()
    wrong = replay([*alone.events[:at], replace(event, payload=other)], lambda state: asker)
    assert len(wrong) == 1
    assert wrong[0].startswith("trial 9: params must be")


REPLAY = """
import json, pathlib, sys
from search.events import decode
from search.records import fold
from search.asker import Asker
from search.suggestion import Baseline
from spaces import SearchSpace
given = json.loads(pathlib.Path(sys.argv[1]).read_text())
state = fold(decode(line.encode() for line in given["lines"]))
space = SearchSpace.from_json(state.run["space"])
baselines = [Baseline(*one) for one in given["baselines"]]
asker = Asker(space, seed=given["seed"], base=given["base"], baselines=baselines, startup=4)
print(json.dumps(asker.ask(state, given["number"]).payload()))
"""


def test_another_process_suggests_the_same_from_the_log_alone(three: MemoryLog, tmp_path: Path) -> None:
    at = [i for i, e in enumerate(three.events) if e.type == "asked"][-1]
    given = {
        "lines": [encode(event).decode().rstrip() for event in three.events[:at]],
        "number": three.events[at].payload["trial"],
        "seed": analytic.SEED,
        "base": base_config(),
        "baselines": [[b.source, b.config] for b in analytic.baselines_of()],
    }
    (tmp_path / "given.json").write_text(json.dumps(given))
    run = [sys.executable, "-c", REPLAY, str(tmp_path / "given.json")]
    env = {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True, env=env)
    found = json.loads(done.stdout)
    assert found["sampler"]["name"] == "tpe"
    assert found == {key: three.events[at].payload[key] for key in found}


def test_asking_twice_gives_the_same_and_touches_no_global_generator(three: MemoryLog) -> None:
    asker, number = asker_of(), TOTAL + 4
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    first = asker.ask(three.state, number)
    assert first.sampler["name"] == "tpe"
    assert asker.ask(three.state, number) == first == asker_of().ask(three.state, number)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[union-attr]
    assert asker_of(seed=8).ask(three.state, number).coords != first.coords
    assert asker.ask(three.state, number + 1).coords != first.coords


def test_later_trials_do_not_change_a_suggestion(three: MemoryLog) -> None:
    cut = next(i for i, e in enumerate(three.events) if e.type == "asked" and e.payload["trial"] == 10)
    asker = asker_of()
    then = asker.ask(fold(three.events[:cut]), 10)
    assert then.payload()["coords"] == three.state.trials[10].coords


def test_the_sampler_learns_in_either_direction(alone: MemoryLog) -> None:
    """Turned around, objective and direction, the same record gives the same suggestion."""
    turned = MemoryLog()
    for event in alone.events:
        payload = dict(event.payload)
        if event.type == "run_opened":
            payload["config"] = {"search": {"direction": "min"}}
        if payload.get("objective") is not None:
            payload["objective"] = -payload["objective"]
        if event.type == "told" and payload["value"] is not None:
            payload["value"] = -payload["value"]
        turned.append(event.type, **payload)
    assert (
        asker_of(direction="min").ask(turned.state, TOTAL).coords == asker_of().ask(alone.state, TOTAL).coords
    )
    assert (
        asker_of(direction="max").ask(turned.state, TOTAL).coords != asker_of().ask(alone.state, TOTAL).coords
    )


def test_what_optuna_is_told(alone: MemoryLog) -> None:
    state = alone.state
    asker = asker_of()
    rows = {one.number: one for one in known_trials(state, TOTAL, asker.coords_of)}
    assert 1 not in rows
    assert 2 not in rows
    for number, one in rows.items():
        trial = state.trials[number]
        assert one.said == trial.told_state
        if trial.told_state == "complete":
            assert one.value == trial.best_value
        if str(trial.state) == "PRUNED":
            milestones = [row.decision.milestone for row in trial.evaluations if row.decision.milestone]
            assert [m for m, _ in one.rungs] == [m for m in milestones if trial.best_value is not None]
    study = _Study(asker.space, "max")
    study._update(list(rows.values()))
    known = study._study.get_trials()
    assert [t.params for t in known] == [dict(one.coords) for one in rows.values()]
    states = {"complete": OptunaState.COMPLETE, "pruned": OptunaState.PRUNED, "fail": OptunaState.FAIL}
    assert [t.state for t in known] == [states[one.said or ""] for one in rows.values()]
    assert [t.value for t in known if t.state == OptunaState.COMPLETE] == [
        one.value for one in rows.values() if one.said == "complete"
    ]


def ended(state: str, reason: str | None, values: list[float], coords: bool = True) -> Known | None:
    """What the sampler sees of a trial that has ended so, after these evaluations at 60, 120, ..."""
    log, asha, asker = MemoryLog(), analytic.asha_of(), asker_of()
    log.append("run_opened", **analytic.opened(asker))
    suggestion = asker.ask(log.state, 5)
    payload = suggestion.payload() | {"trial": 0} | ({} if coords else {"coords": {}})
    log.append("asked", **payload, generation=0, bracket=0, config=configured(suggestion), seed=0)
    log.append("started", trial=0, attempt=1)
    for index, value in enumerate(values):
        step = 60 * (index + 1)
        said = asha.decide(log.state, 0, step, value).to_json()
        log.append(
            "evaluated", trial=0, attempt=1, step=step, time_s=1.0, objective=value, record={}, decision=said
        )
    log.append("ended", trial=0, attempt=1, state=state, stop_reason=reason)
    search = Search(log, total=0)
    search.searcher.suggest("tune0")
    found = known_trials(log.state, 1, asker.coords_of)
    return found[0] if found else None


def test_each_ending_is_told_in_its_way() -> None:
    values = [0.2, 0.5, 0.4]
    complete, patience = ended("COMPLETE", None, values), ended("STOPPED", "patience", values)
    assert complete is not None
    assert (complete.said, complete.value, complete.rungs) == ("complete", 0.5, ())
    assert patience == complete
    pruned, rule = ended("PRUNED", "prune", values), ended("STOPPED", "st_inactive", values)
    assert pruned is not None
    assert (pruned.said, pruned.value, pruned.rungs) == ("pruned", None, ((60, 0.2), (180, 0.5)))
    assert rule == pruned
    diverged = ended("DIVERGED", "non_finite", values)
    assert diverged is not None
    assert (diverged.said, diverged.value, diverged.rungs) == ("pruned", None, ())
    failed, nothing = ended("FAILED", "error", values), ended("COMPLETE", None, [math.nan] * 3)
    assert failed is not None
    assert nothing is not None
    assert failed.said == nothing.said == "fail"


def test_a_diverged_trial_ranks_last_and_a_later_rung_first() -> None:
    space = space_of({"st.weight": {}})
    rows = [
        Known(0, {"st.weight": 0.2}, "pruned"),
        Known(1, {"st.weight": 0.3}, "pruned", None, ((60, 0.9),)),
        Known(2, {"st.weight": 0.5}, "pruned", None, ((60, 0.1), (180, 0.2))),
        Known(3, {"st.weight": 1.0}, "complete", 0.05),
        Known(4, {"st.weight": 2.0}, "fail"),
    ]
    assert [one.number for one in seen(rows, "max")] == [0, 1, 2, 3, 4]
    _Study(space, "max").ask(rows, 5, 1)


def many(count: int, running: int = 0) -> list[Known]:
    draw = random.Random(1)
    rows = []
    for number in range(count):
        kind = draw.random()
        coords = {"st.weight": draw.uniform(0.1, 4)}
        if kind < 0.4:
            rows.append(Known(number, coords, "complete", draw.random()))
        elif kind < 0.9:
            rows.append(Known(number, coords, "pruned", None, ((60, draw.random()),)))
        else:
            rows.append(Known(number, coords, "fail"))
    return [*rows, *(Known(count + i, {"st.weight": 1.0}) for i in range(running))]


def test_a_long_search_shows_its_best_and_its_newest() -> None:
    assert seen(many(2000, 3), "max") == many(2000, 3)
    rows = many(2600, 3)
    shown = seen(rows, "max")
    assert [one.number for one in shown] == sorted(one.number for one in shown)
    assert shown[-1503:] == rows[-1503:]
    assert len(shown) == 2003
    old = rows[:1100]
    values = sorted((one.value for one in old if one.value is not None), reverse=True)
    complete = [one.value for one in shown[:500] if one.said == "complete"]
    assert sorted((v for v in complete if v is not None), reverse=True) == values[: len(complete)]
    assert len(complete) == min(500, len(values))
    lowest = [one.value for one in seen(rows, "min")[:500] if one.value is not None]
    assert min(lowest) == min(v for v in values)


def contents(study: _Study) -> list[Any]:
    trials = study._study.get_trials()
    # What a trial that was pruned scored at last is its value or not, by how it was added: nobody reads it.
    return [
        (t.state, t.params, t.intermediate_values, t.value if t.state == OptunaState.COMPLETE else None)
        for t in trials
    ]


def test_the_kept_study_gives_what_a_new_one_gives() -> None:
    """Trials end in any order, are restarted, and the kept study follows or is made anew."""
    space = space_of(
        {"st.weight": {}, "ema_decay": {}, "optimizer.lr": {}, "patience": {}, "augment.flip": {}}
    )
    kept, draw = _Study(space, "max"), random.Random(4)
    known: list[Known] = []
    for number in range(40):
        fresh = _Study(space, "max")
        coords = kept.ask(known, number, number)
        assert coords == fresh.ask(known, number, number)
        assert contents(kept) == contents(fresh)
        known.append(Known(number, coords))
        for place, one in enumerate(known):
            if one.said is None and draw.random() < 0.3:
                said = draw.choice(["complete", "pruned", "fail"])
                rungs = ((60, draw.random()), (180, draw.random())) if said == "pruned" else ()
                known[place] = replace(
                    one, said=said, value=draw.random() if said == "complete" else None, rungs=rungs
                )
            elif one.said == "fail" and draw.random() < 0.2:
                known[place] = Known(one.number, one.coords)


def test_startup_trials_spread_over_every_axis() -> None:
    asker, log = asker_of(startup=8, baselines=()), MemoryLog()
    coords = [asker.ask(log.state, number).coords or {} for number in range(8)]
    for name, axis in asker.space.axes.items():
        cuts = sorted(float(one[name]) for one in coords)
        for place, value in enumerate(cuts):
            assert axis.at(place / 8) <= value <= axis.at((place + 1) / 8)
    assert {asker.ask(log.state, n).sampler["name"] for n in range(8)} == {"startup"}
    assert asker.ask(log.state, 8).sampler["name"] == "random"


def test_the_sampler_waits_for_something_to_learn_from(three: MemoryLog) -> None:
    for event, trial in ((e, e.payload) for e in three.events if e.type == "asked"):
        sampler = trial["sampler"]
        if sampler["name"] in ("tpe", "random"):
            told = {n for first, last in sampler["told"] for n in range(first, last + 1)}
            state = fold(three.events[: event.seq])
            assert told == {
                n for n, t in state.trials.items() if t.told_state in ("complete", "pruned", "fail")
            }
            learned = sum(state.trials[n].told_state != "fail" for n in told)
            assert (sampler["name"] == "tpe") == (learned >= LEAST_TOLD)


def test_random_sampling_depends_on_seed_and_number_alone(alone: MemoryLog) -> None:
    asker = asker_of(sampler="random")
    assert asker.ask(alone.state, 30).coords == asker.ask(MemoryLog().state, 30).coords
    with pytest.raises(ValueError, match="sampler must be one of tpe, random"):
        asker_of(sampler="grid")


def test_tpe_finds_better_than_random() -> None:
    def best(sampler: str) -> float:
        log, asker = MemoryLog(), asker_of(sampler=sampler, baselines=())
        log.append("run_opened", **analytic.opened(asker))
        for number in range(60):
            suggestion = asker.ask(log.state, number)
            log.append("asked", **suggestion.payload(), config={}, generation=0)
            log.append("started", trial=number, attempt=1)
            value = analytic.quality(dict(suggestion.params))
            said = {"action": "complete"}
            log.append(
                "evaluated", trial=number, attempt=1, step=600, objective=value, record={}, decision=said
            )
            log.append("ended", trial=number, state="COMPLETE")
            log.append("told", trial=number, state="complete", value=value)
        values = [t.best_value or 0.0 for t in log.state.trials.values()]
        return sum(sorted(values)[-20:]) / 20

    assert best("tpe") > best("random") + 0.05


def test_baselines_are_the_defaults_and_the_documented_ones() -> None:
    asker, log = asker_of(), MemoryLog()
    default, v30, v31 = (asker.ask(log.state, n) for n in range(3))
    assert [s.source for s in (default, v30, v31)] == ["default", "preset:V3.0", "preset:V3.1"]
    assert default.config == base_config()
    assert default.coords is not None
    assert default.params["threshold.road"] == 0.6
    assert v31.config is not None
    flat = flatten(v31.config)
    assert (flat["steps"], flat["st.weight"], flat["optimizer.lr"]) == (analytic.STEPS, 1.5, 3e-4)
    assert flat["eval_every_steps"] == analytic.EVERY
    assert v31.params["st.weight"] == 1.5
    # It has heads, views and a teacher that no sampled trial has: the sampler would take their doing for the knobs'.
    assert v31.coords is None
    assert set(v31.params) == set(default.params) == set(asker.space.names)


def test_baselines_are_measured_by_the_yardstick_of_the_search() -> None:
    base = base_config({"steps": 1000, "exclude_classes": ["road"], "health": {"gap_warn": 0.2}})
    odd = {
        "odd": {
            "steps": 5000,
            "eval_every_steps": 7,
            "exclude_classes": ["tree"],
            "health.gap_warn": 0.9,
            "grad_clip": 1.0,
        }
    }
    found = baselines(PerClassConfig, odd, train={}, base=base, class_names=analytic.CLASSES)
    flat = flatten(found[1].config)
    assert (flat["steps"], flat["eval_every_steps"], flat["health.gap_warn"]) == (1000, 10, 0.2)
    assert (flat["exclude_classes"], flat["grad_clip"]) == (["road"], 1.0)


def test_a_preset_that_comes_to_the_same_as_an_earlier_baseline_is_not_trained_again() -> None:
    presets = {"same": {"grad_clip": 1.0}, "own": {"grad_clip": 2.0}, "again": {"grad_clip": 2.0}}
    train = {"threshold": 0.8}
    found = baselines(
        PerClassConfig, presets, train=train | {"grad_clip": 3.0}, base=base_config(), class_names=analytic.CLASSES
    )
    assert [baseline.source for baseline in found] == ["default"], "what the sweep fixes makes them all alike"
    assert found[0].also == ("preset:same", "preset:own", "preset:again")
    found = baselines(PerClassConfig, presets, train=train, base=base_config(), class_names=analytic.CLASSES)
    assert [baseline.source for baseline in found] == ["default", "preset:same", "preset:own"]
    asker = asker_of(baselines=found)
    assert asker.ask(RunState(), 1).sampler == {"name": "baseline"}
    assert asker.ask(RunState(), 2).sampler == {"name": "baseline", "also": ["preset:again"]}


def test_a_documented_run_that_is_the_defaults_at_its_own_length_is_trained_once_at_any_other() -> None:
    kind = RECIPES["self_training_rounds"]
    train = {"steps": 500, "eval_every_steps": 50, "batch_size": 4}
    presets = {name: preset.values for name, preset in kind.presets.items() if preset.baseline}
    found = baselines(kind.config, presets, train=train, base=train, class_names=("ground", "particle"))
    assert [(one.source, one.also) for one in found] == [("default", ("preset:cryo",)), ("preset:pos_weight", ())]


@pytest.mark.fault(
    22,
    how="a space that changes between two generations",
    saw="the sampler sees old trials where the new space can represent them, and no others",
)
def test_a_new_generation_sees_what_its_space_can_represent(alone: MemoryLog) -> None:
    log = MemoryLog(alone.events)
    spec = {"from": "per_class/quick", "optimizer.lr": {"low": 1e-4, "high": 1e-2}}
    asker = asker_of(spec)
    left_out = asker.incompatible(log.state)
    inside = [n for n, t in log.state.trials.items() if 1e-4 <= t.params["optimizer.lr"] <= 1e-2]
    assert set(range(TOTAL)) - set(left_out) == set(inside) - {1, 2}
    log.append(
        "generation",
        generation=1,
        space=asker.space.to_json(),
        space_hash=asker.space.space_hash,
        incompatible=left_out,
    )
    found = asker.ask(log.state, TOTAL)
    shown = {n for first, last in found.sampler.get("told", []) for n in range(first, last + 1)}
    assert shown == set(inside) - {1, 2}
    wider = asker_of("per_class/full")
    assert set(wider.incompatible(alone.state)) >= {1, 2}
    # Base and slope are thresholds like any other: the free space knows them all.
    assert len(wider.incompatible(alone.state)) < TOTAL


def test_a_fixed_value_in_the_new_space_leaves_out_what_differs(alone: MemoryLog) -> None:
    asker = asker_of({"from": "per_class/quick", "st.weight": 1.0})
    assert set(asker.incompatible(alone.state)) == set(range(1, TOTAL))


def searcher_of(log: MemoryLog, total: int = 5, **changed: Any) -> ThresherSearcher:
    return ThresherSearcher(log, asker_of(), total=lambda: total, configure=configured, **changed)


def opened_log() -> MemoryLog:
    log = MemoryLog()
    log.append("run_opened", **analytic.opened(asker_of()))
    return log


def start(log: MemoryLog, found: dict[str, Any]) -> None:
    log.append("started", trial=found["trial"], attempt=found["attempt"])


def test_a_suggestion_is_recorded_before_it_is_handed_out() -> None:
    log = opened_log()
    found = searcher_of(log, seed=3, bracket=lambda n: n + 1).suggest("a")
    trial = log.state.trials[0]
    assert found == {"trial": 0, "attempt": 1, "config": trial.config}
    assert trial.seed == trial.config["seed"] == 7, "what a configuration says of its seed comes first"
    assert (trial.bracket, trial.source) == (1, "default")


def test_what_must_go_on_comes_first_and_the_end_comes_last() -> None:
    log = opened_log()
    first = searcher_of(log)
    for name in "ab":
        start(log, first.suggest(name))
    log.append("resumed")
    again = searcher_of(log, total=3)
    assert [(again.suggest(n)["trial"], again.suggest(n * 2)["trial"]) for n in "c"] == [(0, 1)]
    found = again.suggest("e")
    assert (found["trial"], found["attempt"]) == (2, 1)
    assert again.suggest("f") is None
    # One dies and is to be started again; only when all have ended is there nothing left.
    for number in range(3):
        start(log, {"trial": number, "attempt": log.state.trials[number].attempts + 1})
    log.append("paused", trial=1, attempt=2, reason="oom")
    again.on_trial_complete("cc", error=True)
    retried = again.suggest("g")
    assert (retried["trial"], retried["attempt"]) == (1, 3)
    for name, number in (("c", 0), ("g", 1), ("e", 2)):
        assert again.suggest("h") is None
        log.append("ended", trial=number, state="FAILED")
        again.on_trial_complete(name)
    assert again.suggest("h") == Searcher.FINISHED
    assert [t.told for t in log.state.trials.values()] == [True] * 3
    more = searcher_of(log, total=4)
    assert more.suggest("i")["trial"] == 3


def test_a_budget_that_is_used_up_starts_nothing_new() -> None:
    log, left = opened_log(), [True]
    searcher = searcher_of(log, may_start=lambda state: left[0])
    found = searcher.suggest("a")
    start(log, found)
    left[0] = False
    assert searcher.suggest("b") is None
    log.append("ended", trial=0, state="COMPLETE")
    searcher.on_trial_complete("a")
    assert searcher.suggest("b") == Searcher.FINISHED


def test_an_end_that_a_crash_ate_is_written_before_anything_is_asked() -> None:
    log = opened_log()
    start(log, searcher_of(log).suggest("a"))
    log.append(
        "evaluated", trial=0, attempt=1, step=600, objective=0.5, record={}, decision={"action": "complete"}
    )
    searcher_of(log).suggest("b")
    kinds = [event.type for event in log.events]
    assert kinds[-4:] == ["evaluated", "ended", "told", "asked"]
    assert (log.state.trials[0].told_state, log.state.trials[0].told_value) == ("complete", 0.5)


def test_what_goes_wrong_at_an_end_is_raised_at_the_next_step() -> None:
    log = opened_log()
    searcher = searcher_of(log)
    start(log, searcher.suggest("a"))
    log.append("ended", trial=0, state="COMPLETE")
    whole = log.append

    def full(event_type: str, /, **payload: Any) -> Any:
        raise OSError("no space")

    log.append = full  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no space"):
        searcher.on_trial_complete("a")
    log.append = whole  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no space"):
        searcher.suggest("b")
    # Tune calls the hook again for a trial whose hook has failed: it must not be told twice.
    searcher.on_trial_complete("a", error=True)
    assert not log.state.trials[0].told


def test_optuna_keeps_quiet(capsys: pytest.CaptureFixture[str], alone: MemoryLog) -> None:
    asker_of().ask(alone.state, TOTAL)
    assert capsys.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() >= optuna.logging.WARNING
