"""Whole sweeps on a real Ray, with a training that is a formula but writes real files."""

from __future__ import annotations

import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from search.asker import replay
from search.opening import asker_of, current_space, opened_with
from search.records import RunState, TrialState
from search.resume import resume
from search.running import SweepResult
from search.store import open_store
from search.sweep import start_sweep
from spaces import SearchSpace
from tests.support.drive import NAME, toy_config, toy_options
from tests.support.drivers import state_of
from tests.support.fault_page import Observed
from trainable.errors import ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


def sweep(storage: Path, plan: dict[str, Any] | None = None, **sections: Any) -> tuple[SweepResult, RunState]:
    if plan is not None:
        (storage / "toy.json").write_text(json.dumps(plan))
    result = start_sweep(toy_config(storage, **sections), options=toy_options())
    return result, state_of(storage / NAME)


def first_line(state: RunState, number: int) -> str:
    return str(state.trials[number].error).splitlines()[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six trials, one at a time, that nothing disturbed."""
    storage = tmp_path_factory.mktemp("finished")
    result, _ = sweep(storage)
    assert (result.exit_code, result.reason) == (0, None)
    return storage / NAME


def test_a_sweep_runs_every_trial_and_leaves_tables_that_pandas_reads(finished: Path) -> None:
    state = state_of(finished)
    trials = pd.read_parquet(finished / "trials.parquet")
    history = pd.read_parquet(finished / "history")
    assert list(trials["trial"]) == list(range(6)) == list(state.trials)
    assert set(trials["state"]) == {"COMPLETE", "PRUNED"} and state.closed is not None
    assert not history.duplicated(["trial", "step"]).any()
    assert len(history) == sum(len(trial.evaluations) for trial in state.trials.values())
    best = state.best()
    assert best is not None and best.best_value == trials["best.val/miou"].max()
    for number in range(6):
        folder = finished / "trials" / str(number)
        assert (folder / "config.yaml").exists() and f"toy trial {number}" in (
            folder / "train.log"
        ).read_text()


def test_every_suggestion_can_be_computed_again_from_the_log_before_it(finished: Path) -> None:
    config = toy_config(finished.parent)

    def asker(state: RunState) -> Any:
        return asker_of(config, SearchSpace.from_json(current_space(state)), opened_with(state))

    assert replay(open_store(finished).read(), asker) == []


@pytest.mark.fault(
    11,
    how="a sweep of a name that has a run already; then with --fresh",
    saw="refused, --fresh named; with it the old run is renamed to name.utc, whole",
)
def test_a_name_that_is_taken_is_refused_and_put_aside_on_request(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / NAME)
    with pytest.raises(ConfigError, match="--fresh"):
        start_sweep(toy_config(tmp_path), options=toy_options())
    before = state_of(tmp_path / NAME).seq
    result = start_sweep(toy_config(tmp_path, search={"trials": 1}), fresh=True, options=toy_options())
    aside = [path for path in tmp_path.iterdir() if path.name.startswith(f"{NAME}.")]
    assert result.exit_code == 0 and len(aside) == 1
    assert state_of(aside[0]).seq == before and len(state_of(tmp_path / NAME).trials) == 1


def test_a_finished_run_is_extended_also_in_another_folder(finished: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(finished, moved)
    old = state_of(moved)
    result = resume(moved, add_trials=2, options=toy_options())
    state = state_of(moved)
    assert result.exit_code == 0 and list(state.trials) == list(range(8))
    for number, trial in old.trials.items():
        now = state.trials[number]
        assert (now.state, now.best_value, now.attempts) == (trial.state, trial.best_value, trial.attempts)
    assert list(pd.read_parquet(moved / "trials.parquet")["trial"]) == list(range(8))
    # Nothing is left to do: no trial starts, and the answer is the same.
    assert resume(moved, options=toy_options()).exit_code == 0
    assert list(state_of(moved).trials) == list(range(8))


@pytest.mark.parametrize("change", ["train.steps=40", "seed=3", "search.sampler=random", "search.trails=9"])
def test_a_resume_refuses_what_would_make_trials_incomparable(finished: Path, change: str) -> None:
    before = state_of(finished).seq
    with pytest.raises(ConfigError, match=r"resume may change only .*search\.trials"):
        resume(finished, sets=[change], options=toy_options())
    assert state_of(finished).seq == before


@pytest.mark.fault(
    22,
    how="`resume --set space=...` with a narrower range",
    saw="generation 1 in the same run; trials outside the new range are listed as incompatible",
)
def test_a_changed_space_is_a_new_generation_of_the_same_run(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / NAME)
    space = "space={st.weight: {low: 0.5, high: 0.9}, threshold: {}}"
    result = resume(tmp_path / NAME, add_trials=2, sets=[space], options=toy_options())
    state = state_of(tmp_path / NAME)
    assert result.exit_code == 0 and state.generation == 1
    assert [state.trials[n].generation for n in (0, 5, 6, 7)] == [0, 0, 1, 1]
    assert all(0.5 <= state.trials[n].params["st.weight"] <= 0.9 for n in (6, 7))
    too_low = {n for n in range(6) if not 0.5 <= state.trials[n].params["st.weight"] <= 0.9}
    assert too_low and too_low <= state.incompatible


@pytest.mark.fault(5, how="SIGKILL and os._exit in trials' processes, once, twice, and in every attempt")
@pytest.mark.fault(28, how="a trial that raises what a loss of NaN raises", seam=True)
def test_each_trouble_ends_its_trial_as_it_should_and_the_search_goes_on(
    tmp_path: Path, observed: Observed
) -> None:
    troubles = {
        "0": {"what": "kill", "at": 7},
        "1": {"what": "raise", "at": 3},
        "2": {"what": "oom", "at": 4},
        "3": {"what": "nan", "at": 6},
        "4": {"what": "full", "at": 8},
        "5": {"what": "kill", "at": 2, "times": 9},
        "6": {"what": "exit", "at": 9, "times": 2},
    }
    search = {"trials": 8, "asha": None, "max_concurrent": 2}
    result, state = sweep(tmp_path, {"trials": troubles}, search=search)
    ends = {n: (str(t.state), t.stop_reason, t.attempts) for n, t in state.trials.items()}
    assert ends == {
        0: ("COMPLETE", None, 2),
        1: ("FAILED", "error", 1),
        2: ("COMPLETE", None, 2),
        3: ("DIVERGED", "non_finite", 1),
        4: ("COMPLETE", None, 2),
        5: ("FAILED", "worker_died", 3),
        6: ("COMPLETE", None, 3),
        7: ("COMPLETE", None, 1),
    }
    assert result.exit_code == 3 and state.best() is not None
    error = str(state.trials[1].error)
    assert "KeyError" in error and "toy.py" in error and "toy trial 1 from step 0" in error
    # What was recorded before the process died stands, and the curve goes on from the checkpoint.
    assert [row.step for row in state.trials[0].evaluations] == [5, 10, 15, 20]
    assert "toy trial 0 from step 5" in (tmp_path / NAME / "trials/0/train.log").read_text()
    observed("killed once at step 7: attempt 2 goes on from step 5, COMPLETE, no row twice", row=5)
    observed(f"killed in every attempt: FAILED (worker_died) after 3; {first_line(state, 5)}", row=5)
    observed(f"DIVERGED (non_finite), never best; {first_line(state, 3)}; 6 other trials COMPLETE", row=28)


def test_failed_trials_start_again_on_request(tmp_path: Path) -> None:
    result, state = sweep(tmp_path, {"trials": {"0": {"what": "raise", "at": 12}}}, search={"trials": 2})
    assert result.exit_code == 3 and state.trials[0].state is TrialState.FAILED
    again = resume(tmp_path / NAME, retry_failed=True, options=toy_options())
    trial = state_of(tmp_path / NAME).trials[0]
    assert again.exit_code == 0 and trial.state is TrialState.COMPLETE and trial.attempts == 2
    assert [row.attempt for row in trial.evaluations] == [1, 1, 2, 2]


@pytest.mark.fault(33, how="a training that never comes back from its step")
def test_a_hung_trial_is_ended_with_its_stacks_and_tried_again(tmp_path: Path, observed: Observed) -> None:
    plan = {"trials": {"0": {"what": "hang", "at": 7}}}
    result, state = sweep(tmp_path, plan, search={"trials": 1, "hang_s": 2.0})
    assert result.exit_code == 0 and state.trials[0].attempts == 2
    log = (tmp_path / NAME / "trials/0/train.log").read_text()
    assert "hung: no step or report" in log and "in _trouble" in log
    observed("after 2 s without a step the stacks of all threads are in train.log; killed, attempt 2 COMPLETE")


@pytest.mark.fault(32, how="a KeyError in the first step of every one of 20 trials, two at a time")
def test_a_cause_that_fails_every_trial_stops_the_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], observed: Observed
) -> None:
    plan = {"trials": {"*": {"what": "raise", "at": 1}}}
    result, state = sweep(tmp_path, plan, search={"trials": 20, "max_concurrent": 2})
    assert (result.exit_code, result.reason) == (3, "failing_rung")
    assert 3 <= len(state.trials) <= 6 and state.closed == {"exit_code": 3, "reason": "failing_rung"}
    [said] = [line for line in capsys.readouterr().out.splitlines() if "every trial fails" in line]
    assert "KeyError at tests/support/toy.py:" in said and "in _trouble" in said
    observed(f"exit 3 (failing_rung) before the sixth trial; {re.sub(r':[0-9]+ in', ':LINE in', said)}")


def test_a_stop_file_pauses_the_run_and_a_resume_goes_on(tmp_path: Path) -> None:
    stop = tmp_path / NAME / "control" / "stop"
    stop.parent.mkdir(parents=True)
    stop.write_text("what a driver before this one was asked\n")

    def ask() -> None:
        while not any('"started"' in log.read_text() for log in (tmp_path / NAME).glob("events/*.jsonl")):
            time.sleep(0.05)
        assert not stop.exists()
        stop.write_text("going home\n")

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        result, state = sweep(tmp_path, {"sleep": 0.3}, search={"trials": 2})
        asked.result()
    assert (result.exit_code, result.reason) == (0, "stop")
    assert not (tmp_path / NAME / "control" / "stop").exists()
    assert {t.state for t in state.trials.values()} <= {TrialState.PAUSED, TrialState.PENDING}
    (tmp_path / "toy.json").write_text("{}")
    assert resume(tmp_path / NAME, options=toy_options()).exit_code == 0
    assert [str(t.state) for t in state_of(tmp_path / NAME).trials.values()] == ["COMPLETE"] * 2


def test_a_search_by_hours_pauses_when_they_are_over(tmp_path: Path) -> None:
    result, state = sweep(tmp_path, {"sleep": 0.5}, search={"trials": 3, "max_hours": 6 / 3600})
    assert (result.exit_code, result.reason) == (0, "max_hours")
    assert any(not t.ended for t in state.trials.values()) or not state.trials
