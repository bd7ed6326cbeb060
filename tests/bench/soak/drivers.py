"""Kills drivers of real sweeps at random instants, resumes each, and counts what was lost: it must be nothing.

Ray, the processes, the log and the kills are real; the training is a formula with real checkpoint files, or real.
"""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray

from search.asker import Asker, replay
from search.cluster import connected
from search.opening import asker_of, current_space, opened_with
from search.records import RunState
from search.schema import SweepConfig
from search.store import open_store
from search.tables import load_history, load_trials, verify
from spaces import SearchSpace
from tests.support.drive import NAME, real_config, toy_config
from tests.support.drivers import TOKEN, Driver, Zygote, state_of, wait_until
from tests.support.tally import Tally
from trainable.data.synth import write_scenes

PATIENCE_S = 900.0
"""On a machine that does much else, a trial that imports torch takes minutes to begin."""

Row = tuple[int, int, float | None]


def rows(state: RunState) -> set[Row]:
    return {(t.number, row.step, row.objective) for t in state.trials.values() for row in t.evaluations}


class Drivers:
    """A Ray that outlives the drivers, so that a resume need not start one, and a process that forks them.

    Args:
        folder: for what they say, and for their temporary files.
        environment: what they need beside.
        real: whether they really train.
    """

    def __init__(self, folder: Path, environment: dict[str, str], *, real: bool = False) -> None:
        self._folder, self._real = folder, real
        self._environment = {
            **environment, "THRESHER_TOY": json.dumps({"sleep": 0.03}), "TMPDIR": str(folder),
            "THRESHER_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self._search: dict[str, Any] = {"trials": 4 if real else 12, "max_concurrent": 2}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        os.environ.update(self._environment | {"RAY_AUTH_TOKEN": TOKEN["RAY_AUTH_TOKEN"]})
        self._stack.enter_context(connected("local", num_cpus=2, num_gpus=0))
        self._environment["THRESHER_RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        self._zygote = Zygote(self._folder)
        self._stack.callback(self._zygote.close)
        if self._real:
            write_scenes(self._folder / "scenes", photos=6, patches_per_photo=4, size=32, labeled=8)
            self._environment["THRESHER_REAL"] = str(self._folder / "scenes")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def soak(self, storage: str, kills: int, draw: random.Random) -> Tally:
        """Runs sweeps until enough drivers were killed, and checks each at its end."""
        tally, number = Tally(), 0
        while tally.kills < kills:
            number += 1
            where = f"{storage}/{number}"
            driver = self._zygote.start("sweep", where, env=self._environment, search=self._search)
            run, before = f"{where}/{NAME}", set[Row]()
            while self._some_event(run, driver, draw).closed is None:
                if tally.kills >= kills:
                    wait_until(run, lambda state: state.closed is not None, driver, PATIENCE_S)
                    break
                driver.kill()
                tally.kills += 1
                before |= rows(state_of(run))
                driver = self._resume(run, tally)
            driver.wait(PATIENCE_S)
            self._check(run, before, tally)
        return tally

    def _resume(self, run: str, tally: Tally) -> Driver:
        began, seen = time.monotonic(), state_of(run).resumes
        driver = self._zygote.start("resume", run, env=self._environment)
        wait_until(run, lambda state: state.resumes > seen, driver, PATIENCE_S)
        tally.resume_s.append(time.monotonic() - began)
        return driver

    def _some_event(self, run: str, driver: Driver, draw: random.Random) -> RunState:
        """Waits for some more events, and a moment more."""
        target = state_of(run).seq + draw.randint(1, 12 if self._real else 3)
        state = wait_until(run, lambda state: state.seq >= target or state.closed is not None, driver, PATIENCE_S)
        if state.closed is None:
            time.sleep(draw.expovariate(4.0))
        return state_of(run)

    def _check(self, run: str, before: set[Row], tally: Tally) -> None:
        began = time.monotonic()
        state = state_of(run)
        tally.rebuilt_s.append(time.monotonic() - began)
        tally.recorded += len(before)
        tally.lost += len(before - rows(state))
        history, trials = load_history(run), load_trials(run)
        tally.doubled += int(history.duplicated(["trial", "step"]).sum())
        tally.doubled += int(trials.duplicated(["trial"]).sum())
        wanted = list(range(self._search["trials"]))
        if list(state.trials) != wanted or not all(trial.ended for trial in state.trials.values()):
            tally.wrong.append(f"{run}: trials {[(n, str(t.state)) for n, t in state.trials.items()]}")
        if any(str(trial.state) == "FAILED" for trial in state.trials.values()):
            tally.wrong.append(f"{run}: failed {[t.error for t in state.trials.values() if t.error]}")
        if not verify(run).ok:
            tally.wrong.append(f"{run}: the tables differ from the log")
        config = self._config(run.rpartition("/")[0])
        tally.wrong += [
            f"{run}: {line}" for line in replay(open_store(run).read(), lambda s: _asker(s, config))
        ]
        tally.wrong += [f"{run}: {line}" for line in done_again(run)]

    def _config(self, where: str) -> SweepConfig:
        if self._real:
            return real_config(where, self._environment["THRESHER_REAL"], search=self._search)
        return toy_config(where, search=self._search)


def done_again(run: str) -> list[str]:
    """What attempts did again and must not have: results that differ, or more than one interval."""
    found: dict[tuple[int, int], float | None] = {}
    attempts: dict[int, int] = {}
    wrong = []
    for event in open_store(run).read():
        if event.type != "evaluated":
            continue
        trial, step, attempt = (event.payload[name] for name in ("trial", "step", "attempt"))
        value = found.setdefault((trial, step), event.payload["objective"])
        if value != event.payload["objective"]:
            wrong.append(f"trial {trial} gave {value} and {event.payload['objective']} at step {step}")
        last = max(s for t, s in found if t == trial)
        if attempts.get(trial) != attempt and step < last:
            wrong.append(f"trial {trial} went back from step {last} to {step}")
        attempts[trial] = attempt
    return wrong


def _asker(state: RunState, config: SweepConfig) -> Asker:
    return asker_of(config, SearchSpace.from_json(current_space(state)), opened_with(state))
