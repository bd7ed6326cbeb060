"""A trial's side of the flags: an answer that is cheap at every step, and a watch over a training that hangs."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from trainable.watchdog import HUNG_EXIT

ORPHANED = "orphaned"
_ASK_EVERY_S = 1.0
_ASK_TIMEOUT_S = 10.0
_C_MARGIN_S = 30.0
_STDERR = 2


class StopQuestion:
    """Answers "should I stop?" from memory, and asks the driver once a second in a thread.

    A training that makes no step for `limit_s` seconds (it calls this at every step) is taken to hang: its stacks
    go to the log, its last words to the driver, and the process ends. Where even that thread is stuck, because some
    C code holds the interpreter, the interpreter's own watchdog does the same a little later.

    Args:
        flags: handle of the run's flags.
        trial: our number. attempt: which start of it.
        limit_s: longest time between two steps. start_limit_s: the same before the first step, which may have to
            download weights or wait for a cache to be built.

    Attributes:
        before_end: called before the process ends itself.
    """

    def __init__(
        self,
        flags: Any,
        trial: int,
        attempt: int,
        *,
        limit_s: float,
        start_limit_s: float,
    ) -> None:
        self._flags, self._trial, self._attempt = flags, trial, attempt
        self._limit_s, self._start_limit_s = limit_s, max(start_limit_s, limit_s)
        self.before_end: Callable[[], None] | None = None
        self._reason: str | None = None
        self._beats = 0
        self._moved_at = time.monotonic()
        self._excused = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="flags", daemon=True)

    def __call__(self) -> str | None:
        """Why to leave, or None."""
        self.beat()
        return self._reason

    def beat(self) -> None:
        """Notes that the training moves."""
        self._beats += 1
        self._moved_at = time.monotonic()

    def refresh(self) -> None:
        """Asks the driver now; after a report, so that a decision reaches the trial before its next step."""
        self.beat()
        self._ask()

    @contextmanager
    def excused(self) -> Iterator[None]:
        """While the block runs, standing still is not the training's fault: it waits for the driver."""
        self._excused = True
        try:
            yield
        finally:
            self._excused = False
            self.beat()

    def start(self) -> None:
        """Begins to watch."""
        self._arm()
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * _ASK_EVERY_S)
        faulthandler.cancel_dump_traceback_later()

    @property
    def reason(self) -> str | None:
        """Why to leave, or None; asking does not count as a step."""
        return self._reason

    @property
    def steps(self) -> int:
        """How often the training has moved in this attempt."""
        return self._beats

    @property
    def limit_now_s(self) -> float:
        """How long the training may now stand still: more before its first step."""
        return self._limit_s if self._beats > 1 else self._start_limit_s

    def _ask(self) -> None:
        try:
            reason = ray.get(
                self._flags.ask.remote(self._trial, self._attempt, self._beats, self.limit_now_s),
                timeout=_ASK_TIMEOUT_S,
            )
        except GetTimeoutError:
            return  # A busy driver is no reason to leave; the next second asks again.
        except RayActorError:
            reason = ORPHANED
        self._reason = self._reason or reason

    def _arm(self) -> None:
        # Re-armed by every round of the thread: it fires only when that thread itself stands still.
        margin = self.limit_now_s + _C_MARGIN_S
        faulthandler.dump_traceback_later(margin, exit=True, file=_STDERR)

    def _watch(self) -> None:
        while not self._over.wait(_ASK_EVERY_S):
            if self._excused:
                self.beat()
            self._ask()
            still = time.monotonic() - self._moved_at
            if still > self.limit_now_s:
                self._give_up(still)
            if not self._over.is_set():
                self._arm()

    def _give_up(self, still: float) -> None:
        words = f"hung: no step or report for {still:.0f} s"
        os.write(_STDERR, f"{words}; stacks of all threads:\n".encode())
        faulthandler.dump_traceback(file=_STDERR, all_threads=True)
        try:
            ray.get(self._flags.leave_words.remote(self._trial, self._attempt, words), timeout=_ASK_TIMEOUT_S)
            if self.before_end is not None:
                self.before_end()
        finally:
            os._exit(HUNG_EXIT)
