"""The targets that a phase writes once and trains on: label images by position, in one file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainable.checkpoint import write_atomic
from trainable.data.loaders import U8
from trainable.errors import CheckpointError
from trainable.faults import declare

FOLDER = "targets"

declare("targets.write", "targets.fsync", "targets.rename", "output.write", "output.fsync", "output.rename")


def save_output(directory: Path, name: str, content: bytes) -> None:
    """Write what a phase leaves behind for people, whole.

    Args:
        directory: the run's folder. name: relative to it, with forward slashes. content: of the file.
    """
    write_atomic(directory / name, content, "output")


def write_targets(directory: Path, phase: int, targets: Mapping[int, U8], *, keep: bool) -> str:
    """Write a phase's targets whole, and drop those of earlier phases but the last.

    Args:
        directory: the run's folder. phase: its number. targets: labels by position. keep: False on the workers
        that do not write.

    Returns:
        The file's path, relative to the run's folder.
    """
    name = f"{FOLDER}/phase-{phase}.npz"
    if not keep:
        return name
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{str(i): a for i, a in targets.items()})
    write_atomic(directory / name, buffer.getvalue(), "targets")
    old = directory / FOLDER / f"phase-{phase - 2}.npz"
    old.unlink(missing_ok=True)
    return name


def read_targets(path: Path) -> dict[int, U8]:
    """Read a phase's targets.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return {int(name): content[name] for name in content.files}
    except Exception as error:  # a damaged archive raises anything
        raise CheckpointError(
            f"{path}: must hold this round's targets, but got {type(error).__name__}; delete the trial's folder to "
            "start it again"
        ) from error
