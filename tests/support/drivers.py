"""Drivers that tests start, watch through the run's log, and kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from search.records import RunState, fold
from search.store import open_store
from trainable.errors import StoreError

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
"""Of the tests' Ray; must stand in the environment before Ray is imported."""


class Driver:
    """One sweep or resume in a process of its own."""

    def __init__(self, zygote: Zygote, pid: int, out: Path) -> None:
        self._zygote, self.pid, self.out = zygote, pid, out

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """As the system does when memory runs out."""
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """Its exit code; negative for a signal."""
        code = self._zygote.wait(self.pid, timeout)
        assert code is not None, f"the driver did not end within {timeout} s:\n{self.text}"
        return code

    @property
    def text(self) -> str:
        return self.out.read_text(errors="replace") if self.out.exists() else ""

    def family(self) -> list[psutil.Process]:
        """All processes below it."""
        return psutil.Process(self.pid).children(recursive=True)


class Zygote:
    """Starts drivers; see `tests.support.zygote`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.zygote"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, **TOKEN, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._line() == "ready"

    def start(
        self, command: str, where: Path | str, *, env: dict[str, str] | None = None, **given: Any
    ) -> Driver:
        """`sweep` in a storage folder, or `resume` of a run folder."""
        self._count += 1
        out = self._folder / f"driver-{self._count}.txt"
        argv = [command, str(where), json.dumps(given)]
        pid = int(self._ask({"argv": argv, "out": str(out), "env": env or {}}))
        return Driver(self, pid, out)

    def wait(self, pid: int, timeout: float) -> int | None:
        found: int | None = json.loads(self._ask({"wait": pid, "timeout": timeout}))
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, asked: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def state_of(run: Path | str) -> RunState:
    """The run as its log says now; empty before there is one."""
    try:
        return fold(open_store(run).read())
    except StoreError:
        return RunState()


def wait_until(
    run: Path | str, ready: Callable[[RunState], bool], driver: Driver, timeout: float = PATIENCE_S
) -> RunState:
    """Waits for the log to say something."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        state = state_of(run)
        if ready(state):
            return state
        time.sleep(0.05)
    raise AssertionError(f"the log never said so within {timeout} s; the driver said:\n{driver.text}")


def evaluations(state: RunState) -> int:
    return sum(len(trial.evaluations) for trial in state.trials.values())


def survivors(family: list[psutil.Process], timeout: float = 20.0) -> list[psutil.Process]:
    """Those of a killed driver's processes that still live after a while."""
    _, alive = psutil.wait_procs(family, timeout=timeout)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
