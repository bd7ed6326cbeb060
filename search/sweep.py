"""Starting a sweep: everything that can be wrong is found before the first trial, then the record is opened."""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from search.cluster import Cluster
from search.control import forget_stop
from search.metric_columns import metric_columns
from search.notify import notify
from search.opening import (
    Setting,
    asha_of,
    assemble,
    base_of,
    baselines_of,
    definition,
    space_of,
)
from search.patient_log import PatientLog
from search.preflight import check_seen_everywhere, check_storage
from search.progress import Progress
from search.records import SCHEMA
from search.running import Options, Sitting, SweepResult, run_sitting, slots_of
from search.schema import SweepConfig
from search.store import Store, open_store
from search.wandb_key import key_note
from search.watchers import watchers_of
from spaces import SearchSpace
from trainable import strict_yaml
from trainable.errors import ConfigError, Fault, StoreError
from trainable.recipes import get_recipe

SWEEP_FILE = "sweep.yaml"
_PACKAGES = ("thresher", "ray", "torch", "optuna", "numpy", "pyarrow", "segmentation-models-pytorch")
_HARMLESS = ("control/", "lease.json", ".lease.")


def start_sweep(config: SweepConfig, *, fresh: bool = False, options: Options | None = None) -> SweepResult:
    """Runs a new sweep to its end, or until it is told to stop.

    Args:
        config: the sweep, checked.
        fresh: a run of that name is renamed to `<name>.<utc>` first; nothing is deleted.
        options: how it is run.

    Raises:
        ConfigError, DataError: the input cannot be used, or the name is taken.
        LeaseHeldError: somebody runs a sweep of that name.
        StoreError: the storage failed for good; what was recorded is safe.
    """
    options = options or Options()
    store = open_store(config.run)
    check_storage(open_store(config.storage))
    if not fresh:
        refuse_taken(store)
    setting = options.examine(config)
    space = space_of(config, setting)
    asha_of(config, setting.class_names)
    starts = [base_of(config, setting.class_names)]
    starts += [dict(first.config) for first in baselines_of(config, setting.class_names)]
    options.check_weights(config.data.ndim, starts)
    with options.cluster() as cluster:
        slots_of(config, cluster)
        check_seen_everywhere(store, config.data.root, cluster, config.resources.workers_per_trial)
        if fresh:
            # Only now, so that a sweep that cannot begin leaves the run of its name where it is.
            set_aside(store)
        log = PatientLog.create(store, **opened(config, setting, space))
        with log:
            forget_stop(store)
            result = _run(log, config, setting, cluster, options)
    notify(config, result)
    return result


def _run(
    log: PatientLog, config: SweepConfig, setting: Setting, cluster: Cluster, options: Options
) -> SweepResult:
    log.store.write_bytes(SWEEP_FILE, strict_yaml.dump(described(log.state.run)).encode())
    total = config.search.trials
    with Progress(lambda: log.state, total, options.console) as progress:
        for warning in setting.warnings:
            progress.say(f"data: {warning}")
        for first in baselines_of(config, setting.class_names):
            if first.also:
                progress.say(f"{', '.join(first.also)}: the same as {first.source} here, and trained once")
        note = key_note(config.tracking.wandb)
        if note is not None:
            progress.say(note)
        sitting = Sitting(config, total, assemble, options.fit, watchers_of(log, config))
        return run_sitting(log, sitting, cluster, progress)


def opened(config: SweepConfig, setting: Setting, space: SearchSpace) -> dict[str, Any]:
    """The fields of a run's first event."""
    return {
        "schema": SCHEMA,
        "run_id": secrets.token_hex(4),
        "name": config.name,
        "generation": 0,
        "config": config.model_dump(mode="json", by_alias=True),
        "versions": versions(),
        "git_revision": git_revision(),
        "data_hash": setting.data_hash,
        "space_hash": space.space_hash,
        "space": space.to_json(),
        "metrics": metric_columns(setting.class_names, get_recipe(config.recipe).metrics),
        "metric_definition": definition(config, setting.class_names),
    }


def described(run: dict[str, Any]) -> dict[str, Any]:
    """What RUN/sweep.yaml holds: the resolved configuration and where it came from."""
    about = {key: run.get(key) for key in ("run_id", "versions", "git_revision", "data_hash", "space_hash")}
    return {**run["config"], "provenance": about}


def refuse_taken(store: Store) -> None:
    """Refuses a place that holds anything of a run.

    Raises:
        ConfigError: it does; says how to go on.
    """
    left = [name for name in store.list() if not name.startswith(_HARMLESS)]
    if not left or _only_begun(store, left):
        return
    what = "a run" if any(name.startswith("events/") for name in left) else f"files ({left[0]}, ...)"
    cure = "go on with it (`thresher resume`, or --resume), put it aside (--fresh), or choose another name"
    raise ConfigError([Fault(store.uri, f"a new sweep needs an empty place, but there is {what}; {cure}")])


def _only_begun(store: Store, names: list[str]) -> bool:
    """Whether a driver was killed while it wrote the very first event: there is nothing to go on with."""
    if not all(name.startswith("events/") for name in names):
        return False
    try:
        return next(iter(store.read()), None) is None
    except StoreError:
        return False


def set_aside(store: Store) -> str | None:
    """Renames what is there to `<name>.<utc>`; returns the new place, None where there was nothing.

    Raises:
        LeaseHeldError: somebody runs it.
    """
    if not store.list():
        return None
    store.acquire(heartbeat=False)
    store.release()
    target = f"{store.uri.rstrip('/')}.{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}"
    if store.path is not None:
        try:
            store.path.rename(target)
        except OSError as error:
            raise StoreError(
                f"{store.uri}: must be renamed to {target}, but got {error.strerror or error}"
            ) from error
        return target
    kept = open_store(target)
    names = store.list()
    for name in names:
        kept.write_bytes(name, store.read_bytes(name))
    for name in names:
        store.delete(name)
    return target


def versions() -> dict[str, str]:
    """What the run was made with."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """The revision of this code, with a `+` where it was changed; None where it is no working copy."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return None
    try:
        head = _git(here, "rev-parse", "HEAD")
        return head + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
