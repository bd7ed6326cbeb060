"""Drivers that are killed, interrupted and terminated, each in a process of its own."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from search.records import RunState, TrialState
from search.store import open_store
from tests.support.drive import NAME
from tests.support.drivers import Zygote, evaluations, state_of, survivors, wait_until
from tests.support.fault_page import Observed

pytestmark = [pytest.mark.ray, pytest.mark.slow]

KILLS = int(os.environ.get("THRESHER_KILLS", "4"))
TIMES = ["started_at", "ended_at", "attempts", "peak_memory_mb", "config", "git_revision"]


def results(run: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a search came to, times apart."""
    trials = pd.read_parquet(run / "trials.parquet")
    history = pd.read_parquet(run / "history").sort_values(["trial", "step"], ignore_index=True)
    trains = [json.dumps(json.loads(text)["train"], sort_keys=True) for text in trials["config"]]
    return trials.drop(columns=TIMES).assign(train=trains), history.drop(columns=["attempt"])


def decisions(state: RunState) -> list[Any]:
    return [
        (trial.number, row.step, row.objective, row.decision)
        for trial in state.trials.values()
        for row in trial.evaluations
    ]


@pytest.fixture
def shared(shared_ray: str) -> dict[str, str]:
    """The environment of a driver that joins the tests' Ray."""
    return {"THRESHER_RAY_ADDRESS": shared_ray}


