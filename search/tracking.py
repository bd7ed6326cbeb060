"""wandb, drawn from the log by a process of its own that may be slow, wait, or die without anybody noticing.

Trials never import wandb. One wandb run stands for one trial: its id is the run's id and the trial's number, so that
publishing again goes on instead of drawing twice; its group is the sweep and its x axis the step. What has been
published is kept in `RUN/wandb/position.json`.

`python -m search.tracking RUN` follows a run until it is closed; `publish` does the same once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import wandb

from search.publisher_process import NOTICE, own_folder
from search.records import RunState, TrialRecord
from search.schema import WandbConfig
from search.store import RunLog, Store, open_store
from search.wandb_key import Mode
from trainable.errors import StoreError
from trainable.processes import pid_alive

POSITION = "wandb/position.json"
INIT_TIMEOUT_S, FINISH_TIMEOUT_S = 30.0, 30.0
POLL_S, LINGER_S = 2.0, 60.0
ATTEMPTS, FIRST_WAIT_S = 4, 1.0

_REFUSED = ("UsageError", "AuthenticationError")


class Drawn(Protocol):
    """What a wandb run can do that is used here."""

    def log(self, data: dict[str, Any], step: int | None = None) -> Any: ...

    def finish(self, exit_code: int | None = None) -> Any: ...

    @property
    def summary(self) -> Any: ...


@dataclass
class Position:
    """What has been published: by trial number, the last step drawn; and the trials that are finished.

    Attributes:
        steps: last drawn step by trial. finished: trials whose end is drawn.
    """

    steps: dict[int, int] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, store: Store) -> Position:
        """The position in a run; nothing where there is none or it is damaged (drawing again changes nothing)."""
        try:
            raw = json.loads(store.read_bytes(POSITION))
            return cls({int(k): int(v) for k, v in raw["steps"].items()}, {int(n) for n in raw["finished"]})
        except (StoreError, OSError, ValueError, KeyError, AttributeError, TypeError):
            return cls()

    def write(self, store: Store) -> None:
        """Keep it."""
        content = {"steps": {str(k): v for k, v in self.steps.items()}, "finished": sorted(self.finished)}
        store.write_bytes(POSITION, json.dumps(content).encode())


class Publisher:
    """Draws a run's trials.

    Args:
        run: path or URI. config: the sweep's wandb section. mode: online or offline.
        start: makes a wandb run; `wandb.init` unless a test says otherwise.
        let_go: ends all that a failed start left; `wandb.teardown` unless a test says otherwise.
        pause: waits; `time.sleep` unless a test says otherwise.

    Raises:
        StoreError: there is no run, or wandb has no folder for its files.
    """

    def __init__(
        self, run: str, config: WandbConfig, mode: Mode, *, start: Callable[..., Drawn] = wandb.init,
        let_go: Callable[[], object] = wandb.teardown, pause: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._run, self._config, self.mode = run, config, mode
        self._start, self._let_go, self._pause = start, let_go, pause
        try:
            self._folder = own_folder(run)
        except OSError as error:
            message = f"{error.filename or run}: must be a folder that wandb can write, but {error.strerror or error}"
            raise StoreError(f"{message}; mend or remove it") from error
        self.store = open_store(run)
        self.log = RunLog.open(self.store)
        self.position = Position.read(self.store)
        self._open: dict[int, Drawn] = {}

    @property
    def state(self) -> RunState:
        """The run as far as it was read."""
        return self.log.state

    def catch_up(self) -> int:
        """Draw what was recorded since.

        Returns:
            How many evaluations were drawn.
        """
        if self.store.last_seq() != self.state.seq:
            # Reading is the dear part, of a log that has grown for days.
            self.log.refresh()
        drawn = 0
        for trial in self.state.trials.values():
            if trial.number in self.position.finished and self._went_on(trial):
                self.position.finished.discard(trial.number)
            if trial.number not in self.position.finished:
                drawn += self._draw(trial)
        if drawn:
            self.position.write(self.store)
        return drawn

    def _went_on(self, trial: TrialRecord) -> bool:
        """Whether a trial whose end was drawn was started again since."""
        last = self.position.steps.get(trial.number, -1)
        return not trial.ended or (bool(trial.evaluations) and trial.step > last)

    def _draw(self, trial: TrialRecord) -> int:
        last = self.position.steps.get(trial.number, -1)
        rows = [row for row in sorted(trial.evaluations, key=lambda r: r.step) if row.step > last]
        if rows or trial.ended:
            shown = self._opened(trial)
            for row in rows:
                values = {name: value for name, value in row.record.items() if value is not None}
                shown.log(values | {"time_s": row.time_s}, step=row.step)
                self.position.steps[trial.number] = row.step
            if trial.ended:
                self._end(trial, shown)
        return len(rows)

    def _end(self, trial: TrialRecord, shown: Drawn) -> None:
        ending = {
            "state": str(trial.state), "stop_reason": trial.stop_reason, "best.objective": trial.best_value,
            "best.step": trial.best_step,
        }  # fmt: skip
        shown.summary.update({k: v for k, v in ending.items() if v is not None})
        shown.finish(exit_code=0 if trial.state != "FAILED" else 1)
        self._open.pop(trial.number, None)
        self.position.finished.add(trial.number)
        self.position.write(self.store)

    def _opened(self, trial: TrialRecord) -> Drawn:
        """The trial's wandb run; after several tries without an answer, the rest of the run is kept offline."""
        if trial.number in self._open:
            return self._open[trial.number]
        for attempt in range(ATTEMPTS):
            try:
                made = self._init(trial)
            except Exception as error:  # wandb raises many kinds; none of them may end the search
                if attempt == ATTEMPTS - 1:
                    raise
                # Its service takes the id of a run that could not start for one in use, for as long as it lives.
                self._open.clear()
                self._let_go()
                _say(f"wandb: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
                refused = type(error).__name__ in _REFUSED or re.search(r"\b401\b", str(error)) is not None
                if self.mode == "online" and (refused or attempt == ATTEMPTS - 2):
                    what = "does not take the key" if refused else "cannot be reached"
                    _say(
                        f"{NOTICE}wandb {what}: this run is kept offline; `thresher wandb-sync` sends it later"
                    )
                    self.mode = "offline"
                self._pause(FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.0))
            else:
                self._open[trial.number] = made
                return made
        raise AssertionError("unreachable")

    def _init(self, trial: TrialRecord) -> Drawn:
        name, run_id = self.state.run["name"], self.state.run["run_id"]
        settings = wandb.Settings(
            init_timeout=INIT_TIMEOUT_S, finish_timeout=FINISH_TIMEOUT_S, console="off", silent=True, disable_git=True,
            disable_code=True,
        )  # fmt: skip
        return self._start(
            project=self._config.project, entity=self._config.entity, group=name, name=f"{name}-{trial.number}",
            id=f"{run_id}-{trial.number}", resume="allow", mode=self.mode, dir=str(self._folder), reinit="create_new",
            config={**trial.params, "trial": trial.number, "source": trial.source, "generation": trial.generation},
            settings=settings,
        )  # fmt: skip

    def close(self) -> None:
        """Finish the runs that are still open, without their trials having ended."""
        for shown in self._open.values():
            shown.finish()
        self._open.clear()
        self.position.write(self.store)


