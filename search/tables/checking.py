"""Do a run's tables say what its log says?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from search.records import RunState
from search.store import Store, open_store
from search.tables.columns import metric_names, trials_table
from search.tables.history import FOLDER, from_bytes, history_table
from search.tables.writer import TRIALS, table_seq
from trainable.errors import StoreError

_SHOWN = 20


@dataclass(slots=True)
class TableReport:
    """What `verify` found.

    Attributes:
        events: events in the log.
        behind: of these, how many are newer than the tables; while a run is going on they follow within half a minute.
        trials: trials in the log. rows: rows of its history.
        missing: what the log has and the tables should have, but do not.
        extra: what the tables have, but the log does not: the log has lost it.
        different: where both have something, but not the same.
        findings: what was amiss in the log itself, such as an unfinished line at its end.
    """

    events: int = 0
    behind: int = 0
    trials: int = 0
    rows: int = 0
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is lost."""
        return not (self.missing or self.extra or self.different)


def verify(run: str | Path | Store) -> TableReport:
    """Compares a run's tables with its log, each as of the event up to which the table was made.

    Raises:
        StoreError: there is no run, or its log is damaged.
        SchemaError: it was written by a newer version.
    """
    store = run if isinstance(run, Store) else open_store(run)
    report = TableReport()
    trials, history = _read(store, report)
    seq_of = {TRIALS: -1 if trials is None else table_seq(trials)}
    # The history is written first: it is never older than the trials are.
    seq_of[FOLDER] = max([seq_of[TRIALS], *(table_seq(part) for part in history)])
    seqs = sorted(seq for seq in set(seq_of.values()) if seq >= 0)
    states = _states_at(store, seqs)
    state = states[None]
    if not state.run:
        raise StoreError(f"{store.uri}: must hold a run (events/*.jsonl), but there is none; check the path")
    report.findings += store.findings
    report.events, report.trials, report.rows = state.seq + 1, len(state.trials), len(state.history)
    report.behind = state.seq - min([seq for seq in seqs if seq <= state.seq], default=-1)
    for name, table in ((TRIALS, trials), (FOLDER, pa.concat_tables(history) if history else None)):
        if table is None:
            continue
        seq = seq_of[name]
        if seq > state.seq:
            report.extra.append(f"{name}: goes up to event {seq}, but the log ends with event {state.seq}")
        at = states.get(seq, state)
        if name == TRIALS:
            _compare(name, ["trial"], trials_table(at), table, report)
        else:
            _compare(name, ["trial", "step"], history_table(at), table, report)
    _unknown_metrics(state, report)
    return report


def _read(store: Store, report: TableReport) -> tuple[pa.Table | None, list[pa.Table]]:
    found = []
    parts = [name for name in store.list(FOLDER) if name.endswith(".parquet")]
    for name in (TRIALS, *parts):
        try:
            found.append(from_bytes(store.read_bytes(name)))
        except FileNotFoundError:
            report.missing.append(f"{name}: is not there")
            found.append(None)
        except StoreError as error:
            report.missing.append(f"{name}: cannot be read: {error}")
            found.append(None)
    if not parts:
        report.missing.append(f"{FOLDER}: is not there")
    return found[0], [part for part in found[1:] if part is not None]


def _states_at(store: Store, seqs: list[int]) -> dict[int | None, RunState]:
    """The run as of some events, and (None) as of the last; each is folded once from the beginning."""
    events = list(store.read())
    states: dict[int | None, RunState] = {}
    for wanted in (*(seq for seq in seqs if seq < len(events)), None):
        state = RunState()
        for event in events if wanted is None else events[: wanted + 1]:
            state.apply(event)
        states[wanted] = state
    return states


def _compare(name: str, keys: list[str], wanted: pa.Table, found: pa.Table, report: TableReport) -> None:
    columns = [column for column in wanted.column_names if column not in found.column_names]
    report.missing += [f"{name}: column {column}" for column in columns]
    if any(key in columns for key in keys):
        return
    ours, theirs = _by_key(wanted, keys), _by_key(found, keys)
    if len(theirs) != found.num_rows:
        report.extra.append(f"{name}: {found.num_rows - len(theirs)} rows stand twice")
    _name_keys(f"{name}: not in the table", keys, ours.keys() - theirs.keys(), report.missing)
    _name_keys(f"{name}: not in the log", keys, theirs.keys() - ours.keys(), report.extra)
    both = [key for key in ours if key in theirs]
    left = wanted.take(pa.array([ours[key] for key in both], pa.int64()))
    right = found.take(pa.array([theirs[key] for key in both], pa.int64()))
    for column in wanted.column_names:
        if column not in columns and left[column].to_pylist() != right[column].to_pylist():
            rows = zip(both, left[column].to_pylist(), right[column].to_pylist(), strict=True)
            key, log, table = next(row for row in rows if row[1] != row[2])
            at = ", ".join(f"{k} {v}" for k, v in zip(keys, key, strict=True))
            report.different.append(
                f"{name}: {column} of {at} is {log!r} in the log, but {table!r} in the table"
            )


def _by_key(table: pa.Table, keys: list[str]) -> dict[tuple[int, ...], int]:
    rows = zip(*(table[key].to_pylist() for key in keys), strict=True)
    return {row: index for index, row in reversed(list(enumerate(rows)))}


def _name_keys(what: str, keys: list[str], found: set[tuple[int, ...]], to: list[str]) -> None:
    for row in sorted(found)[:_SHOWN]:
        to.append(f"{what}: " + ", ".join(f"{key} {value}" for key, value in zip(keys, row, strict=True)))
    if len(found) > _SHOWN:
        to.append(f"{what}: {len(found) - _SHOWN} more rows")


def _unknown_metrics(state: RunState, report: TableReport) -> None:
    known = set(metric_names(state))
    unknown = {name for _, row in state.history for name in row.record if name not in known}
    report.findings += [
        f"the log has a metric that the run did not announce: {name}" for name in sorted(unknown)
    ]