@pytest.mark.fault(
    1,
    how="SIGKILL to the driver of a real sweep on Ray at random instants, and `resume` after each",
    saw=(
        "the same decisions, trials and history as a sweep that nobody killed; what was recorded before "
        "a kill stands"
    ),
)
def test_a_run_killed_at_random_instants_comes_to_the_same_as_one_left_alone(
    tmp_path: Path, zygote: Zygote, shared: dict[str, str]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for storage in (whole, broken):
        storage.mkdir()
        (storage / "toy.json").write_text(json.dumps({"sleep": 0.02}))
    alone = zygote.start("sweep", whole, env=shared)
    assert alone.wait() == 0, alone.text
    draw, run = random.Random(20), broken / NAME
    driver = zygote.start("sweep", broken, env=shared)
    recorded: list[Any] = []
    for _ in range(KILLS):
        seen = state_of(run).seq
        wait_until(run, lambda state, seen=seen: state.seq > seen or state.closed is not None, driver)
        time.sleep(draw.uniform(0.0, 1.5))
        driver.kill()
        state = state_of(run)
        assert decisions(state)[: len(recorded)] == recorded or set(recorded) <= set(decisions(state))
        recorded = decisions(state)
        driver = zygote.start("resume", run, env=shared)
    assert driver.wait() == 0, driver.text
    assert decisions(state_of(run)) == decisions(state_of(whole / NAME))
    for mine, theirs in zip(results(run), results(whole / NAME), strict=True):
        pd.testing.assert_frame_equal(mine, theirs)


@pytest.mark.fault(
    6,
    how="SIGTERM to the driver's process group, as schedulers and spot notices do",
    saw="exit 143; every trial PAUSED with a checkpoint at or after its last evaluation; no process left",
)
def test_a_terminated_driver_leaves_checkpoints_and_no_process(tmp_path: Path, zygote: Zygote) -> None:
    (tmp_path / "toy.json").write_text(json.dumps({"sleep": 0.1}))
    run = tmp_path / NAME
    driver = zygote.start("sweep", tmp_path, search={"trials": 2, "max_concurrent": 2, "asha": None})
    wait_until(run, lambda state: evaluations(state) >= 2, driver)
    family = driver.family()
    # As a job manager does: to all processes at once.
    os.killpg(driver.pid, signal.SIGTERM)
    assert driver.wait() == 143, driver.text
    assert survivors(family) == []
    state = state_of(run)
    assert {trial.state for trial in state.trials.values()} == {TrialState.PAUSED}
    assert state.closed == {"exit_code": 143, "reason": "sigterm"}
    for trial in state.trials.values():
        checkpoint = json.loads(
            (run / "trials" / str(trial.number) / "checkpoints" / "last.json").read_text()
        )
        assert checkpoint["step"] >= trial.step > 0


@pytest.mark.fault(
    7,
    how="SIGINT once (trials end their step) and twice (steps of 30 s that nobody waits for)",
    saw="exit 130, trials PAUSED, a message each time, no process left",
)
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_pauses_and_a_second_one_ends_at_once(tmp_path: Path, zygote: Zygote, presses: int) -> None:
    # With one press the trials finish their step; with two, steps are so long that nobody could wait for them.
    (tmp_path / "toy.json").write_text(json.dumps({"sleep": 0.1 if presses == 1 else 30.0}))
    run = tmp_path / NAME
    driver = zygote.start("sweep", tmp_path, search={"trials": 1})
    wait_until(run, lambda state: any(t.state is TrialState.RUNNING for t in state.trials.values()), driver)
    family = driver.family()
    for press in range(presses):
        time.sleep(0.8 * press)
        os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait() == 130, driver.text
    assert survivors(family) == []
    state = state_of(run)
    assert "Ctrl+C" in driver.text and ("stopped at once" in driver.text) == (presses == 2)
    assert [trial.state for trial in state.trials.values()] == [TrialState.PAUSED]


@pytest.mark.fault(
    9, 10,
    how="SIGKILL to a driver, whose Ray (head and workers) dies with it; then two `resume` at once",
)
def test_a_killed_driver_takes_its_ray_along_and_a_second_resume_is_refused(
    tmp_path: Path, zygote: Zygote, observed: Observed
) -> None:
    (tmp_path / "toy.json").write_text(json.dumps({"sleep": 0.3}))
    run = tmp_path / NAME
    driver = zygote.start("sweep", tmp_path, search={"trials": 1})
    wait_until(run, lambda state: evaluations(state) >= 1, driver)
    family = [process for process in driver.family() if "Agent" not in process.name()]
    driver.kill()
    assert survivors(family) == []
    first = zygote.start("resume", run)
    wait_until(run, lambda state: state.resumes == 1, first)
    second = zygote.start("resume", run)
    assert second.wait() == 2, second.text
    assert str(first.pid) in second.text
    (tmp_path / "toy.json").write_text("{}")
    assert first.wait() == 0, first.text
    state = state_of(run)
    assert state.trials[0].state is TrialState.COMPLETE and state.trials[0].attempts == 2
    assert [event.seq for event in open_store(run).read()] == list(range(state.seq + 1))
    observed("no process is left; the first goes on from the run's folder, on a new Ray")
    observed(f"the second: exit 2, {re.sub(r'[0-9]+ s ago', 'N s ago', second.text)}", row=10)


@pytest.mark.fault(9, how="SIGKILL to the head of a driver's Ray (its GCS) in the middle of a trial")
def test_a_driver_that_loses_its_head_node_ends_and_resume_goes_on_with_a_new_one(
    tmp_path: Path, zygote: Zygote, shared: dict[str, str], observed: Observed
) -> None:
    (tmp_path / "toy.json").write_text(json.dumps({"sleep": 0.3}))
    run = tmp_path / NAME
    env = {"RAY_gcs_rpc_server_reconnect_timeout_s": "3"}
    driver = zygote.start("sweep", tmp_path, env=env, search={"trials": 1})
    wait_until(run, lambda state: evaluations(state) >= 1, driver)
    family = [process for process in driver.family() if "Agent" not in process.name()]
    [head] = [process for process in family if "gcs_server" in process.name()]
    head.kill()
    assert driver.wait() != 0
    assert survivors(family) == []
    before = state_of(run)
    (tmp_path / "toy.json").write_text("{}")
    again = zygote.start("resume", run, env=shared)
    assert again.wait() == 0, again.text
    trial = state_of(run).trials[0]
    assert trial.state is TrialState.COMPLETE and [row.step for row in trial.evaluations] == [5, 10, 15, 20]
    assert trial.evaluations[: evaluations(before)] == before.trials[0].evaluations
    observed("the driver ends; `resume` goes on from the run's folder alone, on another Ray, no row lost or doubled")
