"""Small files on a local disk: whole or not there, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import sys
from pathlib import Path

from search.store.clock import Clock
from trainable.errors import StoreAwayError, StoreError, StoreFullError
from trainable.faults import declare, fault_point

TEMP_SUFFIX = ".tmp"
FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
PASSING = tuple(
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "ECONNRESET", "ENOTCONN", "EHOSTDOWN")
    if hasattr(errno, name)
)
"""Errors that a network mount gives for a while and then no more."""

_NO_LINKS = tuple(
    getattr(errno, name)
    for name in ("EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EINVAL")
    if hasattr(errno, name)
)
_RENAME_TRIES = 50

declare("file.write", "file.fsync", "file.rename", "file.dirsync")
declare("lease.write", "lease.fsync", "lease.rename", "lease.dirsync", "lease.link")


def sync_dir(folder: Path) -> None:
    """Makes the names in a folder last; a no-op where the system has no such call."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, data: bytes) -> None:
    """Writes all bytes, however many the system takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _write_temp(path: Path, data: bytes, kind: str) -> Path:
    temp = path.with_name(f".{path.name}.{os.getpid()}.{random.getrandbits(32):08x}{TEMP_SUFFIX}")
    handle = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
    try:
        fault_point(f"{kind}.write")
        write_all(handle, data)
        fault_point(f"{kind}.fsync")
        os.fsync(handle)
    except BaseException:
        os.close(handle)
        temp.unlink(missing_ok=True)
        raise
    os.close(handle)
    return temp


def write_atomic(path: Path, data: bytes, *, kind: str = "file", clock: Clock | None = None) -> None:
    """Puts `data` in place of a file: a reader sees the old bytes or the new, never a mixture.

    Args:
        path: the file.
        data: its new content.
        kind: first part of the names of its fault points.
        clock: for the waits while a reader holds the file open, which blocks a rename on Windows.

    Raises:
        OSError: the file is as it was.
    """
    temp = _write_temp(path, data, kind)
    try:
        fault_point(f"{kind}.rename")
        _replace(temp, path, clock or Clock())
    except BaseException:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
        raise
    fault_point(f"{kind}.dirsync")
    sync_dir(path.parent)


def _replace(temp: Path, path: Path, clock: Clock) -> None:
    for tries_left in reversed(range(_RENAME_TRIES)):
        try:
            os.replace(temp, path)
            return
        except PermissionError:
            if os.name != "nt" or tries_left == 0:
                raise
            clock.sleep(0.1)


def create_exclusive(path: Path, data: bytes) -> None:
    """Makes a file that must not exist yet, whole from the first moment where the disk has hard links.

    Raises:
        FileExistsError: somebody was first.
    """
    temp = _write_temp(path, data, "lease")
    try:
        fault_point("lease.link")
        try:
            os.link(temp, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
            try:
                write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
    finally:
        temp.unlink(missing_ok=True)
    fault_point("lease.dirsync")
    sync_dir(path.parent)


def explain(error: OSError, what: str) -> StoreError:
    """Says what an error of the disk means for the run, as the error to raise."""
    if error.errno in FULL:
        return StoreFullError(
            f"{what}: the storage must have room, but it is full; free some space, and it goes on "
            "(what was written before is whole)"
        )
    if error.errno == errno.EROFS:
        return StoreError(f"{what}: the storage must be writable, but it is read-only; mount it for writing")
    if isinstance(error, PermissionError):
        return StoreError(
            f"{what}: must be writable by this user, but access is denied; change its owner or mode"
        )
    kind = StoreAwayError if error.errno in PASSING else StoreError
    return kind(f"{what}: must be writable, but got {error.strerror or error} (errno {error.errno})")
