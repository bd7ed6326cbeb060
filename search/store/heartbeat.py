"""The thread that keeps a lease alive and sends what waits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from trainable.errors import LeaseLostError, StoreError

TICK_S = 0.5

_log = logging.getLogger(__name__)


class Heartbeat:
    """Calls a function every half second until stopped; its trouble is logged, never raised.

    Args:
        tick: what to call. When it raises LeaseLostError the thread ends: appends will say the same.
    """

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="thresher-lease", daemon=True)

    def start(self) -> None:
        """Starts the thread; it does not keep the process alive."""
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to end, without waiting: it may be waiting for the caller's lock."""
        self._stop.set()

    def _run(self) -> None:
        quiet = False
        while not self._stop.wait(TICK_S):
            try:
                self._tick()
                quiet = False
            except LeaseLostError as error:
                _log.error("%s", error)
                return
            except (StoreError, OSError) as error:
                if not quiet:
                    _log.warning("the run's storage cannot be reached, trying again: %s", error)
                quiet = True
