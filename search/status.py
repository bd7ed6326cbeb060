"""Where a run stands, as its record says."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

from search.control import STOP_FILE
from search.records import RunState, TrialRecord, TrialState
from search.store import RunLog, Store, open_store
from search.store.base import EVENTS, LEASE
from search.store.identity import host_name
from search.store.lease import Holder, liveness
from trainable.errors import ConfigError, Fault, StoreError

ROWS = ("trial", "source", "state", "step", "best", "best_step", "rung", "attempts", "reason")


def read_run(run: str) -> tuple[Store, RunState]:
    """A run's place and its state; nothing is written.

    Raises:
        ConfigError: there is no run.
        StoreError: its record is damaged, or the storage cannot be read.
    """
    store = open_store(run)
    if not store.list(EVENTS):
        message = f"must be a run directory or its URI, but {_instead(store)}; correct the path"
        raise ConfigError([Fault(run, message)])
    return store, RunLog.open(store).state


def _instead(store: Store) -> str:
    """What is there where a run should be, and which runs are near it."""
    path = store.path
    if path is None:
        return "holds no events"
    inside = path if path.is_dir() else path.parent
    runs = sorted(found.parent for found in inside.glob(f"*/{EVENTS}"))[:5] if inside.is_dir() else []
    near = f"; there are {', '.join(str(found) for found in runs)}" if runs else ""
    return f"{'holds no events' if path.is_dir() else 'is not there'}{near}"


def status(run: str) -> dict[str, Any]:
    """The run in plain values: counts, the best trial, who owns it, and one row per trial."""
    store, state = read_run(run)
    search = state.run.get("config", {}).get("search", {})
    best = state.best()
    counts = Counter(str(trial.state) for trial in state.trials.values())
    return {
        "run": run,
        "name": state.run.get("name"),
        "status": "closed" if state.closed is not None else "open",
        "closed": state.closed,
        "opened_at": state.run.get("opened_at"),
        "resumes": state.resumes,
        "trials": len(state.trials),
        "total": state.total if state.total is not None else search.get("trials"),
        "states": dict(counts),
        "objective": search.get("objective"),
        "best": None if best is None else trial_row(best),
        "owner": owner(store),
        "events": state.seq + 1,
        "rows": [trial_row(trial) for trial in state.trials.values()],
    }


def trial_row(trial: TrialRecord) -> dict[str, Any]:
    """One trial, as a row."""
    ended = trial.state not in (TrialState.RUNNING, TrialState.PENDING)
    return {
        "trial": trial.number, "source": trial.source, "state": str(trial.state), "step": trial.step,
        "best": trial.best_value, "best_step": trial.best_step, "rung": trial.rung, "attempts": trial.attempts,
        "reason": (trial.stop_reason or trial.pause_reason) if ended else None, "node": trial.node,
        "error": trial.error,
    }  # fmt: skip


def owner(store: Store) -> dict[str, Any] | None:
    """Who holds the run; None where nobody does, or only a process of this machine that is gone."""
    try:
        content = store.read_bytes(LEASE)
        found = json.loads(content)
    except (FileNotFoundError, StoreError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("released"):
        return None
    here = found.get("host") == host_name()
    gone = here and liveness(Holder.from_bytes(content, time.time()), store.clock) == 0.0
    return None if gone else found


def ask_to_stop(run: str, trial: int | None = None) -> bool:
    """Ask a run, or one of its trials, to stop; it looks every 2 s.

    Returns:
        Whether anybody seems to be running it; if not, nothing is written.

    Raises:
        ConfigError: there is no such run or trial.
        StoreError: the run cannot be read or written.
    """
    store, state = read_run(run)
    if state.closed is not None or owner(store) is None:
        return False
    if trial is not None and trial not in state.trials:
        raise ConfigError([Fault(run, f"trial must be one of the run's {len(state.trials)}, but got trial={trial}")])
    line = "stop" if trial is None else f"trial {trial}"
    before = store.read_bytes(STOP_FILE).decode() if store.exists(STOP_FILE) else ""
    store.write_bytes(STOP_FILE, f"{before}{line}\n".encode())
    return True
