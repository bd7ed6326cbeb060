"""Kills at instants that nobody chose. `THRESHER_KILLS` says how many; the soak asks for a thousand."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.records import RunState
from search.store import open_store
from tests.support import crash
from tests.support.kill_writers import kill_writers
from tests.support.runs import unbroken
from tests.support.s3 import S3Server, s3_server

KILLS = int(os.environ.get("THRESHER_KILLS", "12"))
TRIALS = 8


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def wanted() -> RunState:
    return unbroken(open_store("memory://kills-wanted"), TRIALS)


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
    tally = kill_writers(job, KILLS, wanted, TRIALS, random.Random(0))
    print(f"folder: {tally.line()}")
    assert tally.kills == KILLS and tally.recorded and tally.clean


@pytest.mark.fault(
    1,
    how="the same kills on an S3 server",
    saw="nothing lost or doubled; the same trials as an unbroken search",
)
def test_on_s3(tmp_path: Path, wanted: RunState, server: S3Server) -> None:
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    job = crash.Job(f"{server.uri}/run", tmp_path / "said", TRIALS, environment=environment)
    tally = kill_writers(job, max(KILLS // 2, 1), wanted, TRIALS, random.Random(1))
    print(f"s3: {tally.line()}")
    assert tally.kills == max(KILLS // 2, 1) and tally.recorded and tally.clean
