"""Files that appear whole or not at all, whenever the process that writes them ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from trainable.faults import fault_point

TEMPORARY = ".tmp"


def write_atomic(
    path: Path, content: bytes, point: str, before_rename: Callable[[], None] | None = None
) -> None:
    """Replace a file whole: temporary name, fsync, rename, fsync of the folder.

    Args:
        path: the file. content: its new bytes. point: prefix of the fault points.
        before_rename: called once the new bytes are safe under the temporary name.

    Raises:
        OSError: the file is as it was, unless `before_rename` has moved it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            fault_point(f"{point}.write")
            file.write(content)
            file.flush()
            fault_point(f"{point}.fsync")
            os.fsync(file.fileno())
        if before_rename is not None:
            before_rename()
        fault_point(f"{point}.rename")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fault_point(f"{point}.dirsync")
    sync_folder(path.parent)


def remove_partial(directory: Path) -> list[str]:
    """Remove what processes that were killed left half-written in a run's folder.

    Args:
        directory: the folder; nobody else may be writing in it.

    Returns:
        A line for the log about each file.
    """
    notes = []
    for stray in sorted(directory.rglob(f".*{TEMPORARY}")):
        size = stray.stat().st_size
        stray.unlink(missing_ok=True)
        notes.append(f"{stray}: removed, half-written ({size} bytes) by a process that ended")
    return notes


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
