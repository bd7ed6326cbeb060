"""What asks a run to end, gathered in one place: signals, the stop file, the clock, and the search itself.

Everything here only raises flags. Trials leave by themselves; one that has not left in time is handed to `kill`.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from trainable.errors import StoreError

STOP_FILE = "control/stop"
LEAVE_WITHIN_S = 60.0
NOTICE_VARIABLE, NOTICE_S, NOTICE_SHARE = "THRESHER_NOTICE_S", 30.0, 0.7
"""Seconds from SIGTERM to the end of the machine, and the share of them in which trials have to leave."""
_TICK_S = 0.2
_FILE_EVERY_S = 2.0
_NOW_WITHIN_S = 8.0
_LOOK_EVERY_S = 5.0
_SAME_S = 0.3
"""A second signal within this time is the same key press, passed on by whatever started us."""
_SIGNALS = {"SIGINT": "interrupt", "SIGBREAK": "interrupt", "SIGTERM": "sigterm", "SIGHUP": "sigterm"}
EXIT_CODES = {"interrupt": 130, "sigterm": 143, "failing_rung": 3}
"""Exit code of a run that ended for this reason, whatever its trials came to."""


class StopNow(BaseException):
    """The user asked twice: no waiting for trials. Not an `Exception`, so that nothing on the way swallows it.

    It is raised at the next step of the search, never in the middle of a write or of a call of Ray.
    """


class StopFiles(Protocol):
    """The part of a store that the stop file needs."""

    def exists(self, name: str) -> bool:
        """Tells whether a file is there."""

    def read_bytes(self, name: str) -> bytes:
        """Reads a file."""

    def delete(self, name: str) -> None:
        """Removes a file."""


def forget_stop(files: StopFiles) -> None:
    """Takes away what an earlier owner of the run was asked and did not live to read; called by the next one."""
    with contextlib.suppress(StoreError):
        files.delete(STOP_FILE)


class Control:
    """Why the run, or one of its trials, is to end.

    Args:
        files: where the stop file may appear.
        raise_flag: tells trials; called with a trial's number and a reason, or None for all of them.
        kill: ends a trial's process; called for one that has not left in time.
        running: numbers of the trials that now run.
        say: a line for the user.
        look: called every few seconds, for whatever else must be watched.
        max_hours: hours after which the run ends.
        clock: monotonic seconds.
        end_process: called when the user asked to end at once and the search did not get to its next step.
    """

    def __init__(
        self,
        files: StopFiles,
        *,
        raise_flag: Callable[[int | None, str], None],
        kill: Callable[[int], None],
        running: Callable[[], set[int]],
        say: Callable[[str], None],
        look: Callable[[], None] = lambda: None,
        max_hours: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._end_process, self._look = end_process, look
        self._files, self._raise_flag, self._kill, self._running = files, raise_flag, kill, running
        self._say, self._clock = say, clock
        self._ends_at = None if max_hours is None else clock() + 3600 * max_hours
        self._signals: list[str] = []
        self._signal_at: dict[str, float] = {}
        self._now_at: float | None = None
        self._killed: set[int] = set()
        self._asked: dict[int, tuple[str, float]] = {}
        self._reason: str | None = None
        self._deadline: float | None = None
        self._file_at = self._look_at = clock()
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="control", daemon=True)

    @property
    def reason(self) -> str | None:
        """Why the run is to end: interrupt, sigterm, stop, max_hours, failing_rung; None while it goes on."""
        return self._reason or (self._signals[0] if self._signals else None)

    @property
    def now(self) -> bool:
        """Whether the run is to end without waiting for trials."""
        return self._now_at is not None

    def asked_of(self, trial: int) -> str | None:
        """Why this trial alone was told to leave."""
        found = self._asked.get(trial)
        return found[0] if found else None

    def stop_run(self, reason: str, words: str) -> None:
        """Tells every trial to write its checkpoint and leave; the first reason stands."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            # On a notice, what has not left shortly before its end is killed, so that the end can be written.
            within = NOTICE_SHARE * notice_s(self._say) if reason == "sigterm" else LEAVE_WITHIN_S
            self._deadline = self._clock() + within
        self._say(words)
        self._raise_flag(None, reason)

    def stop_trial(self, trial: int, reason: str) -> None:
        """Tells one trial to leave; returns when the flag is up."""
        with self._lock:
            self._asked.setdefault(trial, (reason, self._clock() + LEAVE_WITHIN_S))
        self._raise_flag(trial, reason)

    def left(self, trial: int) -> None:
        """A trial's process is gone: what was asked of it is over."""
        with self._lock:
            self._asked.pop(trial, None)
            self._killed.discard(trial)

    def tick(self) -> None:
        """Looks at everything once; called by the thread, and by tests."""
        now = self._clock()
        if self._now_at is not None and now > self._now_at + _NOW_WITHIN_S:
            self._end_process(EXIT_CODES[self._signals[0]])
        if self._signals and self._reason is None:
            self.stop_run(self._signals[0], _WORDS[self._signals[0]])
        if self._ends_at is not None and now >= self._ends_at:
            self.stop_run("max_hours", "max_hours is over: trials write their checkpoints and pause")
        if now - self._file_at >= _FILE_EVERY_S:
            self._file_at = now
            self._read_file()
            self._raise_again()
        self._press(now)
        if now - self._look_at >= _LOOK_EVERY_S:
            self._look_at = now
            self._look()

    def start(self) -> None:
        """Begins to look, five times a second."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the looking."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Takes over Ctrl+C, SIGTERM and a hang-up while the block runs; only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {}
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            # Under nohup a hang-up is ignored, and stays so.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # No lock and no call of Ray here: the main thread may be in the middle of either.
        now, name = self._clock(), _SIGNALS[signal.Signals(number).name]
        before = self._signal_at.get(name)
        self._signal_at.setdefault(name, now)
        if before is None:
            self._signals.append(name)
        elif now - before > _SAME_S and self._now_at is None:
            self._now_at = now

    def _watch(self) -> None:
        while not self._over.wait(_TICK_S):
            try:
                self.tick()
            except Exception as error:  # The watch must outlive whatever a flag or a file runs into.
                self._say(f"control: {type(error).__name__}: {error}; tried again")

    def _read_file(self) -> None:
        try:
            if not self._files.exists(STOP_FILE):
                return
            text = self._files.read_bytes(STOP_FILE).decode("utf-8", "replace")
            self._files.delete(STOP_FILE)
        except (StoreError, OSError):
            return  # It is there, or the storage is back, at the next look.
        lines = [line.strip() for line in text.splitlines() if line.strip()] or ["stop"]
        for line in lines:
            match = re.fullmatch(r"trial\s+(\d+)", line)
            if match is None:
                self.stop_run(
                    "stop", f"stop was asked for ({line}): trials write their checkpoints and pause"
                )
            elif int(match[1]) in self._running():
                self._say(f"trial {match[1]} was asked to stop")
                self.stop_trial(int(match[1]), "stop")
            else:
                self._say(f"trial {match[1]} was asked to stop, but does not run; nothing to do")

    def _raise_again(self) -> None:
        """The actor that holds the flags may have been restarted, and then knows of none."""
        with self._lock:
            flags: list[tuple[int | None, str]] = [(trial, found[0]) for trial, found in self._asked.items()]
            if self._reason is not None:
                flags.append((None, self._reason))
        for trial, reason in flags:
            self._raise_flag(trial, reason)

    def _press(self, now: float) -> None:
        """Ends the processes of trials that should have left by now."""
        running = self._running()
        with self._lock:
            late = {trial for trial, (_, deadline) in self._asked.items() if now > deadline}
            if self._deadline is not None and now > self._deadline:
                late |= running
        for trial in (late & running) - self._killed:
            self._killed.add(trial)
            self._say(f"trial {trial} has not left in time: its process is ended; its last checkpoint stands")
            self._kill(trial)


def notice_s(say: Callable[[str], None] = print) -> float:
    """Seconds between SIGTERM and the end, as the environment says; 30 where it does not, or not in a number."""
    given = os.environ.get(NOTICE_VARIABLE, str(NOTICE_S))
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds) and seconds > 0:
        return seconds
    say(f"{NOTICE_VARIABLE} must be a number of seconds above 0, but got {given!r}; {NOTICE_S:g} are taken")
    return NOTICE_S


_WORDS = {
    "interrupt": "Ctrl+C: trials finish their step, write checkpoints and pause; press it again to end at once",
    "sigterm": "terminated: trials finish their step, write checkpoints and pause",
}
