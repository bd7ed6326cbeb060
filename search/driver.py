"""The driver: what happens between Tune's hooks and the log.

Everything that a trial says, and its silence when it dies, becomes an event here before anybody acts on it. Tune's
own trials are throw-away: one is one attempt, and a trial that goes on is suggested again under a new one.
"""

from __future__ import annotations

import math
import platform
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.tune.experiment import Trial

from search import messages
from search.control import Control, StopNow
from search.failure import Failure, died, memory_kills, redacted, tail
from search.flags import EVERY_TRIAL, give_back
from search.patient_log import PatientLog
from search.records import TrialRecord, TrialState
from search.slots import Slots
from search.trial import LOG_NAME
from search.verdicts import Ending, common_cause, of_failure, of_outcome
from trainable.errors import StoreError

HUNG_MARGIN_S = 60.0
_ACTOR_TIMEOUT_S = 60.0
_SAY_HOLD_EVERY_S = 60.0
_LEAST_ROOM = 2**20
_REST_S = 30.0
"""How long nothing begins after a full disk where the run's own has room: another one is full, and may stay so."""


class Driver:
    """Keeps a run's log while Tune runs its trials.

    Args:
        log: the run.
        flags: handle of the actor that trials ask.
        slots: what a trial holds.
        retries: how often a trial is started again after failures.
        total: trials asked for.
        say: a line for the user.

    Attributes:
        control: set once it exists; see `Control`.
        error: the first exception of a hook that Tune would have swallowed.
    """

    def __init__(
        self,
        log: PatientLog,
        flags: Any,
        slots: Slots,
        *,
        retries: int,
        total: int,
        say: Callable[[str], None],
    ) -> None:
        self.log, self.slots, self.total = log, slots, total
        self.control: Control | None = None
        self.error: BaseException | None = None
        self._room_needed: int | None = None
        self._seen_full, self._rests_until = False, 0.0
        self._said_hold_at = -_SAY_HOLD_EVERY_S
        self._flags, self._retries, self._say = flags, retries, say
        self._live: dict[int, Trial] = {}
        self._endings: list[tuple[TrialState, str | None]] = []
        self._settled: set[tuple[int, int]] = set()
        self._memory_kills: dict[int, int] = {}
        self._lock = threading.RLock()

    # ---- what Tune's trials are to us ----

    @property
    def live(self) -> set[int]:
        """Numbers of the trials that Tune has an attempt of."""
        with self._lock:
            return set(self._live)

    def running(self) -> set[int]:
        """Numbers of the trials whose process runs."""
        with self._lock:
            return {n for n, trial in self._live.items() if trial.temporary_state.ray_actor is not None}

    def added(self, tune_trial: Trial) -> None:
        """Tune has taken up an attempt."""
        with self._lock:
            self._live[number_of(tune_trial)] = tune_trial

    def removed(self, tune_trial: Trial) -> None:
        """Tune has let an attempt go."""
        number = number_of(tune_trial)
        with self._lock:
            if self._live.get(number) is tune_trial:
                del self._live[number]
        if self.control is not None:
            self.control.left(number)
        if self.slots.workers > 1:
            give_back(ray.get(self._flags.held.remote(number), timeout=_ACTOR_TIMEOUT_S) or "")
        self._tell_flags("forget", number)

    def kill(self, number: int) -> None:
        """Ends a trial's process; its death comes back as any other."""
        with self._lock:
            trial = self._live.get(number)
        actor = None if trial is None else trial.temporary_state.ray_actor
        if actor is not None:
            ray.kill(actor)

    def kill_all(self) -> None:
        """Ends every trial's process and records it as paused; nobody waits for Tune any more."""
        for number in self.running():
            self.kill(number)
        for number, record in list(self.log.state.trials.items()):
            if record.state is TrialState.RUNNING:
                reason = self._run_reason()
                self.log.append(
                    "paused", trial=number, attempt=record.attempts, step=record.step, reason=reason
                )

    def kill_hung(self) -> None:
        """Ends processes that stand still so hard that not even their own watch could end them."""
        for number in ray.get(self._flags.silent.remote(HUNG_MARGIN_S), timeout=_ACTOR_TIMEOUT_S):
            record = self.log.state.trials.get(number)
            if record is not None and number in self.running():
                words = "hung: it neither moved nor answered"
                self._tell_flags("leave_words", number, record.attempts, words)
                self.kill(number)

    def raise_flag(self, number: int | None, reason: str) -> None:
        """Tells one trial, or all, to leave; returns when the flag is up."""
        self._tell_flags("raise_flag", EVERY_TRIAL if number is None else number, reason)

    # ---- what trials say ----

    def started(self, message: Mapping[str, Any]) -> None:
        """An attempt's first word."""
        found = messages.payload_of(message)
        if found["node"] == platform.node():
            self._memory_kills[int(message["trial"])] = memory_kills()
        self.log.append(
            "started", trial=int(message["trial"]), attempt=int(message["attempt"]), node=found["node"],
            pid=found["pid"], device=found["device"],
        )  # fmt: skip

    def settle(self, message: Mapping[str, Any]) -> None:
        """An attempt's last word: it is recorded how it left."""
        number, attempt = int(message["trial"]), int(message["attempt"])
        found = messages.payload_of(message)
        record = self.log.state.trials[number]
        if message["kind"] == messages.LEFT:
            found = {"state": "PAUSED", "stop_reason": found["reason"], "step": record.step}
        if message["kind"] == messages.FAILED:
            failure = Failure.from_json(found["failure"])
            self._record(self._failed(record, attempt, failure, found["log"], found["peak_memory_mb"]))
            return
        self._record(
            of_outcome(record, attempt, found, asked=self._asked(number), run_reason=self._run_reason())
        )

    def settle_death(self, tune_trial: Trial) -> None:
        """A process is gone without a last word."""
        number, attempt = number_of(tune_trial), int(tune_trial.config["attempt"])
        record = self.log.state.trials[number]
        if (number, attempt) in self._settled:
            return  # It had said its last word; only the way out of the process went wrong.
        known = self._memory_kills.pop(number, None)
        memory_kill = known is not None and memory_kills() > known
        failure = died(redacted(_what_ray_says(tune_trial)), self._last_words(number, attempt), memory_kill)
        self._record(self._failed(record, attempt, failure, self._log_tail(number), None))

    def _failed(
        self, record: TrialRecord, attempt: int, failure: Failure, log: str, peak_memory_mb: float | None
    ) -> Ending:
        ending = of_failure(
            record, attempt, failure, log, retries=self._retries, asked=self._asked(record.number),
            run_reason=self._run_reason(), peak_memory_mb=peak_memory_mb, gpus=self.slots.trial_gpus,
        )  # fmt: skip
        if failure.kind == "disk_full":
            self._room_needed = self._largest_file(record.number) * 2
            self._seen_full, self._rests_until = False, time.monotonic() + _REST_S
        if ending.event == "paused" or ending.payload["state"] == "FAILED":
            self._say(f"trial {record.number}: {failure.message.splitlines()[0]} - {ending.words}")
        return ending

    def _record(self, ending: Ending) -> None:
        self.log.append(ending.event, **ending.payload)
        self._settled.add((ending.payload["trial"], ending.payload["attempt"]))
        if ending.event != "ended":
            return
        self._endings.append((TrialState(ending.payload["state"]), ending.cause))
        cause = common_cause(self._endings, self.slots.concurrent, self.total)
        if cause is not None and self.control is not None:
            self.control.stop_run(
                "failing_rung", f"every trial fails of the same cause, so the search stops: {cause}"
            )

    def on_hold(self) -> bool:
        """Whether no attempt may begin: a trial could not write its checkpoint, and there still is no room."""
        if self._room_needed is None:
            return False
        path, now = self.log.store.path, time.monotonic()
        free = math.inf if path is None else shutil.disk_usage(path).free
        if free >= self._room_needed:
            if not self._seen_full and now < self._rests_until:
                return True
            self._room_needed = None
            self._say("there is room again: trials go on" if self._seen_full else "trials go on, to see if it fits")
            return False
        self._seen_full = True
        if now - self._said_hold_at >= _SAY_HOLD_EVERY_S:
            self._said_hold_at = now
            self._say(
                f"paused: {path} must have {self._room_needed / 2**20:.1f} MB free for a checkpoint, but has "
                f"{free / 2**20:.1f} MB; free some space, and trials go on"
            )
        return True

    # ---- small things ----

    def check(self) -> None:
        """What must hold at every step: each trial that the log takes to run has a process, or will be heard of."""
        lost = [
            n
            for n, t in self.log.state.trials.items()
            if t.state is TrialState.RUNNING and n not in self.live
        ]
        if lost:
            raise StoreError(f"trials {lost} run in the log but not in Ray; resume the run")

    def keep(self, error: BaseException) -> None:
        """Keeps an exception that Tune would swallow."""
        if self.error is None:
            self.error = error

    def raise_kept(self) -> None:
        """Raises what was kept, or that the user wants it to end at once."""
        if self.control is not None and self.control.now:
            raise StopNow
        if self.error is not None:
            raise self.error

    def _asked(self, number: int) -> str | None:
        return None if self.control is None else self.control.asked_of(number)

    def _run_reason(self) -> str | None:
        return None if self.control is None else self.control.reason

    def _tell_flags(self, method: str, *args: Any) -> None:
        ray.get(getattr(self._flags, method).remote(*args), timeout=_ACTOR_TIMEOUT_S)

    def _last_words(self, number: int, attempt: int) -> str | None:
        try:
            found = ray.get(self._flags.last_words.remote(number, attempt), timeout=_ACTOR_TIMEOUT_S)
        except RayError:
            return None
        return None if found is None else str(found)

    def _largest_file(self, number: int) -> int:
        path = self.log.store.path
        if path is None:
            return 0
        sizes = [f.stat().st_size for f in (path / "trials" / str(number)).rglob("*") if f.is_file()]
        return max([*sizes, _LEAST_ROOM])

    def _log_tail(self, number: int) -> str:
        try:
            return redacted(tail(self.log.store.read_bytes(f"trials/{number}/{LOG_NAME}")))
        except (FileNotFoundError, StoreError):
            return ""


def number_of(tune_trial: Trial) -> int:
    """Our number of the trial that one of Tune's is an attempt of."""
    return int(tune_trial.config["trial"])


def _what_ray_says(tune_trial: Trial) -> str:
    path = tune_trial.error_file
    if path is None or not Path(path).exists():
        return ""
    # The file holds one failure: every attempt is a Tune trial of its own.
    return Path(path).read_text(encoding="utf-8", errors="replace")[-4000:]
