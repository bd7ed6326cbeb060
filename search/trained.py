"""Where a trained model lies: behind a run, one of its trials, or a file that was exported from one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.export import chosen_trial
from search.records import RunState, TrialRecord
from search.status import read_run
from search.store import Store
from trainable import strict_yaml
from trainable.checkpoint import FOLDER
from trainable.errors import ConfigError, Fault


@dataclass(frozen=True)
class Trained:
    """A trial with a best model.

    Attributes:
        directory: the trial's folder, on this machine.
        words: what it is.
    """

    directory: Path
    words: str


@contextmanager
def trained(source: str, trial: int | None = None) -> Iterator[Trained]:
    """The folder of a trained model; models of a remote run are fetched for as long as the block runs.

    Args:
        source: a run directory or URI, a trial's folder, or a file that `export` wrote.
        trial: which trial of a run; left out: the best that still has its model.

    Raises:
        ConfigError: there is no model behind it.
        StoreError: the run cannot be read.
    """
    path = Path(source)
    if "://" not in source and path.is_dir() and (path / FOLDER / "best.json").is_file():
        yield Trained(path, str(path))
        return
    if "://" not in source and path.is_file():
        source, trial = _exported_from(path)
    store, state = read_run(source)
    record = _chosen(store, state, source, trial)
    words = f"trial {record.number} of {source}"
    folder = f"trials/{record.number}"
    if store.path is not None:
        yield Trained(store.path / folder, words)
        return
    with tempfile.TemporaryDirectory(prefix="thresher-model-") as scratch:
        for name in store.list(f"{folder}/{FOLDER}"):
            if Path(name).name.startswith("best"):
                target = Path(scratch) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(store.read_bytes(name))
        yield Trained(Path(scratch) / folder, words)


def _exported_from(path: Path) -> tuple[str, int]:
    """The run and trial that a configuration file says it came from."""
    found: Any = strict_yaml.load(path).data.get("provenance")
    found = found if isinstance(found, dict) else {}
    run, trial = found.get("run"), found.get("trial")
    if isinstance(run, str) and isinstance(trial, int) and not isinstance(trial, bool):
        # A file that still lies in its run tells where that is now, also where the run was moved.
        return (str(path.parent) if (path.parent / "events").is_dir() else run), trial
    message = "a file must name the run and the trial that it was exported from, but its provenance does not"
    raise ConfigError([Fault(str(path), f"{message}; name a run or a trial's folder, or train the file first")])


def _chosen(store: Store, state: RunState, run: str, number: int | None) -> TrialRecord:
    if number is not None:
        record = chosen_trial(state, run, number)
        if not _has_model(store, number):
            message = f"trial {number} must still have its best model, but has none; see search.keep, or train it again"
            raise ConfigError([Fault(run, message)])
        return record
    for record in state.ranked():
        if _has_model(store, record.number):
            return record
    raise ConfigError([Fault(run, "a run must have a trained model, but has none; train for at least one evaluation")])


def _has_model(store: Store, number: int) -> bool:
    return store.exists(f"trials/{number}/{FOLDER}/best.json")
