"""Checkpoints: atomic, self-checking, and loaded as tensors only.

A run's folder holds `checkpoints/last.pt` and `previous.pt` (everything a resume needs; a torch file whose
records carry checksums), and `best.json` that names `best-<step>.safetensors` with its SHA-256.

A file appears by rename, whole. What a process that was killed left half-written is removed by the next one, which
says so; a damaged `last.pt` is put aside as `last.damaged`.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from trainable.atomic import remove_partial, write_atomic
from trainable.errors import CheckpointError
from trainable.faults import declare, fault_point
from trainable.state import Snapshot

FOLDER = "checkpoints"
FORMAT = 1
_SHOWN_SHAPES = 3

declare(
    "checkpoint.write", "checkpoint.fsync", "checkpoint.rotate", "checkpoint.rename", "checkpoint.dirsync",
    "checkpoint.aside",
    "best.write", "best.fsync", "best.rename", "best.dirsync",
    "best.index.write", "best.index.fsync", "best.index.rename", "best.index.dirsync", "best.drop",
)  # fmt: skip


def save_last(directory: Path, snapshot: Snapshot) -> Path:
    """Write the state that a resume continues from; the one before is kept as `previous.pt`.

    Raises:
        OSError: there is no room; both earlier files are untouched.
    """
    last, previous = directory / FOLDER / "last.pt", directory / FOLDER / "previous.pt"
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **vars(snapshot)}, buffer)

    def rotate() -> None:
        if last.exists():
            fault_point("checkpoint.rotate")
            last.replace(previous)

    write_atomic(last, buffer.getvalue(), "checkpoint", rotate)
    return last


def load_last(
    directory: Path, usable: Callable[[Snapshot], None] | None = None, *, tidy: bool = False
) -> tuple[Snapshot | None, list[str]]:
    """The newest state that is whole.

    Args:
        directory: the run's folder.
        usable: raises a `CheckpointError` where something else that a state needs is damaged.
        tidy: whether to remove half-written files and put a damaged state aside; for the folder's one owner.

    Returns:
        The snapshot, or None where there is none; and what was found damaged, for the log.
    """
    notes = remove_partial(directory) if tidy else []
    damaged = False
    for name in ("last.pt", "previous.pt"):
        path = directory / FOLDER / name
        if not path.exists():
            continue
        try:
            snapshot = read_snapshot(path)
            if usable is not None:
                usable(snapshot)
        except CheckpointError as error:
            notes.append(str(error))
            damaged = True
            if tidy:
                _put_aside(path)
            continue
        if damaged:
            notes.append(f"{path}: goes on from this one, at step {snapshot.loop.get('step')}")
        return snapshot, notes
    if damaged:
        notes.append(f"{directory / FOLDER}: no whole checkpoint is left; training starts again from step 0")
    return None, notes


def _put_aside(path: Path) -> None:
    """Keep a damaged file from being taken for the one to fall back on."""
    fault_point("checkpoint.aside")
    path.replace(path.with_suffix(".damaged"))


def read_snapshot(path: Path) -> Snapshot:
    """Read one file of state after checking every record's checksum.

    Raises:
        CheckpointError: it is damaged, or not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise CheckpointError(f"{path}: must be whole, but got a checksum mismatch in {broken}")
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file makes zip, pickle and torch raise anything
        raise CheckpointError(f"{path}: must be a whole checkpoint, but got {type(error).__name__}") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path}: must be of checkpoint format {FORMAT}; use the version that wrote it")
    try:
        return Snapshot(**content)
    except TypeError as error:
        raise CheckpointError(f"{path}: must hold a whole state, but got {sorted(map(str, content))}") from error


