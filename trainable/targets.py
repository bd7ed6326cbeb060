"""The targets that a phase writes once and trains on: label images by position, in one file."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainable.atomic import write_atomic
from trainable.data.streams import U8
from trainable.errors import CheckpointError
from trainable.faults import declare, fault_point

FOLDER = "targets"
_FILE = re.compile(r"phase-(\d+)\.npz")

declare(
    "targets.write", "targets.fsync", "targets.rename", "targets.dirsync", "targets.drop",
    "output.write", "output.fsync", "output.rename", "output.dirsync",
)  # fmt: skip


def save_output(directory: Path, name: str, content: bytes) -> None:
    """Write what a phase leaves behind for people, whole.

    Args:
        directory: the run's folder. name: relative to it, with forward slashes. content: of the file.
    """
    write_atomic(directory / name, content, "output")


def write_targets(directory: Path, phase: int, targets: Mapping[int, U8], *, keep: bool) -> str:
    """Write a phase's targets whole.

    Args:
        directory: the run's folder. phase: its number. targets: labels by position. keep: False on the workers
        that do not write.

    Returns:
        The file's path, relative to the run's folder.
    """
    name = f"{FOLDER}/phase-{phase}.npz"
    if keep:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **{str(i): a for i, a in targets.items()})
        write_atomic(directory / name, buffer.getvalue(), "targets")
    return name


def drop_targets(directory: Path, oldest: str | None) -> None:
    """Delete the targets of phases before the oldest one that a checkpoint still names.

    Args:
        directory: the run's folder. oldest: path of that phase's targets; None keeps all.
    """
    first = None if oldest is None else _phase(Path(oldest))
    if first is None:
        return
    for path in sorted((directory / FOLDER).glob("phase-*.npz")):
        phase = _phase(path)
        if phase is not None and phase < first:
            fault_point("targets.drop")
            path.unlink(missing_ok=True)


def _phase(path: Path) -> int | None:
    found = _FILE.fullmatch(path.name)
    return int(found[1]) if found else None


def read_targets(path: Path) -> dict[int, U8]:
    """Read a phase's targets.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return {int(name): content[name] for name in content.files}
    except Exception as error:  # a damaged archive raises anything
        raise CheckpointError(f"{path}: must hold its phase's targets, but got {type(error).__name__}") from error
