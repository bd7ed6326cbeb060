"""Trainings in processes of their own that end at a fault point or are killed; torch is imported once for all.

Run as a program it is the server: each line of its input is a `Job` as JSON, for which it forks a process and answers
its number, or such a number, to which it answers how that process ended, or null. What a training reports is said in
a file at once, so that it survives the process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from search.mirror import Mirror
from search.store import open_store
from tests.support.folders import LISTED
from tests.support.two_phase import TwoPhase
from trainable import faults, train
from trainable.config import RunConfig
from trainable.recipes import RECIPES
from trainable.recipes.interface import Phase, PhaseContext
from trainable.state import Report

_ROOT = Path(__file__).parents[2]
STEPS, EVERY, PHASES = 12, 3, 4


class Leaving(TwoPhase):
    """Four phases, of which all but the first train on targets of their own; each leaves a file behind."""

    name: ClassVar[str] = "leaving"

    def phases(self) -> Sequence[Phase]:
        first, second = super().phases()
        length = self.cfg.steps // PHASES
        later = [replace(second, name=f"later {number}", steps=length) for number in range(1, PHASES)]
        return [replace(first, steps=length), *later]

    def begin_phase(self, phase: Phase, context: PhaseContext) -> None:
        super().begin_phase(replace(phase, name="second" if context.phase else "first"), context)

    def end_phase(self, phase: Phase, context: PhaseContext) -> None:
        context.save(f"rounds/{context.phase}.json", json.dumps(dict(context.metrics)).encode())


@dataclass(frozen=True)
class Job:
    """One attempt at a training.

    Attributes:
        directory: the run's folder.
        data: the data set. cache: where its decoded pixels are kept.
        said: gets one line per report.
        out: gets what the process prints.
        fault: `name[:n]`, or None.
        uri: the run that the folder is mirrored to; empty for none.
        kill_after: reports after which the process kills itself; 0 for never.
        train: knobs.
        environment: of the process.
    """

    directory: str
    data: str
    cache: str
    said: str
    out: str
    fault: str | None = None
    uri: str = ""
    kill_after: int = 0
    train: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


def configured(data: str, cache: str, **train_values: Any) -> RunConfig:
    """A few steps of a tiny network on a few tiny images."""
    section = {"root": data, "group_by": r"^(p\d+)", "cache": {"dir": cache}, **LISTED}
    tiny = {
        "steps": STEPS, "eval_every_steps": EVERY, "batch_size": 2, "crop_size": 32, "patience": 0,
        "encoder_weights": None, "amp": "off",
    }  # fmt: skip
    return RunConfig.model_validate(
        {"name": "t", "recipe": "leaving", "data": section, "train": tiny | train_values, "seed": 3}
    )


def work(job: Job) -> None:
    """Trains, from wherever the folder stands, to the end."""
    os.environ.update(job.environment)
    said = os.open(job.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    mirror = None
    if job.uri:
        mirror = Mirror(open_store(job.uri), "trials/0", Path(job.directory))
    faults._armed = faults._from_environment(job.fault)
    left = job.kill_after

    def report(found: Report) -> None:
        nonlocal left
        if mirror is not None:
            mirror.push()
        os.write(said, json.dumps([found.step, found.objective, found.record]).encode() + b"\n")
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if mirror is not None:
        mirror.pull()
    print("ended", train(configured(job.data, job.cache, **job.train), job.directory, report=report).state, flush=True)
    if mirror is not None:
        mirror.push()


def said(job: Job) -> list[Any]:
    """What was reported, as (step, objective, record); a line cut short does not count."""
    path = Path(job.said)
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


class Trainings:
    """The server."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.trainings"], cwd=_ROOT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._ended: dict[int, int] = {}

    def run(self, job: Job) -> int:
        """Runs one attempt; returns its exit code, negative for a signal."""
        return self.wait(self.start(job))

    def start(self, job: Job) -> int:
        """Starts one attempt; returns its process's number."""
        return int(self._ask(asdict(job)))

    def poll(self, pid: int) -> int | None:
        """How a process ended; None while it runs."""
        if pid not in self._ended:
            found = self._ask(pid)
            if found is None:
                return None
            self._ended[pid] = int(found)
        return self._ended[pid]

    def wait(self, pid: int) -> int:
        """How a process ended, once it has."""
        while (code := self.poll(pid)) is None:
            time.sleep(0.002)
        return code

    def _ask(self, what: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def _child(job: Job) -> None:
    out = os.open(job.out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = 70
    try:
        work(job)
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Answers until its input ends."""
    torch.set_num_threads(1)
    RECIPES[Leaving.name] = Leaving
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            found, status = os.waitpid(asked, os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if found else None), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _child(Job(**asked))
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
