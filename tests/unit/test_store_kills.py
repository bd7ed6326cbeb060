"""Kills at instants that nobody chose. `THRESHER_KILLS` says how many; the soak asks for a thousand."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from search.records import RunState, fold
from search.store import open_store
from tests.support import crash
from tests.support.runs import essence, unbroken
from tests.support.s3 import S3Server, s3_server

KILLS = int(os.environ.get("THRESHER_KILLS", "12"))
TRIALS = 8


@dataclass
class Tally:
    """What the kills did."""

    kills: int = 0
    recorded: int = 0
    lost: int = 0
    doubled: int = 0
    slowest_resume_s: float = 0.0


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def wanted() -> RunState:
    return unbroken(open_store("memory://kills-wanted"), TRIALS)


def _count(tally: Tally, said: dict[int, int], job: crash.Job) -> RunState:
    """Compares the log with all that any process has ever acknowledged."""
    lines = crash.acknowledged(job)
    durable = [index for index, line in enumerate(lines) if line[2]]
    said.update({seq: crc for seq, crc, _ in lines[: durable[-1] + 1]} if durable else {})
    begun = time.monotonic()
    events = list(open_store(job.uri).read())
    state = fold(events)
    tally.slowest_resume_s = max(tally.slowest_resume_s, time.monotonic() - begun)
    there = {event.seq: crash.digest(event) for event in events}
    tally.lost += sum(there.get(seq) != crc for seq, crc in said.items())
    keys = [(number, row.step) for number, row in state.history]
    tally.doubled += len(keys) - len(set(keys)) + len(events) - len(there)
    return state


def _let_it_work(process: BaseProcess, job: crash.Job, rng: random.Random) -> None:
    """Waits for some events, or for none, and then for a part of the next one."""
    wanted = rng.randint(0, 25)
    while process.exitcode is None and len(crash.acknowledged(job)) < wanted:
        time.sleep(0.0005)
    time.sleep(rng.uniform(0.0, 0.004 if wanted else 0.1))


def soak(job: crash.Job, kills: int, wanted: RunState, rng: random.Random) -> Tally:
    """Kills, again and again, whoever works on the run; a search that gets done is followed by a new one."""
    tally, said, turn, searches = Tally(), {}, 0, 0
    while tally.kills < kills:
        uri = f"{job.uri}-{searches}"
        this = replace(job, uri=uri, said=job.said.with_name(f"said-{turn}"))
        process = crash.start(this)
        turn += 1
        _let_it_work(process, this, rng)
        if process.exitcode is None:
            process.kill()
            process.join()
            tally.kills += 1
        state = _count(tally, said, this)
        assert tally.lost == tally.doubled == 0, tally
        if state.closed is not None:
            assert essence(state) == essence(wanted)
            tally.recorded += len(said)
            searches, said = searches + 1, {}
    last = replace(job, uri=f"{job.uri}-{searches}", said=job.said.with_name("said-last"))
    process = crash.start(last)
    process.join(120)
    assert process.exitcode == 0
    assert essence(_count(tally, said, last)) == essence(wanted)
    assert tally.lost == tally.doubled == 0, tally
    tally.recorded += len(said)
    return tally


@pytest.mark.fault(
    1,
    how="SIGKILL at random instants to a process that searches and writes tables in a folder",
    saw=(
        "every acknowledged event is there once, none lost or doubled; the search goes on to the same "
        "trials as an unbroken one"
    ),
)
def test_in_a_folder(tmp_path: Path, wanted: RunState) -> None:
    job = crash.Job(str(tmp_path / "run"), tmp_path / "said", TRIALS, tables=True)
    tally = soak(job, KILLS, wanted, random.Random(0))
    print(f"folder: {tally}")
    assert tally.kills == KILLS


@pytest.mark.fault(
    1,
    how="the same kills on an S3 server",
    saw="nothing lost or doubled; the same trials as an unbroken search",
)
def test_on_s3(tmp_path: Path, wanted: RunState, server: S3Server) -> None:
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    job = crash.Job(f"{server.uri}/run", tmp_path / "said", TRIALS, environment=environment)
    tally = soak(job, max(KILLS // 2, 1), wanted, random.Random(1))
    print(f"s3: {tally}")
    assert tally.kills == max(KILLS // 2, 1)
