"""Run directories that anybody may have made: every fault is one that a command can print."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.events import FIELDS
from search.store import RunLog, open_store
from search.tables import best_config, load_history, load_trials, verify, write_tables
from tests.support.clock import FakeClock
from tests.support.runs import drive, opened
from trainable.errors import StoreError, ThresherError

FUZZED = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("fuzz") / "run"
    with RunLog.create(open_store(run), heartbeat=False, **opened()) as log:
        drive(log, 3)
        write_tables(log.store, log.state)
    return run


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Iterator[Callable[[], Path]]:
    counter = iter(range(10**6))

    def copy() -> Path:
        return Path(shutil.copytree(finished, tmp_path / f"run-{next(counter)}"))

    yield copy


def _use(run: Path) -> None:
    """All that a command may do with a run; only errors that are printed without a traceback may come of it."""

    def resume() -> None:
        with RunLog.resume(open_store(run, FakeClock(4e9)), heartbeat=False) as log:
            write_tables(log.store, log.state)

    for act in (
        lambda: load_trials(run),
        lambda: load_history(run),
        lambda: best_config(run),
        lambda: verify(run),
        resume,
    ):
        try:
            act()
        except ThresherError as error:
            assert str(error)


@FUZZED
@given(st.data())
def test_any_byte_of_any_file(copied: Callable[[], Path], data: st.DataObject) -> None:
    run = copied()
    files = sorted(path for path in run.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        how = data.draw(st.sampled_from(["flip", "cut", "insert", "zero"]))
        at = data.draw(st.integers(0, max(len(content) - 1, 0)))
        if how == "flip" and content:
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del content[at:]
        elif how == "insert":
            content[at:at] = data.draw(st.binary(max_size=20))
        else:
            content[at : at + 16] = b"\0" * len(content[at : at + 16])
    path.write_bytes(content)
    _use(run)
    shutil.rmtree(run)


_value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["max", "min", "continue", "prune", "COMPLETE", "RUNNING", "lr", "", "a.b", "\ud800", "\0"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "search",
                    "data",
                    "train",
                    "entries",
                    "entry",
                    "axis",
                    "names",
                    "name",
                    "kind",
                    "choices",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@st.composite
def _lines(draw: st.DrawFn) -> list[bytes]:
    """Events that carry a fitting checksum and have the right names, with any values."""
    lines = []
    kinds = ["run_opened", "asked", *draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=6))]
    for seq, kind in enumerate(kinds):
        required, optional = FIELDS[kind]
        some = draw(st.lists(st.sampled_from(sorted(optional)), unique=True)) if optional else []
        payload: dict[str, Any] = {}
        for name in [*required, *some]:
            kinds_of = {**required, **optional}[name]
            value = draw(_value)
            if type(value) not in kinds_of and draw(st.integers(0, 9)):
                value = draw(st.sampled_from([_plain(kind_of) for kind_of in sorted(kinds_of, key=repr)]))
            payload[name] = value
        if "trial" in payload and draw(st.integers(0, 9)):
            payload["trial"] = 0
        whole = {
            "seq": seq,
            "epoch": 1,
            "time": draw(st.sampled_from(["t", "2026-01-01T00:00:00Z"])),
            "type": kind,
        }
        body = json.dumps({**whole, **payload}, separators=(",", ":")).encode()[:-1]
        lines.append(body + b',"crc":"%08x"}\n' % zlib.crc32(body))
    return lines


def _plain(kind: type) -> Any:
    return {int: 1, float: 0.5, str: "COMPLETE", dict: {}, list: []}.get(kind)


@FUZZED
@given(_lines())
def test_any_event_with_a_fitting_checksum(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    run = tmp_path_factory.mktemp("run")
    (run / "events").mkdir()
    (run / "events" / "000000.jsonl").write_bytes(b"".join(lines))
    _use(run)


@FUZZED
@given(st.binary(max_size=300) | st.dictionaries(st.sampled_from(["host", "pid", "expires", "epoch"]), _value).map(
    lambda found: json.dumps(found).encode()
))  # fmt: skip
def test_any_lease(copied: Callable[[], Path], lease: bytes) -> None:
    run = copied()
    (run / "lease.json").write_bytes(lease)
    _use(run)
    shutil.rmtree(run)


def test_very_deep_json(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    body = b'{"seq":0,"epoch":1,"time":"t","type":"closed","exit_code":' + b"[" * 100_000 + b"]" * 100_000
    (tmp_path / "events" / "000000.jsonl").write_bytes(body + b',"crc":"%08x"}\n' % zlib.crc32(body))
    with pytest.raises(StoreError):
        RunLog.open(open_store(tmp_path))


@pytest.mark.parametrize("what", ["events", "events/000000.jsonl", "trials.parquet", "history", "lease.json"])
def test_folders_for_files_and_files_for_folders(copied: Callable[[], Path], what: str) -> None:
    run = copied()
    path = run / what
    if path.is_dir():
        shutil.rmtree(path)
        path.write_bytes(b"a file")
    else:
        path.unlink()
        path.mkdir()
    _use(run)


def test_a_run_that_was_moved_resumes(finished: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(finished, tmp_path / "elsewhere")
    with RunLog.resume(open_store(moved), heartbeat=False) as log:
        drive(log, 5)
        write_tables(log.store, log.state)
    assert len(load_trials(moved)) == 5 and verify(moved).ok
