"""Named places where a crash is interesting: at every write, fsync, rename and put of what must survive one.

A place calls `fault_point("events.fsync")` just before it acts. Nothing happens unless that name is armed: by
`THRESHER_FAULT=name[:n]` in the environment, which ends the process at the n-th call as a kill would, without
flushing or cleaning up; or by `armed` in a test, which may do anything, such as raise the error of a full disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FAULT_POINTS: list[str] = []
"""The names of all places in the modules that have been imported."""

KILLED = 137
"""Exit status of a process that a fault point ended: what a shell reports after SIGKILL."""


class _Armed:
    def __init__(self, name: str, nth: int, action: Callable[[], None]) -> None:
        self.name, self.left, self.action = name, nth, action


_armed: _Armed | None = None


def declare(*names: str) -> None:
    """Makes places known; called where a module is imported.

    Args:
        names: dotted, `what.act`: what is written, and what is about to be done to it.
    """
    for name in names:
        if name not in FAULT_POINTS:
            FAULT_POINTS.append(name)


def fault_point(name: str) -> None:
    """Does nothing, unless this place is armed."""
    if _armed is not None and _armed.name == name:
        _hit(_armed)


def _hit(armed_now: _Armed) -> None:
    armed_now.left -= 1
    if armed_now.left == 0:
        armed_now.action()


@contextmanager
def armed(name: str, action: Callable[[], None], nth: int = 1) -> Iterator[None]:
    """Arms one place while the block runs.

    Args:
        name: the place.
        action: what happens there; most often it raises.
        nth: at which call it happens, from 1; once.

    >>> def full():
    ...     raise OSError(28, "No space left on device")
    >>> declare("demo.write")
    >>> with armed("demo.write", full, nth=2):
    ...     fault_point("demo.write")
    ...     try:
    ...         fault_point("demo.write")
    ...     except OSError as error:
    ...         print(error.errno)
    28
    """
    global _armed
    if name not in FAULT_POINTS:
        raise ValueError(f"fault point must be one of {FAULT_POINTS}, but got {name=}")
    before, _armed = _armed, _Armed(name, nth, action)
    try:
        yield
    finally:
        _armed = before


def _end_process() -> None:
    os._exit(KILLED)


def _from_environment(wanted: str | None) -> _Armed | None:
    if not wanted:
        return None
    name, _, nth = wanted.partition(":")
    return _Armed(name, int(nth or 1), _end_process)


_armed = _from_environment(os.environ.get("THRESHER_FAULT"))