def check_fits(
    snapshot: Snapshot, fingerprint: dict[str, Any], where: Path,
    nets: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:  # fmt: skip
    """Refuse a state that belongs to another network, recipe, data or seed.

    A knob that only one of both knows came or went with another version of this program, where it had no effect or
    its default's.

    Args:
        snapshot: the state. fingerprint: of this run. where: the run's folder.
        nets: this run's networks, so that shapes can be compared.

    Raises:
        CheckpointError: both values of each difference are named, and both shapes of some tensors.
    """
    found = snapshot.fingerprint
    differs = [
        f"{key} is {found.get(key)!r} there and {fingerprint.get(key)!r} here"
        for key in sorted(found.keys() | fingerprint.keys())
        if found.get(key) != fingerprint.get(key)
        and (not key.startswith("train.") or (key in found and key in fingerprint))
    ]
    differs += [] if nets is None else _other_shapes(snapshot.nets, nets)
    if differs:
        raise CheckpointError(
            f"{where}: the checkpoint must belong to this configuration, but {'; '.join(differs)}; "
            "use another folder or the configuration it was made with"
        )


def _other_shapes(
    there: Mapping[str, Mapping[str, Tensor]], here: Mapping[str, Mapping[str, Tensor]]
) -> list[str]:
    """What differs between the tensors of two sets of networks: a few by name, the others by number."""
    one, two = _shapes(there), _shapes(here)
    names = [name for name in sorted(one.keys() | two.keys()) if one.get(name) != two.get(name)]
    # A tensor that both have tells more than one that only one of them has.
    names.sort(key=lambda name: name not in one or name not in two)
    shown = [
        f"{name} has shape {one.get(name, 'none')} there and {two.get(name, 'none')} here"
        for name in names[:_SHOWN_SHAPES]
    ]
    return shown + ([f"{len(names) - len(shown)} more tensors differ"] if len(names) > len(shown) else [])


def _shapes(nets: Mapping[str, Mapping[str, Tensor]]) -> dict[str, list[int]]:
    return {f"{net}.{name}": list(tensor.shape) for net, state in nets.items() for name, tensor in state.items()}


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
    directory: Path, weights: dict[str, Tensor], *, step: int, value: float, model: dict[str, Any],
    better: Callable[[float, float], bool] | None = None,
) -> Best:  # fmt: skip
    """Write the best model; the index is replaced last, so it always names a whole file.

    A run that goes on from a checkpoint evaluates again what it had evaluated after it. A better model of such a
    later step, whose result is recorded, is not replaced.

    Args:
        directory: the run's folder. weights: the model. step, value: where it was reached, and its objective.
        model: what `predict` needs. better: whether its first value is better than its second.
    """
    folder = directory / FOLDER
    standing = None if better is None else _later(directory, step, model)
    if better is not None and standing is not None and better(standing.value, value):
        return standing
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()})
    best = Best(step, value, f"best-{step:08d}.safetensors", hashlib.sha256(content).hexdigest(), model)
    write_atomic(folder / best.file, content, "best")
    write_atomic(folder / "best.json", json.dumps(asdict(best), indent=1).encode(), "best.index")
    for old in sorted(folder.glob("best-*.safetensors")):
        if old.name != best.file:
            fault_point("best.drop")
            old.unlink(missing_ok=True)
    return best


def _later(directory: Path, step: int, model: dict[str, Any]) -> Best | None:
    """The best model that an earlier attempt of the same run left, of this step or a later one; it must be whole."""
    try:
        best = _read_index(directory)
        same = best.step >= step and best.model == json.loads(json.dumps(model))
        return load_best(directory)[0] if same else None
    except CheckpointError:
        return None


def load_best(directory: Path) -> tuple[Best, dict[str, Tensor]]:
    """The best model of a run's folder.

    Raises:
        CheckpointError: there is none, or its checksum does not match.
    """
    best = _read_index(directory)
    path = directory / FOLDER / best.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path}: the best model must be readable, but got {type(error).__name__}; export or train again"
        ) from error
    if hashlib.sha256(content).hexdigest() != best.sha256:
        raise CheckpointError(f"{path}: must be whole, but got a checksum mismatch; export or train again")
    return best, load(content)


def _read_index(directory: Path) -> Best:
    index = directory / FOLDER / "best.json"
    if not index.exists():
        raise CheckpointError(f"{index}: there must be a best model; train for at least one evaluation first")
    try:
        best = Best(**json.loads(index.read_text(encoding="utf-8")))
        if Path(best.file).name != best.file:
            raise ValueError(f"file={best.file!r}")
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{index}: must name the best model, but cannot be read ({error})") from error
    return best
