"""The `trials` table of a run: one row per trial, with the same columns in the same order from the first row on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from search.records import RunState, TrialRecord

SCHEMA_VERSION = 1
"""Version of the tables' columns, as it stands in each file."""

_UNITS = {
    "time_s": "s",
    "gpu_seconds": "GPU s",
    "peak_memory_mb": "MB",
    "steps": "training steps",
    "step": "training steps",
    "best.step": "training steps",
    "started_at": "UTC",
    "ended_at": "UTC",
}
_ARROW = {
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "str": pa.string(),
    "json": pa.string(),
    "time": pa.timestamp("us", "UTC"),
}
_PANDAS = {"int": "Int64", "float": "float64", "bool": "boolean", "str": "object", "json": "object"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its kind (a key of `_ARROW`), and its values."""

    name: str
    kind: str
    values: list[Any]


def trials_table(state: RunState) -> pa.Table:
    """The trials of a run as a table; a pure function of the state."""
    columns = list(_columns(state, list(state.trials.values())))
    frame = pd.DataFrame({column.name: _series(column) for column in columns})
    schema = pa.schema([(column.name, _ARROW[column.kind]) for column in columns])
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    return with_metadata(table, state)


def with_metadata(table: pa.Table, state: RunState, **more: int) -> pa.Table:
    """Adds what the file says of itself: schema version, units, what the scores mean, and how far the log was read."""
    run = state.run
    search = _section(run.get("config"), "search")
    units = {**_UNITS, **(run.get("units") or {})}
    said = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run.get("run_id"),
        "name": run.get("name"),
        "seq": state.seq,
        "objective": search.get("objective"),
        "direction": state.direction,
        "units": {name: unit for name, unit in units.items() if name in table.column_names},
        "metric_definition": run.get("metric_definition") or {},
        **more,
    }
    texts = {f"thresher.{key}": json.dumps(value, sort_keys=True) for key, value in said.items()}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **texts})


def metric_names(state: RunState) -> list[str]:
    """Names of the metrics that every row of this run's tables has."""
    return list(dict.fromkeys(str(name) for name in state.run.get("metrics", ())))


def _columns(state: RunState, trials: list[TrialRecord]) -> Iterator[Column]:
    yield Column("trial", "int", [t.number for t in trials])
    yield Column("state", "str", [str(t.state) for t in trials])
    yield Column("stop_reason", "str", [t.stop_reason for t in trials])
    yield Column("attempts", "int", [t.attempts for t in trials])
    yield Column("seed", "int", [t.seed for t in trials])
    yield Column("steps", "int", [t.steps for t in trials])
    yield Column("source", "str", [t.source for t in trials])
    yield Column("generation", "int", [t.generation for t in trials])
    yield Column("parent", "int", [t.parent if isinstance(t.parent, int) else None for t in trials])
    yield Column("device", "str", [t.device for t in trials])
    yield Column("objective", "float", [t.best_value for t in trials])
    yield Column("rung", "int", [t.rung for t in trials])
    yield Column("time_s", "float", [t.time_s for t in trials])
    yield Column("gpu_seconds", "float", [t.gpu_seconds for t in trials])
    yield Column("peak_memory_mb", "float", [t.peak_memory_mb for t in trials])
    yield Column("started_at", "time", [t.started_at for t in trials])
    yield Column("ended_at", "time", [t.ended_at for t in trials])
    yield from _params(state, trials)
    yield from _coords(state, trials)
    yield Column("config", "str", [json.dumps(t.config) for t in trials])
    yield Column("best.step", "int", [t.best_step for t in trials])
    for name in metric_names(state):
        yield Column(f"best.{name}", "float", [(t.best_record or {}).get(name) for t in trials])
    for name in metric_names(state):
        yield Column(f"last.{name}", "float", [(t.last_record or {}).get(name) for t in trials])
    rules = dict.fromkeys(
        [*map(str, state.run.get("health_rules") or ()), *(r for t in trials for r in t.health)]
    )
    for rule in rules:
        yield Column(f"health.{rule}", "float", [_number(t.health.get(rule)) for t in trials])
    yield Column("git_revision", "str", [state.run.get("git_revision")] * len(trials))
    yield Column("data_hash", "str", [state.run.get("data_hash")] * len(trials))
    yield Column("space_hash", "str", [state.spaces.get(t.generation, {}).get("space_hash") for t in trials])
    leak = _section(state.run.get("config"), "data").get("allow_leak") is True
    yield Column("allow_leak", "bool", [leak] * len(trials))
    yield Column(
        "error", "str", [t.error if isinstance(t.error, str | None) else json.dumps(t.error) for t in trials]
    )


def _params(state: RunState, trials: list[TrialRecord]) -> Iterator[Column]:
    declared: dict[str, str] = {}
    for generation in sorted(state.spaces):
        for name, kind in _declared(state.spaces[generation].get("space")):
            declared[name] = _wider({declared.get(name, kind), kind})
    for name in dict.fromkeys([*declared, *(name for trial in trials for name in trial.params)]):
        values = [_param(trial, name) for trial in trials]
        seen = {_kind(value) for value in values if value is not None}
        kind = _wider(seen | ({declared[name]} if name in declared else set()))
        shown = (
            [None if value is None else json.dumps(value) for value in values] if kind == "json" else values
        )
        yield Column(f"param.{name}", kind, shown)


def _coords(state: RunState, trials: list[TrialRecord]) -> Iterator[Column]:
    axes = [
        axis["name"]
        for generation in sorted(state.spaces)
        for entry in _entries(state.spaces[generation].get("space"))
        for axis in _axes(entry)
    ]
    for name in dict.fromkeys([*axes, *(name for trial in trials for name in trial.coords)]):
        yield Column(f"coord.{name}", "float", [trial.coords.get(name) for trial in trials])


def _param(trial: TrialRecord, name: str) -> Any:
    """A knob's natural value: as sampled, or as the full configuration has it (a baseline samples nothing)."""
    if name in trial.params:
        return trial.params[name]
    level: Any = trial.config.get("train", trial.config)
    for part in name.split("."):
        level = level.get(part) if isinstance(level, Mapping) else None
    return level


# ---- what a search space says of its knobs, read leniently: an older one may say less ----


def _entries(space: Any) -> Iterator[Mapping[str, Any]]:
    entries = space.get("entries") if isinstance(space, Mapping) else None
    return (
        (entry for entry in entries if isinstance(entry, Mapping)) if isinstance(entries, list) else iter(())
    )


def _axes(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    kind, names = entry.get("entry"), entry.get("names")
    if kind == "simplex" and isinstance(names, list):
        return [{"name": f"{name}.share", "kind": "float"} for name in names[:-1]]
    axis = entry.get("axis")
    found = [axis] if isinstance(axis, Mapping) and isinstance(axis.get("name"), str) else []
    return found + ([{"name": f"{entry.get('high')}.gap", "kind": "float"}] if kind == "ordered_pair" else [])


def _declared(space: Any) -> Iterator[tuple[str, str]]:
    for entry in _entries(space):
        listed = entry.get("names")
        names = listed if isinstance(listed, list) else [entry.get(key) for key in ("name", "low", "high")]
        axis = next(iter(_axes(entry)), {})
        choices = axis.get("choices")
        if axis.get("kind") == "choice" and isinstance(choices, list):
            kind = _wider({_kind(choice) for choice in choices if choice is not None})
        elif axis.get("kind") in ("int", "float"):
            kind = axis["kind"]
        elif entry.get("value") is not None:
            kind = _kind(entry["value"])
        else:
            continue
        yield from ((name, kind) for name in names if isinstance(name, str))


def _kind(value: Any) -> str:
    if type(value) is int and not -(2**63) <= value < 2**63:
        return "json"
    return {bool: "bool", int: "int", float: "float", str: "str"}.get(type(value), "json")


def _wider(kinds: Iterable[str]) -> str:
    """The kind that holds values of all of them.

    >>> _wider({"int"}), _wider({"int", "float"}), _wider({"bool", "str"}), _wider(set())
    ('int', 'float', 'json', 'float')
    """
    found = set(kinds)
    if len(found) == 1:
        return found.pop()
    return "float" if found <= {"int", "float"} else "json"


# ---- values ----


def _series(column: Column) -> pd.Series[Any]:
    if column.kind == "time":
        return pd.to_datetime(pd.Series(column.values, dtype="object"), utc=True, errors="coerce").dt.as_unit(
            "us"
        )
    return pd.Series(column.values, dtype=_PANDAS[column.kind])


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None


def _section(config: Any, name: str) -> Mapping[str, Any]:
    found = config.get(name) if isinstance(config, Mapping) else None
    return found if isinstance(found, Mapping) else {}
