"""Kills drivers of real sweeps at random instants, resumes each, and counts what was lost: it must be nothing.

    python -m tests.bench.soak --kills 100            # on this disk
    python -m tests.bench.soak --kills 100 --s3       # on an S3 server on loopback

The training is a formula with real checkpoint files; Ray, the processes, the log and the kills are real.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import ray

from search.cluster import connected
from search.opening import asker_of, current_space, opened_with
from search.records import RunState
from search.searcher import Asker, replay
from search.store import open_store
from search.tables import load_history, load_trials, verify
from spaces import SearchSpace
from tests.support.drive import NAME, toy_config
from tests.support.drivers import TOKEN, Driver, Zygote, state_of, wait_until
from tests.support.s3 import ENVIRONMENT, s3_server

Row = tuple[int, int, float | None]


@dataclass
class Count:
    """What the kills did.

    Attributes:
        kills: drivers killed. recorded: evaluations seen in the log before a kill. lost: those missing at the end.
        doubled: rows or trials that stand twice. resume_s: seconds from a resume's start to its first event.
        rebuilt_s: seconds to read the whole log back. wrong: anything else that must not be.
    """

    kills: int = 0
    recorded: set[Row] = field(default_factory=set)
    lost: int = 0
    doubled: int = 0
    resume_s: list[float] = field(default_factory=list)
    rebuilt_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def line(self) -> str:
        waits = self.resume_s or [0.0]
        return (
            f"kills {self.kills}, results recorded {len(self.recorded)}, lost {self.lost}, doubled {self.doubled}, "
            f"seconds to resume median {statistics.median(waits):.1f} worst {max(waits):.1f}, record read back in "
            f"{self.rebuilt_s:.2f} s, wrong: {'; '.join(self.wrong) or 'nothing'}"
        )


def rows(state: RunState) -> set[Row]:
    return {(t.number, row.step, row.objective) for t in state.trials.values() for row in t.evaluations}


def soak(kills: int, storage: str, env: dict[str, str], zygote: Zygote, seed: int, concurrent: int) -> Count:
    """Runs sweeps until enough drivers were killed, and checks each at its end."""
    draw, count, number = random.Random(seed), Count(), 0
    while count.kills < kills:
        number += 1
        where = f"{storage}/{number}"
        search = {"trials": 12, "max_concurrent": concurrent}
        driver, run = zygote.start("sweep", where, env=env, search=search), f"{where}/{NAME}"
        before: set[Row] = set()
        while True:
            state = _some_event(run, driver, draw)
            if state.closed is not None:
                driver.wait()
                break
            driver.kill()
            count.kills += 1
            before |= rows(state_of(run))
            began, seen = time.monotonic(), state_of(run).resumes
            driver = zygote.start("resume", run, env=env)
            wait_until(run, lambda state, seen=seen: state.resumes > seen, driver)  # type: ignore[misc]
            count.resume_s.append(time.monotonic() - began)
        _check(run, before, count)
    return count


def _some_event(run: str, driver: Driver, draw: random.Random) -> RunState:
    """Waits for one to three more events, and a moment more."""
    target = state_of(run).seq + draw.randint(1, 3)
    state = wait_until(run, lambda state: state.seq >= target or state.closed is not None, driver)
    if state.closed is None:
        time.sleep(draw.expovariate(4.0))
    return state_of(run)


def _check(run: str, before: set[Row], count: Count) -> None:
    began = time.monotonic()
    state = state_of(run)
    count.rebuilt_s = max(count.rebuilt_s, time.monotonic() - began)
    count.recorded |= {(hash(run) + trial, step, value) for trial, step, value in before}
    count.lost += len(before - rows(state))
    history, trials = load_history(run), load_trials(run)
    count.doubled += int(history.duplicated(["trial", "step"]).sum()) + int(
        trials.duplicated(["trial"]).sum()
    )
    if list(state.trials) != list(range(12)) or not all(trial.ended for trial in state.trials.values()):
        count.wrong.append(f"{run}: trials {[(n, str(t.state)) for n, t in state.trials.items()]}")
    if not verify(run).ok:
        count.wrong.append(f"{run}: the tables differ from the log")
    config = toy_config(run.rpartition("/")[0], search={"trials": 12})
    wrong = replay(open_store(run).read(), lambda state: _asker(state, config))
    count.wrong += [f"{run}: {line}" for line in wrong]


def _asker(state: RunState, config: object) -> Asker:
    return asker_of(config, SearchSpace.from_json(current_space(state)), opened_with(state))  # type: ignore[arg-type]


@contextmanager
def shared_ray() -> Iterator[str]:
    """A Ray that outlives the drivers, so that a resume need not start one."""
    os.environ["RAY_AUTH_TOKEN"] = TOKEN["RAY_AUTH_TOKEN"]
    with connected("local", num_cpus=2, num_gpus=0):
        yield ray.get_runtime_context().gcs_address


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--concurrent", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="thresher-soak-"))
        env = {"THRESHER_TOY": json.dumps({"sleep": 0.03}), "TMPDIR": folder}
        storage = folder
        if given.s3:
            storage = stack.enter_context(s3_server()).uri
            env |= {name: os.environ[name] for name in (*ENVIRONMENT, "AWS_ENDPOINT_URL")}
        env["THRESHER_RAY_ADDRESS"] = stack.enter_context(shared_ray())
        zygote = Zygote(Path(folder))
        stack.callback(zygote.close)
        count = soak(given.kills, storage, env, zygote, given.seed, given.concurrent)
    print(("s3: " if given.s3 else "disk: ") + count.line(), flush=True)
    return int(bool(count.lost or count.doubled or count.wrong))


if __name__ == "__main__":
    sys.exit(main())