def publish(run: str, config: WandbConfig, mode: Mode, **seams: Any) -> tuple[int, int]:
    """Draw a run once, from where the last publisher left off.

    Returns:
        (trials drawn or gone on with, evaluations drawn).
    """
    publisher = Publisher(run, config, mode, **seams)
    before = dict(publisher.position.steps)
    drawn = publisher.catch_up()
    publisher.close()
    changed = [n for n, step in publisher.position.steps.items() if before.get(n) != step]
    return len(changed), drawn


def follow(run: str, config: WandbConfig, mode: Mode, parent: int) -> None:
    """Draw a run until it is closed or its driver is gone, and what is left for a while after that."""
    publisher = Publisher(run, config, mode)
    sitting = publisher.state.seq
    deadline: float | None = None
    while deadline is None or time.monotonic() < deadline:
        drawn = publisher.catch_up()
        over = (publisher.state.closed is not None and publisher.state.seq > sitting) or not _alive(parent)
        if over and not drawn:
            break
        if over and deadline is None:
            deadline = time.monotonic() + LINGER_S
        time.sleep(0 if over else POLL_S)
    publisher.close()


def _say(line: str) -> None:
    print(line, flush=True)


def _alive(pid: int) -> bool:
    # On Windows a process keeps its parent's number when that is gone.
    return os.getppid() == pid and pid_alive(pid)


def main() -> int:
    """Follow one run; every failure ends in the publisher's own log."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run")
    parser.add_argument("--config", required=True)
    parser.add_argument("--mode", required=True, choices=["online", "offline"])
    given = parser.parse_args()
    follow(given.run, WandbConfig.model_validate_json(given.config), given.mode, os.getppid())
    return 0


if __name__ == "__main__":
    sys.exit(main())
