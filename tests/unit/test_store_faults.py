"""A process ends at every fault point of the store in turn; the run is opened again, and nothing is lost or double."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from search.events import Event, encode
from search.records import RunState, fold, repair
from search.store import open_store
from search.tables import verify
from tests.support import crash
from tests.support.runs import essence, unbroken
from tests.support.s3 import S3Server, s3_server
from trainable.faults import FAULT_POINTS, KILLED

LOCAL = {
    "events.create": (1, 2),
    "events.dirsync": (1, 2),
    "events.write": (1, 14),
    "events.fsync": (1, 14),
    "events.written": (1, 14),
    "file.write": (1, 6),
    "file.fsync": (1, 6),
    "file.rename": (1, 6),
    "file.dirsync": (1, 6),
    "lease.write": (1, 9),
    "lease.fsync": (1, 9),
    "lease.link": (1,),
    "lease.rename": (1, 9),
    "lease.dirsync": (1, 9),
}
REMOTE = {
    "object.put": (1, 12),
    "object.written": (1, 12),
    "object.delete": (1, 2),
    "merge.put": (1, 2),
    "merge.written": (1, 2),
    "lease.put": (1, 9),
    "lease.written": (1, 9),
}
PREPARED = {"events.cut", "events.repair"}
"""Points that are only passed when something is wrong already: each has a test of its own."""

TRIALS = 3

_counter = iter(range(10**9))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def wanted() -> RunState:
    return unbroken(open_store("memory://faults-wanted"), TRIALS)


def _cases(points: dict[str, tuple[int, ...]]) -> list[str]:
    return [f"{point}:{nth}" for point, nths in points.items() for nth in nths]


def check(job: crash.Job) -> RunState:
    """Everything acknowledged is in the log, once, as it was said."""
    events = list(open_store(job.uri).read())
    there = {event.seq: crash.digest(event) for event in events}
    said = crash.acknowledged(job)
    durable = [index for index, (_, _, is_durable) in enumerate(said) if is_durable]
    for seq, crc, _ in said[: durable[-1] + 1] if durable else []:
        assert there.get(seq) == crc, f"event {seq} was acknowledged and is lost"
    state = fold(events)
    rows = [(number, row.step) for number, row in state.history]
    assert len(rows) == len(set(rows))
    return state


def crash_and_go_on(job: crash.Job, wanted: RunState) -> None:
    process = crash.start(job)
    process.join(60)
    assert process.exitcode == KILLED, f"{job.fault} was not passed often enough"
    check(job)
    again = replace(job, said=job.said.with_name("again"), fault=None, full_at=0)
    process = crash.start(again)
    process.join(60)
    assert process.exitcode == 0
    check(job)
    state = check(again)
    assert essence(state) == essence(wanted)
    assert repair(state) == [] and state.closed == {"exit_code": 0, "reason": None}
    if job.tables:
        report = verify(job.uri)
        assert report.ok, report
        assert not [
            path for path in Path(job.uri).rglob("*.tmp") if not path.name.startswith((".lease", "..lease"))
        ]


def test_every_point_is_crashed_at() -> None:
    ours = {
        name for name in FAULT_POINTS if name.split(".")[0] in ("events", "file", "lease", "object", "merge")
    }
    assert ours == {*LOCAL, *REMOTE, *PREPARED}


@pytest.mark.fault(
    1, 4,
    how=(
        "the process ends at every write, fsync, link and rename of log, lease and tables, one after the "
        "other"
    ),
    saw=(
        "temporary files are ignored and removed, tables open and agree with the log, the search ends as "
        "an unbroken one"
    ),
)
@pytest.mark.parametrize("fault", _cases(LOCAL))
def test_in_a_folder(fault: str, tmp_path: Path, wanted: RunState) -> None:
    tables = fault.startswith("file.")
    crash_and_go_on(crash.Job(str(tmp_path / "run"), tmp_path / "said", TRIALS, fault, tables), wanted)


@pytest.mark.fault(
    1,
    how="the process ends before and after every put and delete of log, merge and lease on an S3 server",
    saw="nothing acknowledged is lost; the search ends as an unbroken one",
)
@pytest.mark.parametrize("fault", _cases(REMOTE))
def test_on_s3(fault: str, tmp_path: Path, wanted: RunState, server: S3Server) -> None:
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    uri = f"{server.uri}/run-{next(_counter)}"
    crash_and_go_on(crash.Job(uri, tmp_path / "said", TRIALS, fault, environment=environment), wanted)


def test_while_a_half_written_line_is_taken_off(tmp_path: Path, wanted: RunState) -> None:
    job = crash.Job(str(tmp_path / "run"), tmp_path / "said", TRIALS, "events.cut:1", full_at=20)
    crash_and_go_on(job, wanted)


def test_while_a_torn_tail_is_cut_off(tmp_path: Path, wanted: RunState) -> None:
    run = tmp_path / "run"
    unbroken(open_store(run), 1)
    (segment,) = (run / "events").iterdir()
    lines = segment.read_bytes().splitlines(keepends=True)
    torn = encode(Event(len(lines) - 1, 1, "t", "told", {"trial": 0, "state": "complete", "value": 1.0}))[:-9]
    segment.write_bytes(b"".join(lines[:-1]) + torn)
    crash_and_go_on(crash.Job(str(run), tmp_path / "said", TRIALS, "events.repair:1"), wanted)
