"""What the driver makes of attempts that leave no word, of full disks and of secrets: without Ray."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from search import driver as drivers
from search.driver import Driver
from search.failure import Failure
from search.patient_log import PatientLog
from search.records import TrialState
from search.slots import Slots
from search.store import open_store
from tests.support.runs import opened

SECRET = "canary-0123456789abcdef"


class Answers:
    """The flags: every method of the actor answers None."""

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *given: None)


class Room:
    """A driver of a run with one trial, whose attempts a test lets die.

    Attributes:
        said: lines for the user. now: monotonic seconds.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, uri: str = "memory://driver") -> None:
        self.said: list[str] = []
        self.now = 1000.0
        monkeypatch.setattr(drivers, "ray", SimpleNamespace(get=lambda answer, timeout=None: answer))
        monkeypatch.setattr(drivers, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.log = PatientLog.create(open_store(uri), heartbeat=False, **opened())
        self.log.append("asked", trial=0, source="sampled", params={}, coords={"x": 0.5}, config={})
        self.driver = Driver(
            self.log, Answers(), Slots(1, 0.0, 1, 1), retries=2, total=1, say=self.said.append,
        )  # fmt: skip

    def started(self) -> None:
        attempt = self.log.state.trials[0].attempts + 1
        self.log.append("started", trial=0, attempt=attempt, node="elsewhere")

    def dies(self, error_file: str | None = None) -> None:
        """As Tune tells it: with the number that the next attempt was given when it was suggested."""
        trial = self.log.state.trials[0]
        attempt = trial.attempts + (trial.state is not TrialState.RUNNING)
        config = {"trial": 0, "attempt": attempt}
        self.driver.settle_death(cast(Any, SimpleNamespace(config=config, error_file=error_file)))


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Room:
    return Room(monkeypatch, f"memory://{request.node.name}")


def test_attempts_that_die_before_their_first_word_are_counted_and_end(room: Room) -> None:
    for _ in range(3):
        room.dies()
    trial = room.log.state.trials[0]
    assert (trial.state, trial.stop_reason, trial.attempts) == (TrialState.FAILED, "worker_died", 3)
    assert trial.failures == ["worker_died"] * 2


def test_an_attempt_after_one_that_never_began_is_recorded_as_any_other(room: Room) -> None:
    room.dies()
    room.started()
    room.dies()
    trial = room.log.state.trials[0]
    assert (trial.state, trial.attempts, len(trial.failures)) == (TrialState.PAUSED, 2, 2)
    room.driver.check()


def test_a_disk_that_is_not_the_runs_is_not_run_into_again_and_again(room: Room) -> None:
    assert not room.driver.on_hold()
    room.started()
    failure = Failure("disk_full", "No space left on device: '/tmp'", "OSError").to_json()
    message = {"kind": "failed", "trial": 0, "attempt": 1}
    payload = {"failure": failure, "log": "", "peak_memory_mb": None}
    room.driver.settle({**message, "payload": json.dumps(payload)})
    assert room.driver.on_hold()
    room.now += 29.0
    assert room.driver.on_hold()
    room.now += 2.0
    assert not room.driver.on_hold() and not room.driver.on_hold()


def test_what_ray_says_of_a_death_holds_no_secret(
    room: Room, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", SECRET)
    (tmp_path / "error.txt").write_text(
        f"Traceback (most recent call last):\n  x\nOSError: no {SECRET} here\n"
    )
    room.dies(str(tmp_path / "error.txt"))
    trial = room.log.state.trials[0]
    assert trial.state is TrialState.FAILED and "could not run: OSError: no *** here" in str(trial.error)
    assert SECRET not in str(trial.error) and SECRET not in "".join(room.said)
