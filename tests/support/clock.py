"""A clock that only moves when told."""

from __future__ import annotations

from search.store import Clock


class FakeClock(Clock):
    """Sleeping moves it; `jump` moves the wall clock alone, as a correction of the time does."""

    def __init__(self, wall: float = 1.8e9) -> None:
        self.now, self.offset = 0.0, wall
        self.slept: list[float] = []

    def wall(self) -> float:
        return self.offset + self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def jump(self, seconds: float) -> None:
        self.offset += seconds
