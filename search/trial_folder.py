"""The folder that a process trains a trial in: in the run where that is local, else a copy kept equal to it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search.failure import FolderInUse
from search.folder_lock import FolderLock
from search.mirror import Mirror
from search.store import Store
from trainable import strict_yaml

LOCK_WAIT_S = 60.0
SCRATCH = "thresher-scratch-"
"""Begins the name of the folder of copies, of which every user of a machine has one."""


@contextmanager
def trial_folder(
    store: Store, trial: int, name: str, still_ours: Callable[[], bool]
) -> Iterator[tuple[Path, Callable[[], None]]]:
    """The trial's folder, held by this process alone, and a call that makes safe what is in it.

    Args:
        store: the run. trial: which.
        name: of the copy, where the run is not local: one for each attempt.
        still_ours: whether this process may still write to the run.

    Raises:
        FolderInUse: another process holds it.
        StoreError: what is left could not be sent at the end.
    """
    if store.path is not None:
        directory = store.path / "trials" / str(trial)
        with FolderLock(directory, LOCK_WAIT_S):
            yield directory, _nothing
        return
    user = str(os.getuid()) if hasattr(os, "getuid") else "own"
    root = private_folder(Path(tempfile.gettempdir()) / f"{SCRATCH}{user}")
    clear_scratch(root)
    scratch = root / name / str(trial)
    with FolderLock(scratch.parent, LOCK_WAIT_S):
        mirror = Mirror(store, f"trials/{trial}", scratch, still_ours)
        mirror.pull()
        mirror.start()
        try:
            yield scratch, mirror.try_push
        finally:
            mirror.stop()
    shutil.rmtree(scratch.parent, ignore_errors=True)


def private_folder(folder: Path) -> Path:
    """Makes a folder where everybody may write, for this user alone, where it is not there yet; returns it.

    Raises:
        OSError: it cannot be made, or somebody else has made it.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink() or hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise PermissionError(errno.EACCES, "it is a link, or belongs to another user", str(folder))
    return folder


def clear_scratch(root: Path) -> None:
    """Removes the local folders of trials whose process was killed: what counted of them is in the store."""
    for left in root.glob("*"):
        with contextlib.suppress(FolderInUse, OSError), FolderLock(left, wait_s=0.0):
            shutil.rmtree(left, ignore_errors=True)


def write_config(path: Path, run_config: Mapping[str, Any]) -> None:
    """Writes a trial's configuration, whole or not at all."""
    text = strict_yaml.dump(run_config)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _nothing() -> None:
    """Local files are safe where they are."""
