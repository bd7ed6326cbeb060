"""A run's tables in pandas, wherever the run is kept. Nothing is ever written."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from search.records import RunState
from search.store import RunLog, Store, open_store
from search.tables.columns import trials_table
from search.tables.history import FOLDER, from_bytes, history_table
from search.tables.writer import TRIALS, table_seq
from trainable.config import flatten
from trainable.errors import StoreError


def load_trials(run: str | Path | Store) -> pd.DataFrame:
    """The trials of a run, one row each.

    The file is read when it is up to date with the log; otherwise the rows are made from the log in memory.

    Args:
        run: a run directory, or an address such as `s3://bucket/run`.

    Returns:
        The columns of `trials.parquet`, in trial order.

    Raises:
        StoreError: there is no run, or its log is damaged.
        SchemaError: it was written by a newer version.
    """
    store = _opened(run)
    table = _current(store, [TRIALS])
    return _frame(trials_table(_state(store)) if table is None else table)


def load_history(run: str | Path | Store) -> pd.DataFrame:
    """Every evaluation of a run: the first row of each trial and step, in the order of the log.

    Args:
        run: a run directory, or an address such as `s3://bucket/run`.

    Returns:
        The columns of `history/*.parquet`.

    Raises:
        StoreError: there is no run, or its log is damaged.
        SchemaError: it was written by a newer version.
    """
    store = _opened(run)
    table = _current(store, [name for name in store.list(FOLDER) if name.endswith(".parquet")])
    return _frame(history_table(_state(store)) if table is None else table)


def best_config(run: str | Path | Store, trial: int | None = None) -> pd.Series:
    """The full configuration of the best trial so far, as `thresher train` would run it.

    Args:
        run: a run directory, or an address such as `s3://bucket/run`.
        trial: another trial's number.

    Returns:
        By dotted key; its name is the trial's number. `trainable.config.unflatten` makes it nested again.

    Raises:
        StoreError: no trial has a finite objective yet, or there is none of that number.
    """
    store = _opened(run)
    state = _state(store)
    found = state.best() if trial is None else state.trials.get(trial)
    if found is None:
        wanted = "a trial with a finite objective" if trial is None else f"trial {trial}"
        raise StoreError(f"{store.uri}: must have {wanted}, but has none among {len(state.trials)} trials")
    return pd.Series(flatten(found.config), name=found.number, dtype="object")


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _opened(run: str | Path | Store) -> Store:
    return run if isinstance(run, Store) else open_store(run)


def _state(store: Store) -> RunState:
    return RunLog.open(store).state


def _current(store: Store, names: list[str]) -> pa.Table | None:
    """The files as one table, if they say all that the log says; else None."""
    last = store.last_seq()
    if last < 0:
        raise StoreError(f"{store.uri}: must hold a run (events/*.jsonl), but there is none; check the path")
    try:
        tables = [from_bytes(store.read_bytes(name)) for name in names]
        if not tables or table_seq(tables[-1]) != last:
            return None
        return pa.concat_tables(tables)
    except (FileNotFoundError, StoreError, pa.ArrowException):
        return None  # Damaged, or being replaced at this moment: the log has everything.
