"""A run in a folder: a local disk, or a network mount."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from search.events import Event, encode, is_whole
from search.store.atomic import PASSING, TEMP_SUFFIX, explain, sync_dir, write_all, write_atomic
from search.store.base import EVENTS, LEASE, Store, relative
from search.store.clock import Clock
from search.store.lease import LeaseFile
from search.store.lines import read_lines
from search.store.local_lease import LocalLeaseFile
from search.store.segments import first_of, last_seq, limits, segments
from trainable.errors import StoreError
from trainable.faults import declare, fault_point
from trainable.processes import pid_alive

ROTATE_BYTES = 64 * 2**20
"""A log file that has grown to this size is followed by a new one."""

LEFTOVER_S = 3600.0
"""A temporary file of this age is nobody's."""

TRIES = 6
"""How often a write is tried while a mount gives errors that pass."""

declare(
    "events.create",
    "events.dirsync",
    "events.write",
    "events.fsync",
    "events.written",
    "events.cut",
    "events.repair",
)


class LocalStore(Store):
    """Keeps a run in a folder.

    The log is `events/<n>.jsonl`, one line per event. Every owner writes files of its own, and an event in an older
    file does not count when a newer file has one of the same number: a writer that comes back after it lost the run
    cannot disturb what its successor wrote.

    Args:
        path: the folder; made when something is written.
        clock: the clocks.
        rotate_bytes: start a new log file when one has this size.
    """

    path: Path

    def __init__(self, path: Path, clock: Clock | None = None, rotate_bytes: int = ROTATE_BYTES) -> None:
        super().__init__(str(path), clock)
        self.path = path.absolute()
        self._events = self.path / EVENTS
        self._rotate_bytes = rotate_bytes
        self._handle: int | None = None
        self._size = 0

    # ---- small files ----

    def write_bytes(self, name: str, data: bytes) -> None:
        """See `Store.write_bytes`."""
        path = self.path / relative(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._patiently(lambda: write_atomic(path, data, clock=self.clock))
        except OSError as error:
            raise explain(error, str(path)) from error

    def read_bytes(self, name: str) -> bytes:
        """See `Store.read_bytes`."""
        path = self.path / relative(name)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{path}: must be readable, but got {error.strerror or error}") from error

    def exists(self, name: str) -> bool:
        """See `Store.exists`."""
        return (self.path / relative(name)).is_file()

    def list(self, folder: str = "") -> Sequence[str]:
        """See `Store.list`."""
        base = self.path / relative(folder) if folder else self.path
        found = (path for path in base.rglob("*") if not path.name.endswith(TEMP_SUFFIX) and path.is_file())
        return sorted(path.relative_to(self.path).as_posix() for path in found)

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        path = self.path / relative(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise explain(error, str(path)) from error

    def preflight(self) -> None:
        """Writes, syncs and removes a small file, and the folders that were made for it."""
        probe = f".probe-{random.getrandbits(32):08x}"
        made = [folder for folder in (self.path, *self.path.parents) if not os.path.exists(folder)]
        try:
            self.write_bytes(probe, b"thresher\n")
            self.delete(probe)
        finally:
            with contextlib.suppress(OSError):
                for folder in made:
                    folder.rmdir()

    # ---- reading the log ----

    def _scan(self, after: int) -> Iterator[Event]:
        files = segments(self._events)
        ends = limits([first_of(path) for _, path in files])
        expected, set_aside = after + 1, 0
        for index, ((_, path), limit) in enumerate(zip(files, ends, strict=True)):
            if limit <= expected:
                continue
            for event in self._read_segment(path, is_last=index == len(files) - 1):
                if event.seq >= limit:
                    set_aside += 1
                elif event.seq > expected:
                    raise StoreError(
                        f"{path}: event {expected} must come next, but got event {event.seq}: events are missing; "
                        "restore the events folder from a copy"
                    )
                elif event.seq == expected:
                    expected += 1
                    yield event
        if set_aside:
            self._note(f"{self._events}: {set_aside} events of a writer that had lost the run do not count")

    def _read_segment(self, path: Path, is_last: bool) -> Iterator[Event]:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: must be readable, but got {error.strerror or error}") from error
        whole, newline, tail = data.rpartition(b"\n")
        whole += newline
        if tail and is_whole(tail):
            # Only the newline is missing: the event is all there.
            whole += tail + b"\n"
            if is_last and self._lease is not None:
                self._repair(path, len(data), b"\n")
        elif tail:
            rows = whole.count(b"\n")
            self._note(
                f"{path}: an unfinished line of {len(tail)} bytes at its end does not count; {rows} are whole"
            )
            if is_last and self._lease is not None:
                self._repair(path, len(whole), b"")
        return read_lines(whole, str(path))

    def _repair(self, path: Path, size: int, more: bytes) -> None:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND)
            try:
                fault_point("events.repair")
                os.ftruncate(handle, size)
                write_all(handle, more)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            # The tail does not count wherever it stands; a new file follows it.
            self._note(f"{path}: its unfinished end stays there: {error.strerror or error}")

    def last_seq(self) -> int:
        """See `Store.last_seq`."""
        for _, path in reversed(segments(self._events)):
            last = last_seq(path)
            if last is not None:
                return last
        return -1

    def _note(self, finding: str) -> None:
        if finding not in self.findings:
            self.findings.append(finding)

    # ---- appending ----

    def _write(self, event: Event, durable: bool) -> None:
        line = encode(event)
        assert self._lease is not None
        if self._is_removed():
            self._lease.lose("its log was removed while it ran")
        self._lease.check()
        try:
            self._patiently(lambda: self._append_line(line))
        except OSError as error:
            raise explain(error, str(self._events)) from error
        # Looked at once more after the write: either a new owner has read this event, or it is seen here.
        self._lease.check()

    def _is_removed(self) -> bool:
        """Whether the file that is written to has no name any more; a mount that went away is no removal."""
        try:
            return (
                self._handle is not None
                and os.fstat(self._handle).st_nlink == 0
                and not self._events.exists()
            )
        except OSError as error:
            raise explain(error, str(self._events)) from error

    def _append_line(self, line: bytes) -> None:
        if self._handle is not None and self._size >= self._rotate_bytes:
            self._close_segment()
        if self._handle is None:
            self._open_segment()
        assert self._handle is not None
        try:
            fault_point("events.write")
            write_all(self._handle, line)
            fault_point("events.fsync")
            os.fsync(self._handle)
        except BaseException:
            self._cut_back()
            raise
        self._size += len(line)
        fault_point("events.written")

    def _open_segment(self) -> None:
        self._events.mkdir(parents=True, exist_ok=True)
        number = max((number for number, _ in segments(self._events)), default=-1) + 1
        fault_point("events.create")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
        handle = os.open(self._events / f"{number:06d}.jsonl", flags, 0o644)
        try:
            fault_point("events.dirsync")
            sync_dir(self._events)
            sync_dir(self.path)
        except BaseException:
            os.close(handle)
            raise
        self._handle, self._size = handle, 0

    def _cut_back(self) -> None:
        """Takes a half-written line off again; where that fails, the next event goes to a new file."""
        assert self._handle is not None
        try:
            fault_point("events.cut")
            os.ftruncate(self._handle, self._size)
            os.fsync(self._handle)
        except OSError:
            self._close_segment()

    def _close_segment(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(OSError):
                os.close(handle)

    def _patiently(self, act: Callable[[], None]) -> None:
        """Tries again, with growing pauses, while a mount gives errors that pass."""
        for attempt in range(TRIES):
            try:
                act()
                return
            except OSError as error:
                if error.errno not in PASSING or attempt == TRIES - 1:
                    raise
                self.clock.sleep(random.uniform(0.5, 1.0) * min(0.1 * 4**attempt, 10.0))

    def flush(self) -> None:
        """Does nothing: every append is durable when it returns."""

    # ---- the lease ----

    def _lease_file(self) -> LeaseFile:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain(error, str(self.path)) from error
        return LocalLeaseFile(self.path / LEASE, self.clock)

    def _highest_epoch(self) -> int:
        return max(super()._highest_epoch(), LocalLeaseFile(self.path / LEASE, self.clock).highest_claim())

    def _owner_setup(self) -> None:
        for leftover in (*self.path.glob(f".*{TEMP_SUFFIX}"), *self.path.glob(f"*/.*{TEMP_SUFFIX}")):
            with contextlib.suppress(OSError):
                if self._is_leftover(leftover):
                    leftover.unlink()

    def _is_leftover(self, temp: Path) -> bool:
        """Whether nobody is about to rename a temporary file: another process may just be trying for the lease."""
        if self.clock.wall() - temp.stat().st_mtime > LEFTOVER_S:
            return True
        pid = temp.name.split(".")[-3:-2]
        ours = not temp.name.startswith(".lease") and not temp.name.startswith("..lease")
        return ours and pid != [] and pid[0].isdecimal() and not pid_alive(int(pid[0]))

    def _owner_teardown(self) -> None:
        self._close_segment()
