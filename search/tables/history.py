"""The `history` of a run: one row per trial and step, in parts of a fixed number of rows."""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from search.records import Evaluation, RunState
from search.tables.columns import metric_names, with_metadata
from trainable.errors import StoreError

FOLDER = "history"
ROWS_PER_PART = 100_000


class Rows:
    """Rows in columns, appended one by one.

    Args:
        metrics: names of the metric columns.
    """

    def __init__(self, metrics: list[str]) -> None:
        self._metrics = metrics
        self._keys = array("q")
        self._times = array("d")
        self._values = array("d")

    def __len__(self) -> int:
        return len(self._times)

    def add(self, trial: int, row: Evaluation) -> None:
        """Appends one row; what the row does not have is missing, never 0."""
        self._keys.extend((trial, row.attempt, row.step))
        self._times.append(np.nan if row.time_s is None else row.time_s)
        get = row.record.get
        self._values.extend(np.nan if (value := get(name)) is None else value for name in self._metrics)

    def table(self) -> pa.Table:
        """The rows so far; every column is there even when no row is."""
        keys = np.array(self._keys, dtype=np.int64).reshape(-1, 3)
        values = np.array(self._values, dtype=np.float64).reshape(len(self), len(self._metrics))
        columns = [pa.array(np.ascontiguousarray(keys[:, index])) for index in range(3)]
        columns.append(_floats(np.array(self._times, dtype=np.float64)))
        columns += [_floats(np.ascontiguousarray(values[:, index])) for index in range(len(self._metrics))]
        return pa.table(columns, names=["trial", "attempt", "step", "time_s", *self._metrics])


def _floats(values: np.ndarray[Any, np.dtype[np.float64]]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def history_table(state: RunState, history: Iterable[tuple[int, Evaluation]] | None = None) -> pa.Table:
    """The history of a run, or some of its rows, as one table; a pure function of the state."""
    rows = Rows(metric_names(state))
    for trial, row in state.history if history is None else history:
        rows.add(trial, row)
    return with_metadata(rows.table(), state)


def part_name(index: int) -> str:
    """Where a part stands in the run.

    >>> part_name(3)
    'history/part-00003.parquet'
    """
    return f"{FOLDER}/part-{index:05d}.parquet"


def to_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def from_bytes(data: bytes) -> pa.Table:
    """A Parquet file as a table.

    Raises:
        StoreError: it is damaged.
    """
    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
        if len(set(table.column_names)) < table.num_columns:
            raise ValueError("columns of the same name")
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        # The names of columns have no checksum, and need not even be text.
        raise StoreError(
            f"a table must be a whole Parquet file, but got {str(error).splitlines()[0]}"
        ) from error
