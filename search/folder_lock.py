"""One process at a time in a trial's folder.

A driver that is killed leaves its trials running for a moment. The lock keeps the next attempt out of the folder
until the old process is gone: the system itself gives the lock back when a process ends, however it ends.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from search.failure import FolderInUse

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[str]) -> None:
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(file: IO[str]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


class FolderLock:
    """Holds a folder until it is left or the process ends.

    Args:
        directory: the folder; made when missing.
        wait_s: how long to wait for the one who holds it.

    Raises:
        FolderInUse: somebody else still holds it after that time.
    """

    NAME = ".lock"

    def __init__(self, directory: Path, wait_s: float = 60.0) -> None:
        self.path = directory / self.NAME
        self._wait_s = wait_s
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        end = time.monotonic() + self._wait_s
        file = self._opened()
        while True:
            try:
                _try_lock(file)
                if self._is_there(file):
                    break
                # Whoever tidied up removed the folder between our opening the file and locking it.
                file.close()
                file = self._opened()
            except OSError:
                if time.monotonic() >= end:
                    file.seek(0)
                    holder = file.read(300).strip() or "unknown"
                    file.close()
                    raise FolderInUse(
                        f"{self.path.parent}: must belong to one process, but {holder} still holds it after "
                        f"{self._wait_s:g} s; end that process, then resume"
                    ) from None
                time.sleep(0.1)
        file.seek(0)
        file.truncate()
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        file.flush()
        self._file = file
        return self

    def _opened(self) -> IO[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.open("a+", encoding="utf-8")

    def _is_there(self, file: IO[str]) -> bool:
        """Whether the file that was locked is still the one that others would lock."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
