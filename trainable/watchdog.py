"""The end of a process that stands still: its stacks go to a log, whatever its threads are stuck in."""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Callable
from typing import IO

HUNG_EXIT = 70
_MARGIN_S = 30.0


class Watchdog:
    """Looks once in a while whether this process is to go on, in a thread of its own.

    Where even that thread stands still, because some C code holds the interpreter, the interpreter's own watchdog
    does the same a little later.

    Args:
        look: whether the process is to end; raises `EOFError` where nobody is left to ask.
        log: open file that the stacks are written to.
        every_s: seconds between looks. limit_s: how long the process may stand still.
        leave: ends the process.
    """

    def __init__(
        self, look: Callable[[], bool], log: IO[bytes], *, every_s: float, limit_s: float,
        leave: Callable[[int], object] = os._exit,
    ) -> None:  # fmt: skip
        self._look, self._log, self._every_s, self._limit_s, self._leave = look, log, every_s, limit_s, leave
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> None:
        self._arm()
        self._thread.start()

    def __exit__(self, *ending: object) -> None:
        self._over.set()
        self._thread.join(timeout=self._every_s)
        faulthandler.cancel_dump_traceback_later()

    def _arm(self) -> None:
        # Re-armed by every round of the thread: it fires only when that thread itself stands still.
        faulthandler.dump_traceback_later(self._limit_s + _MARGIN_S, exit=True, file=self._log)

    def _watch(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                hung = self._look()
            except EOFError:
                self._leave(HUNG_EXIT)
                return
            if hung:
                self._log.write(f"process {os.getpid()} stands still; stacks of all threads:\n".encode())
                self._log.flush()
                faulthandler.dump_traceback(file=self._log, all_threads=True)
                self._leave(HUNG_EXIT)
                return
            if not self._over.is_set():
                self._arm()
