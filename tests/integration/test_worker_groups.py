"""Groups of workers that lose a process, stand still, or lose their trial: none is left, and the next goes on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from search.running import Options
from search.schema import SweepConfig
from search.sweep import start_sweep
from tests.integration.test_worker import TRAIN
from tests.support.drivers import state_of, survivors
from trainable.checkpoint import load_last
from trainable.config import flatten
from trainable.data.synth import GROUP_BY, write_scenes
from trainable.errors import ThresherError, TrainingHung
from trainable.worker import fit

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PATIENCE_S = 240.0


@ray.remote(num_cpus=0, max_retries=0)
def attempt(run: dict[str, Any], folder: str, limit_s: float) -> Any:
    """What a Tune trial does in a process of its own, its output in the trial's log."""
    with (Path(folder) / "train.log").open("a") as log, contextlib.redirect_stdout(log):
        return fit(
            run, folder, workers=2, report=lambda report: print(f"step {report.step}", flush=True), limit_s=limit_s,
            should_stop=lambda: "stop" if (Path(folder) / "enough").exists() else None, start_limit_s=PATIENCE_S,
        )  # fmt: skip


class Log:
    """What a trial's log says, from where it was when this was made."""

    def __init__(self, path: Path) -> None:
        self.path, self._begins = path, 0
        self.skip()

    def skip(self) -> None:
        """Forgets what it says so far."""
        self._begins = self.path.stat().st_size if self.path.exists() else 0

    @property
    def text(self) -> str:
        return self.path.read_bytes()[self._begins :].decode() if self.path.exists() else ""

    def until(self, pattern: str) -> list[str]:
        """Waits for it to say something; returns all of it."""
        end = time.monotonic() + PATIENCE_S
        while not (found := re.findall(pattern, self.text, re.MULTILINE)):
            assert time.monotonic() < end, self.text
            time.sleep(0.05)
        return found

    def workers(self) -> list[psutil.Process]:
        """The workers by rank, once they train."""
        self.until(r"^step \d+")
        pids = dict(re.findall(r"^worker (\d): process (\d+)", self.text, re.MULTILINE))
        return [psutil.Process(int(pids[rank])) for rank in sorted(pids)]


class Attempt(Log):
    """One attempt of a trial, without a search around it."""

    def __init__(self, run: dict[str, Any], folder: Path, limit_s: float = PATIENCE_S) -> None:
        super().__init__(folder / "train.log")
        self.result = attempt.remote(run, str(folder), limit_s)

    def ends_with(self, kind: type[ThresherError]) -> str:
        with pytest.raises(kind) as caught:
            ray.get(self.result, timeout=PATIENCE_S)
        return str(caught.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, photos=4, patches_per_photo=4, size=64, labeled=4, seed=0)
    data = {
        "root": str(root), "classes": "class_mapping.csv", "labeled": "splits/labelled.txt",
        "unlabeled": "splits/unlabelled.txt", "val": "splits/val.txt", "group_by": GROUP_BY,
        "cache": {"dir": str(root / "cache")},
    }  # fmt: skip
    train = TRAIN | {"steps": 100_000, "eval_every_steps": 2}
    return {"name": "pair", "recipe": "per_class", "data": data, "train": train, "seed": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    (tmp_path / "enough").touch()


def checkpointed(folder: Path) -> int:
    snapshot, _ = load_last(folder)
    return 0 if snapshot is None else int(snapshot.loop["step"])


def cpus_are_free() -> bool:
    end = time.monotonic() + 30.0
    while time.monotonic() < end:
        if ray.available_resources().get("CPU") == 2.0:
            return True
        time.sleep(0.2)
    return False


@pytest.mark.fault(
    33,
    how=(
        "SIGSTOP to one of two workers that train together, so that the other waits for it in a "
        "collective call"
    ),
    saw=(
        "after the limit: stacks of both in train.log, the whole group ended, its CPUs free, a "
        "checkpoint kept; tried again as `hung`"
    ),
)
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
def test_a_group_that_stands_still_leaves_its_stacks_and_no_process(
    shared_ray: str, run: dict[str, Any], folder: Path
) -> None:
    hung = Attempt(run, folder, limit_s=8.0)
    hung.until(r"^step 4$")
    workers = hung.workers()
    workers[1].send_signal(signal.SIGSTOP)
    assert "hung: no step or report of the group's 2 workers for " in hung.ends_with(TrainingHung)
    assert survivors(workers) == [] and cpus_are_free()
    assert f"process {workers[0].pid} stands still; stacks of all threads" in hung.text
    assert "in train_step" in hung.text or "in should_stop" in hung.text or "in hand_over" in hung.text
    assert checkpointed(folder) > 0


@pytest.mark.fault(
    5,
    how="SIGKILL to a worker of a group of two in a search, then to the trial that leads it",
    saw="no process of the group is left; attempt 3 ends COMPLETE, every evaluation there once",
)
@pytest.mark.timeout(900)
def test_a_search_goes_on_when_a_worker_or_a_trial_of_several_is_killed(
    shared_ray: str, run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The machine's CPUs are just enough for one group: a leak of any would hang the search."""
    train = flatten(run["train"]) | {"steps": 40, "health.action": "warn"}
    found = {**run, "name": "pairs", "train": train, "space": {"st.weight": {}}, "storage": str(tmp_path)}
    found |= {"search": {"trials": 1, "asha": None, "baselines": False}, "resources": {"workers_per_trial": 2}}
    found["tracking"] = {"wandb": {"mode": "disabled"}}
    log, killed = Log(tmp_path / "pairs" / "trials" / "0" / "train.log"), []

    def kill() -> None:
        for attempt, victim in ((1, "worker"), (2, "trial")):
            trial = None
            while trial is None or all(row.attempt != attempt for row in trial.evaluations):
                time.sleep(0.1)
                trial = state_of(tmp_path / "pairs").trials.get(0)
            workers = log.workers()
            pid = trial.pid if victim == "trial" else workers[1].pid
            killed.extend(workers)
            log.skip()
            os.kill(pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    result = start_sweep(SweepConfig.model_validate(found), options=Options())
    trial = state_of(tmp_path / "pairs").trials[0]
    assert (result.exit_code, str(trial.state), trial.attempts) == (0, "COMPLETE", 3)
    assert trial.failures == ["worker_died", "worker_died"]
    # On a busy machine the other one may be gone, too, by the time that anybody looks.
    assert re.search(r"worker (0, )?1 of a group of 2 is gone", capsys.readouterr().out)
    assert [row.step for row in trial.evaluations] == list(range(2, 42, 2))
    assert {row.attempt for row in trial.evaluations} == {1, 2, 3}
    assert len(killed) == 4 and survivors(killed) == [] and cpus_are_free()
