"""A lock file, so that one process of a machine builds what all of them use."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trainable.processes import pid_alive

STALE_S = 120.0
"""A holder on another machine that has not said "still here" for so long is taken to be gone."""

_POLL_S = 0.1


class BuildLock:
    """A held lock.

    Args:
        path: the lock file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def still_here(self) -> None:
        """Say so; to be called more often than every `STALE_S` while working."""
        try:
            os.utime(self.path)
        except OSError:
            # Another process took the lock for abandoned. Both then build the same bytes under names of their own.
            return


@contextmanager
def build_lock(path: Path, ready: Callable[[], bool]) -> Iterator[BuildLock | None]:
    """Hold a lock file while the block runs, or wait until another holder has done the work.

    The lock saves work and is not what keeps the result whole: results are written under names of their own and
    renamed, so that two builders after a wrong takeover do no harm.

    Args:
        path: the lock file, in a folder that exists.
        ready: whether the work has been done by someone else; asked while waiting.

    Yields:
        The lock, or None once `ready`.
    """
    while not _created(path):
        if ready():
            yield None
            return
        if _abandoned(path):
            path.unlink(missing_ok=True)
        else:
            time.sleep(_POLL_S)
    try:
        yield BuildLock(path)
    finally:
        path.unlink(missing_ok=True)


def _created(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    except PermissionError:
        # Windows says so while another process is removing the file.
        if path.exists():
            return False
        raise
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
    return True


def _abandoned(path: Path) -> bool:
    try:
        quiet_s = time.time() - path.stat().st_mtime
        holder = json.loads(path.read_text(encoding="utf-8"))
        here = holder["host"] == socket.gethostname()
        return (here and not pid_alive(int(holder["pid"]))) or quiet_s > STALE_S
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        # Being written just now, or its writer died on the first line.
        return _quiet_s(path) > STALE_S


def _quiet_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
