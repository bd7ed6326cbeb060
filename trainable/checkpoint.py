"""Checkpoints: atomic, self-checking, and loaded as tensors only.

A run's folder holds `checkpoints/last.pt` and `previous.pt` (everything a resume needs; a torch file whose
records carry checksums), and `best.json` that names `best-<step>.safetensors` with its SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from trainable.errors import CheckpointError
from trainable.faults import declare, fault_point
from trainable.state import Snapshot

FOLDER = "checkpoints"
FORMAT = 1

declare(
    "checkpoint.write", "checkpoint.fsync", "checkpoint.rename", "checkpoint.rotate",
    "best.write", "best.fsync", "best.rename", "best.index.write", "best.index.fsync", "best.index.rename",
)  # fmt: skip


def write_atomic(path: Path, content: bytes, point: str) -> None:
    """Replace a file whole: temporary name, fsync, rename, fsync of the folder.

    Args:
        path: the file. content: its new bytes. point: prefix of the fault points.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            fault_point(f"{point}.write")
            file.write(content)
            file.flush()
            fault_point(f"{point}.fsync")
            os.fsync(file.fileno())
        fault_point(f"{point}.rename")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_last(directory: Path, snapshot: Snapshot) -> Path:
    """Write the state that a resume continues from; the one before is kept as `previous.pt`.

    Raises:
        OSError: there is no room; both earlier files are untouched.
    """
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    last, previous = folder / "last.pt", folder / "previous.pt"
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **vars(snapshot)}, buffer)
    for stray in folder.glob(".*.tmp"):
        stray.unlink(missing_ok=True)
    if last.exists():
        fault_point("checkpoint.rotate")
        previous.unlink(missing_ok=True)
        os.link(last, previous) if hasattr(os, "link") else None
    write_atomic(last, buffer.getvalue(), "checkpoint")
    return last


def load_last(directory: Path) -> tuple[Snapshot | None, list[str]]:
    """The newest state that is whole.

    Returns:
        The snapshot, or None where there is none; and what was found damaged, for the log.
    """
    notes: list[str] = []
    for name in ("last.pt", "previous.pt"):
        path = directory / FOLDER / name
        if not path.exists():
            continue
        try:
            return read_snapshot(path), notes
        except CheckpointError as error:
            notes.append(str(error))
    return None, notes


def read_snapshot(path: Path) -> Snapshot:
    """Read one file of state after checking every record's checksum.

    Raises:
        CheckpointError: it is damaged, or not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise CheckpointError(f"{path}: checksum mismatch in {broken}; the checkpoint before it is used")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file makes zip, pickle and torch raise anything
        raise CheckpointError(
            f"{path}: must be a whole checkpoint, but got {type(error).__name__}; the checkpoint before it is used"
        ) from error
    if content.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path}: must be of checkpoint format {FORMAT}; use the version that wrote it")
    return Snapshot(**content)


def check_fits(snapshot: Snapshot, fingerprint: dict[str, Any], where: Path) -> None:
    """Refuse a state that belongs to another network, recipe, data or seed.

    Raises:
        CheckpointError: both values of each difference are named.
    """
    found = snapshot.fingerprint
    differs = [
        f"{key} is {found.get(key)!r} there and {fingerprint.get(key)!r} here"
        for key in sorted(found.keys() | fingerprint.keys())
        if found.get(key) != fingerprint.get(key)
    ]
    if differs:
        raise CheckpointError(
            f"{where}: the checkpoint must belong to this configuration, but {'; '.join(differs)}; "
            "use another folder or the configuration it was made with"
        )


@dataclass(frozen=True)
class Best:
    """The best evaluated model so far.

    Attributes:
        step: where it was reached. value: its objective. file: its weights, beside the index.
        sha256: of the file. model: what `predict` needs: network, classes, colors, task.
    """

    step: int
    value: float
    file: str
    sha256: str
    model: dict[str, Any]


def save_best(
    directory: Path, weights: dict[str, Tensor], *, step: int, value: float, model: dict[str, Any]
) -> Best:
    """Write the best model; the index is replaced last, so it always names a whole file."""
    folder = directory / FOLDER
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()})
    best = Best(step, value, f"best-{step:08d}.safetensors", hashlib.sha256(content).hexdigest(), model)
    write_atomic(folder / best.file, content, "best")
    write_atomic(folder / "best.json", json.dumps(asdict(best), indent=1).encode(), "best.index")
    for old in folder.glob("best-*.safetensors"):
        if old.name != best.file:
            old.unlink(missing_ok=True)
    return best


def load_best(directory: Path) -> tuple[Best, dict[str, Tensor]]:
    """The best model of a run's folder.

    Raises:
        CheckpointError: there is none, or its checksum does not match.
    """
    index = directory / FOLDER / "best.json"
    if not index.exists():
        raise CheckpointError(f"{index}: there must be a best model; train for at least one evaluation first")
    try:
        best = Best(**json.loads(index.read_text(encoding="utf-8")))
        content = (index.parent / Path(best.file).name).read_bytes()
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{index}: the best model cannot be read ({error})") from error
    if hashlib.sha256(content).hexdigest() != best.sha256:
        raise CheckpointError(f"{index.parent / best.file}: checksum mismatch; export or train again")
    return best, load(content)
