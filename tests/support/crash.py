"""A search in a process of its own that ends at a fault point, or is killed, and says what was acknowledged before."""

from __future__ import annotations

import errno
import importlib
import multiprocessing
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from search.events import Event
from search.store import LocalStore, ObjectStore, RunLog, Store, open_store
from search.store.log import is_durable
from tests.support.runs import drive, opened
from trainable import faults

_ROOT = str(Path(__file__).parents[2])
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.support.crash", "search.tables", "search.store.objects"])


@dataclass(frozen=True)
class Job:
    """What the process does.

    Attributes:
        uri: the run.
        said: a file that gets one line per acknowledged event.
        total: trials of the search.
        fault: `name[:n]`, or None.
        tables: whether it writes tables as well.
        full_at: the n-th sync of the log finds the disk full; 0 for never.
        environment: what the server process may not know.
    """

    uri: str
    said: Path
    total: int = 4
    fault: str | None = None
    tables: bool = False
    full_at: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


class Telling(RunLog):
    """Says what it has acknowledged, at once."""

    said = -1
    after: list[Any] = []  # noqa: RUF012

    def append(self, event_type: str, /, **payload: Any) -> Event:
        event = super().append(event_type, **payload)
        durable = is_durable(event.type, event.payload) or self.store.path is not None
        os.write(self.said, f"{event.seq} {digest(event)} {int(durable)}\n".encode())
        self.store.tick()
        for call in self.after:
            call(self.state)
        return event


def digest(event: Event) -> int:
    """Tells two events apart."""
    return zlib.crc32(repr((event.type, event.payload)).encode())


def store_of(uri: str) -> Store:
    """A store whose log rotates and is merged often enough to be caught at it."""
    return ObjectStore(uri, merge_at=6) if "://" in uri else LocalStore(Path(uri), rotate_bytes=4000)


def start(job: Job) -> BaseProcess:
    """Starts the process."""
    process = _processes.Process(target=_run, args=(job,))
    before = os.environ.get("PYTHONPATH")
    # The server that forks, started by the first call, finds what it is to load beforehand by this alone.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_ROOT, before)))
    try:
        process.start()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return process


def acknowledged(job: Job) -> list[tuple[int, int, bool]]:
    """Number, digest and durability of every event that a process has said; a line cut short does not count."""
    if not job.said.exists():
        return []
    lines = job.said.read_text().split("\n")[:-1]
    return [(int(seq), int(crc), durable == "1") for seq, crc, durable in (line.split() for line in lines)]


def search(job: Job) -> RunLog:
    """Opens the run or goes on with it, and works until all trials are done."""
    store = store_of(job.uri)
    # Every tick renews the lease and sends what waits.
    importlib.import_module("search.store.lease").RENEW_S = 0.0
    importlib.import_module("search.store.objects").WAIT_S = 0.0
    Telling.said = os.open(job.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    there = any(True for _ in open_store(job.uri).read())
    begin = Telling.resume if there else Telling.create
    log = begin(store, heartbeat=False, **({} if there else opened()))
    if job.tables:
        writer = importlib.import_module("search.tables").TableWriter(store, 1e9, rows_per_part=5)
        Telling.after = [writer.update]
    drive(log, job.total)
    if job.tables:
        writer.close(log.state)
    log.close()
    return log


def _run(job: Job) -> None:
    os.environ.update(job.environment)
    faults._armed = faults._from_environment(job.fault)
    if job.full_at:
        _fill_up(job.full_at)
    search(job)


def _fill_up(nth: int) -> None:
    real, calls = os.fsync, iter(range(1, 10**9))

    def fsync(handle: int) -> None:
        if next(calls) == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    os.fsync = fsync
