"""Time, handed in, so that a test can make it jump."""

from __future__ import annotations

import time


class Clock:
    """The two clocks that a store reads.

    Wall-clock time is only ever shown, or compared with what another machine wrote; every duration is measured on
    the monotonic clock, which does not jump.
    """

    def wall(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment, never backward."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)
