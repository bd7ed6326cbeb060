"""The tables of a run: their columns, what they hold, how they follow the log, and how they are checked against it."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search
from search.records import RunState, fold
from search.store import RunLog, Store, open_store
from search.tables import (
    TableWriter,
    best_config,
    history_table,
    load_history,
    load_trials,
    trials_table,
    verify,
    write_tables,
)
from search.tables.columns import _wider
from tests.support.clock import FakeClock
from tests.support.runs import METRICS, drive, opened, unbroken
from tests.support.s3 import S3Server, s3_server
from trainable.errors import LeaseLostError, StoreError
from trainable.faults import armed

_counter = iter(range(10**9))

FIXED = [
    *(
        "trial",
        "state",
        "stop_reason",
        "attempts",
        "seed",
        "steps",
        "source",
        "generation",
        "parent",
        "device",
    ),
    *("objective", "rung", "time_s", "gpu_seconds", "peak_memory_mb", "started_at", "ended_at"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def _written(store: Store, total: int = 6, **changed: Any) -> RunState:
    """A finished small search with its tables."""
    with RunLog.create(store, heartbeat=False, **opened(**changed)) as log:
        drive(log, total)
        write_tables(store, log.state)
        return log.state


def _full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---- columns ----


def test_plain_pandas_opens_both(run: Path) -> None:
    state = _written(open_store(run))
    trials, history = pd.read_parquet(run / "trials.parquet"), pd.read_parquet(run / "history")
    assert list(trials["trial"]) == list(range(6))
    assert list(trials.columns) == [
        *FIXED,
        "param.lr",
        "coord.log_lr",
        "config",
        "best.step",
        *(f"best.{name}" for name in METRICS),
        *(f"last.{name}" for name in METRICS),
        "git_revision",
        "data_hash",
        "space_hash",
        "allow_leak",
        "error",
    ]
    assert list(history.columns) == ["trial", "attempt", "step", "time_s", *METRICS]
    assert len(history) == len(state.history)
    assert not history.duplicated(["trial", "step"]).any()
    for number, trial in state.trials.items():
        row, mine = trials.iloc[number], history[history["trial"] == number]
        assert row["state"] == str(trial.state)
        if trial.best_value is None:
            assert mine["val/miou"].isna().all() and pd.isna(row["objective"]) and pd.isna(row["best.step"])
        else:
            assert row["objective"] == row["best.val/miou"] == mine["val/miou"].max() == trial.best_value
            assert row["best.step"] == mine.loc[mine["val/miou"].idxmax(), "step"]
            assert row["last.val/miou"] == mine["val/miou"].iloc[-1]
        assert row["steps"] == mine["step"].max()
        assert row["param.lr"] == trial.params["lr"]
        assert json.loads(row["config"]) == trial.config
        assert row["ended_at"] >= row["started_at"]
        assert row["space_hash"] == "s" * 64 and not row["allow_leak"]


@pytest.mark.fault(
    29,
    how="trials that measure NaN for a while",
    saw="the table has no value there, and best comes from finite ones",
)
def test_a_metric_that_was_not_finite_is_missing(run: Path) -> None:
    _written(open_store(run))
    history = pd.read_parquet(run / "history")
    bad = history[(history["trial"] == 5) & (history["step"] < 300)]
    assert len(bad) and bad["val/miou"].isna().all() and bad["loss/total"].notna().all()
    column = pq.read_table(run / "history" / "part-00000.parquet")["val/miou"]
    assert column.null_count == len(bad)
    assert not any(math.isnan(value) for value in column.drop_null().to_pylist())


def test_kinds_are_the_same_from_the_first_row_on(run: Path) -> None:
    """Also when nothing is known yet: an empty table, a table of nothing but nulls, a full one."""
    space = {
        "format": 1,
        "entries": [
            {"entry": "shared", "names": ["optimizer.lr"], "axis": {"name": "optimizer.lr", "kind": "float"}},
            {"entry": "shared", "names": ["batch_size"], "axis": {"name": "batch_size", "kind": "int"}},
            {
                "entry": "shared",
                "names": ["amp"],
                "axis": {"name": "amp", "kind": "choice", "choices": ["auto", None]},
            },
            {
                "entry": "shared",
                "names": ["flip"],
                "axis": {"name": "flip", "kind": "choice", "choices": [True, False]},
            },
            {"entry": "simplex", "names": ["loss.ce", "loss.dice", "loss.focal"]},
            {
                "entry": "ordered_pair",
                "low": "scale_min",
                "high": "scale_max",
                "axis": {"name": "scale_min", "kind": "float"},
            },
            {"entry": "fixed", "name": "st.start_step", "value": 5},
        ],
    }
    store = open_store(run)
    with RunLog.create(store, heartbeat=False, **opened(space=space, health_rules=["gap"])) as log:
        tables = [trials_table(log.state)]
        log.append("asked", trial=0, source="default", params={}, coords={}, config={})
        tables.append(trials_table(log.state))
        params = {
            "optimizer.lr": 1,
            "batch_size": 8,
            "amp": "auto",
            "flip": True,
            "loss.ce": 0.5,
            "loss.dice": 0.25,
            "loss.focal": 0.25,
            "scale_min": 0.5,
            "scale_max": 1.0,
            "st.start_step": 5,
        }
        coords = {"optimizer.lr": 0.5, "batch_size": 8, "amp": 0, "flip": 1, "loss.ce.share": 0.5}
        log.append("asked", trial=1, source="sampled", params=params, coords=coords, config={}, seed=3)
        log.append("ended", trial=1, state="FAILED", error="x", health={"gap": 200})
        tables.append(trials_table(log.state))
    schemas = [table.schema.remove_metadata() for table in tables]
    assert schemas[0] == schemas[1] == schemas[2]
    kinds = {
        name.removeprefix("param."): str(schemas[0].field(name).type)
        for name in schemas[0].names
        if name.startswith("param.")
    }
    assert kinds == {
        "optimizer.lr": "double",
        "batch_size": "int64",
        "amp": "string",
        "flip": "bool",
        "loss.ce": "double",
        "loss.dice": "double",
        "loss.focal": "double",
        "scale_min": "double",
        "scale_max": "double",
        "st.start_step": "int64",
    }
    assert [name for name in schemas[0].names if name.startswith("coord.")] == [
        "coord.optimizer.lr",
        "coord.batch_size",
        "coord.amp",
        "coord.flip",
        "coord.loss.ce.share",
        "coord.loss.dice.share",
        "coord.scale_min",
        "coord.scale_max.gap",
    ]
    frames = [table.to_pandas() for table in tables]
    assert (frames[0].dtypes == frames[2].dtypes).all() and (frames[1].dtypes == frames[2].dtypes).all()
    assert frames[2]["health.gap"].tolist()[1] == 200.0
    assert frames[2]["param.optimizer.lr"].tolist()[1] == 1.0


def test_values_that_are_not_plain_are_shown_as_json(run: Path) -> None:
    with RunLog.create(open_store(run), heartbeat=False, **opened(space=None)) as log:
        log.append(
            "asked", trial=0, source="default", params={"sizes": [1, 2], "mix": 1}, coords={}, config={}
        )
        log.append("asked", trial=1, source="default", params={"mix": "a"}, coords={}, config={}, parent=0)
        log.append("ended", trial=1, state="FAILED", error={"type": "OutOfMemory"})
        frame = trials_table(log.state).to_pandas()
    assert frame["param.sizes"].tolist()[0] == "[1, 2]"
    assert frame["param.mix"].tolist() == ["1", '"a"']
    assert frame["error"].tolist()[1] == '{"type": "OutOfMemory"}'
    assert frame["parent"].tolist()[1] == 0


def test_a_baseline_shows_the_knobs_of_its_configuration(run: Path) -> None:
    with RunLog.create(open_store(run), heartbeat=False, **opened(space=None)) as log:
        config = {"train": {"optimizer": {"lr": 0.5}, "threshold": {"road": 0.25}}}
        log.append("asked", trial=0, source="preset:V3.0", params={}, coords={}, config=config)
        params = {"optimizer.lr": 0.1, "threshold.road": 0.9}
        log.append("asked", trial=1, source="sampled", params=params, coords={}, config={})
        frame = trials_table(log.state).to_pandas()
    assert frame["param.optimizer.lr"].tolist() == [0.5, 0.1]
    assert frame["param.threshold.road"].tolist() == [0.25, 0.9]


@given(
    st.sets(st.sampled_from(["int", "float", "bool", "str", "json"])),
    st.sampled_from(["int", "float", "str"]),
)
def test_a_wider_kind_holds_all(kinds: set[str], more: str) -> None:
    wide = _wider(kinds)
    assert _wider([wide]) == wide
    assert _wider({_wider(kinds), more}) == _wider(kinds | {more}) or not kinds


def test_the_file_says_what_it_is(run: Path) -> None:
    state = _written(open_store(run), units={"val/miou": "share"})
    for path in (run / "trials.parquet", run / "history" / "part-00000.parquet"):
        said = {
            key.decode().removeprefix("thresher."): json.loads(value)
            for key, value in pq.read_schema(path).metadata.items()
            if key.startswith(b"thresher.")
        }
        assert said["schema_version"] == 1 and said["run_id"] == "r-1" and said["seq"] == state.seq
        assert said["objective"] == "val/miou" and said["direction"] == "max"
        assert said["metric_definition"] == {"ignore_index": 255}
        assert said["units"]["time_s"] == "s"
    assert said["units"]["val/miou"] == "share"


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 4), st.none() | st.floats(), st.none() | st.floats()),
        max_size=12,
    )
)
def test_history_against_a_plain_reference(rows: list[tuple[int, int, float | None, float | None]]) -> None:
    store = open_store(f"memory://tables-{next(_counter)}")
    with RunLog.create(store, heartbeat=False, **opened(metrics=["a", "b"])) as log:
        for number in range(3):
            log.append("asked", trial=number, source="x", params={}, config={})
        first: dict[tuple[int, int], tuple[float, float]] = {}
        for trial, step, a, b in rows:
            record = {"a": a} if b is None else {"a": a, "b": b}
            log.append("evaluated", trial=trial, attempt=1, step=step, record=record, decision={})
            shown = [value if value is not None and math.isfinite(value) else math.nan for value in (a, b)]
            first.setdefault((trial, step), (shown[0], shown[1]))
        frame = history_table(log.state).to_pandas()
    assert list(zip(frame["trial"], frame["step"], strict=True)) == list(first)
    np.testing.assert_array_equal(frame[["a", "b"]].to_numpy(), np.array(list(first.values())).reshape(-1, 2))


# ---- writing ----


def test_parts(run: Path) -> None:
    store = open_store(run)
    with RunLog.create(store, heartbeat=False, **opened()) as log:
        writer = TableWriter(store, rows_per_part=4)
        writer.update(log.state)
        assert [name for name in store.list() if name.startswith("history")] == ["history/part-00000.parquet"]
        assert len(pd.read_parquet(run / "history")) == 0
        drive(log, 3)
        writer.close(log.state)
        sizes = [pq.read_metadata(path).num_rows for path in sorted((run / "history").iterdir())]
        assert sum(sizes) == len(log.state.history) and set(sizes[:-1]) == {4} and 0 < sizes[-1] <= 4
        before = (run / "history" / "part-00000.parquet").stat().st_mtime_ns
        drive(log, 6)
        writer.close(log.state)
        assert (run / "history" / "part-00000.parquet").stat().st_mtime_ns == before
        pd.testing.assert_frame_equal(pd.read_parquet(run / "history"), history_table(log.state).to_pandas())
        TableWriter(store, rows_per_part=1000).close(log.state)
        assert [path.name for path in (run / "history").iterdir()] == ["part-00000.parquet"]
        pd.testing.assert_frame_equal(pd.read_parquet(run / "history"), history_table(log.state).to_pandas())


def test_when_the_tables_are_written(run: Path) -> None:
    clock = FakeClock()
    store = open_store(run, clock)
    row = {"attempt": 1, "objective": 0.5, "record": {"val/miou": 0.5}, "decision": {}}
    with RunLog.create(store, heartbeat=False, **opened()) as log:
        writer = TableWriter(store, min_interval_s=30)
        assert writer.update(log.state) and not writer.update(log.state)
        for number in range(2):
            log.append("asked", trial=number, source="x", params={}, config={})
        log.append("evaluated", trial=0, step=1, **row)
        clock.now += 29
        assert not writer.update(log.state)
        clock.now += 1
        assert writer.update(log.state)
        clock.now += 60
        assert not writer.update(log.state)
        log.append("evaluated", trial=0, step=2, **row)
        assert writer.update(log.state)
        log.append("evaluated", trial=0, step=3, **row)
        assert not writer.update(log.state)
        log.append("ended", trial=0, state="COMPLETE")
        assert writer.update(log.state)
        assert pd.read_parquet(run / "trials.parquet")["state"].tolist() == ["COMPLETE", "PENDING"]
        log.append("evaluated", trial=1, step=1, **row)
        writer.close(log.state)
        assert len(pd.read_parquet(run / "history")) == 4


def test_trouble_with_the_tables_stops_nothing(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    store = open_store(run, clock)
    with RunLog.create(store, heartbeat=False, **opened()) as log:
        writer = TableWriter(store)
        with armed("file.write", _full):
            assert not writer.update(log.state)
        assert writer.trouble is not None and "full" in writer.trouble
        assert "behind the log" in caplog.text
        assert not (run / "trials.parquet").exists()
        clock.now += 30
        assert writer.update(log.state) and writer.trouble is None


def test_a_full_part_that_could_not_be_written_is_written_later(run: Path) -> None:
    clock = FakeClock()
    store = open_store(run, clock)
    with RunLog.create(store, heartbeat=False, **opened()) as log:
        writer = TableWriter(store, rows_per_part=4)
        writer.update(log.state)
        drive(log, 4)
        with armed("file.rename", _full):
            assert not writer.update(log.state, force=True)
        assert writer.update(log.state, force=True)
        pd.testing.assert_frame_equal(pd.read_parquet(run / "history"), history_table(log.state).to_pandas())


def test_only_the_owner_writes(run: Path) -> None:
    clock, other = FakeClock(), FakeClock()
    stale = RunLog.create(open_store(run, clock), heartbeat=False, **opened())
    writer = TableWriter(stale.store)
    writer.update(stale.state)
    other.now = 1000.0
    with RunLog.resume(open_store(run, other), heartbeat=False), pytest.raises(LeaseLostError):
        writer.update(stale.state, force=True)
    with pytest.raises(StoreError, match="call acquire"):
        write_tables(open_store(run), stale.state)


# ---- reading ----


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.mark.parametrize("where", ["local", "s3", "memory"])
def test_loading_anywhere(where: str, run: Path, bucket: S3Server) -> None:
    uri = {"local": str(run), "s3": f"{bucket.uri}/run", "memory": f"memory://load-{next(_counter)}"}[where]
    state = _written(open_store(uri))
    trials, history = search.load_trials(uri), search.load_history(uri)
    pd.testing.assert_frame_equal(trials, trials_table(state).to_pandas())
    pd.testing.assert_frame_equal(history, history_table(state).to_pandas())
    best = search.best_config(uri)
    assert isinstance(best, pd.Series) and best.name == trials["objective"].idxmax()
    assert best["train.lr"] == trials.loc[best.name, "param.lr"]
    if where == "local":
        pd.testing.assert_frame_equal(trials, pd.read_parquet(run / "trials.parquet"))
        pd.testing.assert_frame_equal(history, pd.read_parquet(run / "history"))


def test_tables_that_are_behind_are_caught_up_in_memory(run: Path) -> None:
    _written(open_store(run), 3)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with RunLog.resume(open_store(run), heartbeat=False) as log:
        drive(log, 6)
        state = log.state
    stamp = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    pd.testing.assert_frame_equal(load_trials(run), trials_table(state).to_pandas())
    pd.testing.assert_frame_equal(load_history(run), history_table(state).to_pandas())
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == stamp
    assert (run / "trials.parquet").read_bytes() == before[run / "trials.parquet"]


def test_up_to_date_tables_are_read_without_the_log(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = _written(open_store(run))
    store = open_store(run)
    monkeypatch.setattr(store, "_scan", lambda after: pytest.fail("read the log"))
    assert len(load_trials(store)) == 6 and len(load_history(store)) == len(state.history)


@pytest.mark.fault(
    4, 20,
    how="Parquet files cut short, emptied and overwritten at the start",
    saw="tables are made again from the log, equal to before",
)
@pytest.mark.parametrize("name", ["trials.parquet", "history/part-00000.parquet"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: b"", lambda data: b"PAR1" + data[8:]]
)
def test_torn_tables_are_made_again_from_the_log(
    run: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    state = _written(open_store(run))
    path = run / name
    path.write_bytes(damage(path.read_bytes()))
    pd.testing.assert_frame_equal(load_trials(run), trials_table(state).to_pandas())
    pd.testing.assert_frame_equal(load_history(run), history_table(state).to_pandas())


def test_a_trial_of_ones_own_choice_and_none(run: Path) -> None:
    unbroken(open_store(run), 2)
    assert best_config(run, trial=1).name == 1
    with pytest.raises(StoreError, match="must have trial 9"):
        best_config(run, trial=9)
    with pytest.raises(StoreError, match="must hold a run"):
        load_trials(run / "elsewhere")
    other = run.parent / "other"
    RunLog.create(open_store(other), heartbeat=False, **opened()).close()
    with pytest.raises(StoreError, match="a trial with a finite objective, but has none among 0 trials"):
        best_config(other)


# ---- checking ----


def test_good_tables_are_ok(run: Path) -> None:
    state = _written(open_store(run))
    report = verify(run)
    assert report.ok and report.behind == 0 and report.findings == []
    assert (report.events, report.trials, report.rows) == (state.seq + 1, 6, len(state.history))


def test_tables_that_are_behind_are_ok(run: Path) -> None:
    _written(open_store(run), 3)
    with RunLog.resume(open_store(run), heartbeat=False) as log:
        drive(log, 6)
    report = verify(run)
    assert report.ok and report.behind > 10


def _edit(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def test_what_is_missing_extra_or_different_is_named(run: Path) -> None:
    _written(open_store(run))
    path = run / "history" / "part-00000.parquet"
    good = path.read_bytes()
    _edit(path, lambda table: table.slice(1))
    assert verify(run).missing == ["history: not in the table: trial 0, step 100"]
    path.write_bytes(good)
    _edit(path, lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    assert verify(run).extra == ["history: 1 rows stand twice"]
    path.write_bytes(good)

    def flip(table: pa.Table) -> pa.Table:
        index = table.column_names.index("loss/total")
        values = table["loss/total"].to_pylist()
        return table.set_column(index, "loss/total", pa.array([9.5, *values[1:]]))

    _edit(path, flip)
    (different,) = verify(run).different
    assert (
        different.startswith("history: loss/total of trial 0, step 100 is ")
        and "9.5 in the table" in different
    )
    path.write_bytes(good)
    _edit(path, lambda table: table.drop_columns(["val/iou/tree"]))
    assert verify(run).missing == ["history: column val/iou/tree"]
    path.write_bytes(good[:100])
    assert "cannot be read" in verify(run).missing[0]
    path.unlink()
    assert verify(run).missing == ["history: is not there"]
    path.write_bytes(good)
    (run / "trials.parquet").unlink()
    assert verify(run).missing == ["trials.parquet: is not there"]


@pytest.mark.fault(
    20,
    how="the last Parquet part of the history is removed",
    saw="`verify` counts each of its rows as missing",
)
def test_a_last_part_that_is_gone_is_missing(run: Path) -> None:
    store = open_store(run)
    with RunLog.create(store, heartbeat=False, **opened()) as log:
        writer = TableWriter(store, rows_per_part=4)
        for total in range(1, 7):
            drive(log, total)
            writer.update(log.state, force=True)
    last = sorted((run / "history").iterdir())[-1]
    rows = pq.read_metadata(last).num_rows
    last.unlink()
    assert len(verify(run).missing) == rows


def test_a_log_that_has_lost_its_end(run: Path) -> None:
    _written(open_store(run))
    (log,) = (run / "events").iterdir()
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-6]))
    report = verify(run)
    assert not report.ok and any("the log ends with event" in line for line in report.extra)
    assert any(line.startswith("history: not in the log: trial") for line in report.extra)


def test_a_metric_that_nobody_announced_is_found(run: Path) -> None:
    _written(open_store(run), metrics=["val/miou"])
    assert "did not announce: loss/total" in verify(run).findings[0]


def test_no_run(run: Path) -> None:
    with pytest.raises(StoreError, match="must hold a run"):
        verify(run)


# ---- other readers ----


def test_a_dataset_of_parts_has_one_schema(run: Path) -> None:
    store = open_store(run)
    with RunLog.create(store, heartbeat=False, **opened()) as log:
        writer = TableWriter(store, rows_per_part=4)
        writer.update(log.state)
        drive(log, 6)
        writer.close(log.state)
    (run / "history" / f".part-00009.parquet.{os.getpid()}.0badcafe.tmp").write_bytes(b"half")
    table = ds.dataset(run / "history", format="parquet").to_table()
    assert table.num_rows == len(fold(open_store(run).read()).history)
    assert {str(table.schema.field(name).type) for name in METRICS} == {"double"}
