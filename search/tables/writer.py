"""Writes a run's tables while it is running: whole files, each in place of the one before."""

from __future__ import annotations

import logging

import pyarrow as pa

from search.records import RunState
from search.store import Store
from search.tables.columns import metric_names, trials_table, with_metadata
from search.tables.history import FOLDER, ROWS_PER_PART, Rows, part_name, to_bytes
from trainable.errors import LeaseLostError, StoreError

TRIALS = "trials.parquet"
MIN_INTERVAL_S = 30.0

_log = logging.getLogger(__name__)


class TableWriter:
    """Keeps `trials.parquet` and `history/` close behind the log: at each trial's end, and every half minute.

    The tables can be made again from the log at any time, so trouble in writing them never stops a search: it is
    logged, kept in `trouble`, and tried again.

    Args:
        store: the run, owned by this process.
        min_interval_s: how long rows of running trials may wait.
        rows_per_part: rows of one history file.

    Attributes:
        trouble: why the tables are behind; None when they are not.
    """

    def __init__(
        self, store: Store, min_interval_s: float = MIN_INTERVAL_S, rows_per_part: int = ROWS_PER_PART
    ) -> None:
        self.trouble: str | None = None
        self._store = store
        self._interval = min_interval_s
        self._rows_per_part = rows_per_part
        self._rows: Rows | None = None
        self._part = 0
        self._taken = 0
        self._full: list[tuple[str, bytes]] = []
        self._written_seq = -1
        self._ended = 0
        self._next_at = 0.0

    def update(self, state: RunState, force: bool = False) -> bool:
        """Writes the tables, if a trial has ended or enough time has passed; returns whether it did.

        Raises:
            LeaseLostError: another process owns the run now.
        """
        ended = sum(trial.ended for trial in state.trials.values())
        now = self._store.clock.monotonic()
        due = self._written_seq < 0 or now >= self._next_at or (ended != self._ended and self.trouble is None)
        if not force and (state.seq == self._written_seq or not due):
            return False
        self._next_at = now + self._interval
        try:
            self._store.check_owner()
            self._write(state)
        except LeaseLostError:
            raise
        except StoreError as error:
            if self.trouble is None:
                _log.warning("the tables are behind the log, trying again: %s", error)
            self.trouble = str(error)
            return False
        self.trouble, self._written_seq, self._ended = None, state.seq, ended
        return True

    def close(self, state: RunState) -> None:
        """Writes what is left.

        Raises:
            LeaseLostError: another process owns the run now.
        """
        self.update(state, force=True)

    def _write(self, state: RunState) -> None:
        first = self._rows is None
        self._take(state)
        assert self._rows is not None
        while self._full:
            self._store.write_bytes(*self._full[0])
            del self._full[0]
        self._store.write_bytes(part_name(self._part), to_bytes(with_metadata(self._rows.table(), state)))
        self._store.write_bytes(TRIALS, to_bytes(trials_table(state)))
        if first:
            self._remove_surplus()

    def _take(self, state: RunState) -> None:
        """Moves new rows into the open part; a full one is packed, to be written once."""
        if self._rows is None:
            self._rows = Rows(metric_names(state))
        for trial, row in state.history[self._taken :]:
            if len(self._rows) == self._rows_per_part:
                self._full.append((part_name(self._part), to_bytes(with_metadata(self._rows.table(), state))))
                self._part += 1
                self._rows = Rows(metric_names(state))
            self._rows.add(trial, row)
            self._taken += 1

    def _remove_surplus(self) -> None:
        """Removes parts of a writer that cut them otherwise."""
        for name in self._store.list(FOLDER):
            if name.endswith(".parquet") and name > part_name(self._part):
                self._store.delete(name)


def write_tables(store: Store, state: RunState) -> None:
    """Writes both tables of a run that this process owns.

    Raises:
        StoreError: they cannot be written.
    """
    writer = TableWriter(store)
    if not writer.update(state, force=True):
        raise StoreError(writer.trouble or f"{store.uri}: the tables could not be written")


def table_seq(table: pa.Table) -> int:
    """How far the log had been read when a table was made; -1 when it does not say."""
    found = (table.schema.metadata or {}).get(b"thresher.seq", b"-1")
    return int(found) if found.lstrip(b"-").isdigit() else -1
