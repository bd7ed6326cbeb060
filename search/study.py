"""A run's trials as an Optuna study in one SQLite file, for whatever reads those; the run itself never needs it."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.records import RunState, TrialRecord
from search.status import read_run
from spaces import SearchSpace
from trainable.errors import ConfigError, Fault

NETWORK = (
    "9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
    "orangefs", "smb3", "smbfs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.rclone",
    "fuse.s3fs", "fuse.sshfs",
)  # fmt: skip
"""File systems on which the locks of SQLite do not hold, or not always."""

_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "fail": TrialState.FAIL}


def export_study(run: str, output: Path, filesystem: Callable[[Path], str | None] | None = None) -> int:
    """Write the ended trials of a run's present search space as a study.

    Args:
        run: the run directory or URI.
        output: the file; it must not exist yet, and must lie on a local disk.
        filesystem: tells the kind of file system of a folder; only tests hand in their own.

    Returns:
        How many trials it holds. Each has its number, source, state and stop reason as user attributes.

    Raises:
        ConfigError: the file cannot be written there, or the run has no search space.
        StoreError: the run cannot be read.
    """
    _check_place(run, output, filesystem or filesystem_of)
    _, state = read_run(run)
    found = state.spaces.get(state.generation, {}).get("space")
    if found is None:
        raise ConfigError([Fault(run, "a study needs the search space of a sweep, but this run has none")])
    space = SearchSpace.from_json(found)
    trials = [_frozen(trial, space) for trial in state.trials.values() if _counts(trial, state, space)]
    with tempfile.TemporaryDirectory(prefix="thresher-study-") as scratch:
        made = Path(scratch) / "study.db"
        _write(made, str(state.run["name"]), state.direction, trials)
        waiting = output.with_name(f".{output.name}.{os.getpid()}.tmp")
        try:
            shutil.copyfile(made, waiting)
            waiting.replace(output)
        except OSError as error:
            waiting.unlink(missing_ok=True)
            raise ConfigError([Fault(str(output), f"the file must be writable, but got {error.strerror}")]) from error
    return len(trials)


def filesystem_of(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """Kind of the file system that a folder lies on, such as `ext4` or `nfs4`; None where the system does not say."""
    where = folder.resolve()
    if sys.platform == "win32":
        return "smbfs" if str(where).startswith("\\\\") else None
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:
        return None
    best: tuple[int, str | None] = (-1, None)
    for line in lines:
        _, point, kind, *_ = [*line.split(b" "), b"", b"", b""]
        place = Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), point)))
        if where.is_relative_to(place) and len(place.parts) >= best[0]:
            best = (len(place.parts), os.fsdecode(kind))
    return best[1]


def _check_place(run: str, output: Path, filesystem: Callable[[Path], str | None]) -> None:
    folder = output.parent
    cure = f"write it to a local folder and copy it when it is done, or read trials.parquet in {run}"
    if ":/" in str(output):
        message = f"an SQLite study must be a file on a local disk, but got an address; {cure}"
    elif output.exists():
        message = "the study must be a new file, but it exists; name another or remove it"
    elif not folder.is_dir():
        message = f"the study's folder must exist, but {folder} does not"
    elif (kind := filesystem(folder)) in NETWORK:
        message = (
            f"an SQLite study must lie on a local disk, because its locks do not hold on a network mount, but {folder} "
            f"is on {kind}; {cure}"
        )
    else:
        return
    raise ConfigError([Fault(str(output), message)])


def _counts(trial: TrialRecord, state: RunState, space: SearchSpace) -> bool:
    here = trial.generation == state.generation and set(space.axes) <= trial.coords.keys()
    return here and trial.told_state in _STATES


def _frozen(trial: TrialRecord, space: SearchSpace) -> FrozenTrial:
    said = _STATES[str(trial.told_state)]
    seen = {row.step: row.objective for row in trial.evaluations if row.objective is not None}
    return create_trial(
        state=said,
        value=trial.told_value if said is TrialState.COMPLETE else None,
        params={name: trial.coords[name] for name in space.axes},
        distributions=dict(space.distributions),
        intermediate_values=seen,
        user_attrs={
            "trial": trial.number, "source": trial.source, "state": str(trial.state), "stop_reason": trial.stop_reason,
        },
    )  # fmt: skip


def _write(path: Path, name: str, direction: str, trials: list[FrozenTrial]) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = RDBStorage(f"sqlite:///{path}")
    try:
        study = optuna.create_study(
            storage=storage, study_name=name, direction="minimize" if direction == "min" else "maximize"
        )
        study.add_trials(trials)
    finally:
        storage.remove_session()
        storage.engine.dispose()
        optuna.logging.set_verbosity(before)
