"""What every place that keeps a run can do: an append-only log, a lease on it, and small files."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Self

from search.events import Event, check_fields, natural, utc
from search.store.clock import Clock
from search.store.heartbeat import Heartbeat
from search.store.lease import Lease, LeaseFile, acquire, held, liveness
from trainable.errors import StoreError

EVENTS = "events"
LEASE = "lease.json"


class LogMoved(StoreError):
    """Events stand in the log that the writer had not seen; it must apply them and decide again.

    Attributes:
        events: those events, in order.
    """

    def __init__(self, message: str, events: list[Event]) -> None:
        super().__init__(message, events)
        self.events = events

    def __str__(self) -> str:
        return str(self.args[0])


class Store(ABC):
    """A run's log and its small files in one place.

    Appending needs the lease (`acquire`). All methods may be called from several threads.

    Args:
        uri: the run: a folder, or an address with a scheme.
        clock: the clocks; only tests hand in their own.

    Attributes:
        path: the folder, where the run is kept in one; else None.
        findings: what was found amiss and mended while reading, for people.
    """

    path: Path | None = None

    def __init__(self, uri: str, clock: Clock | None = None) -> None:
        self.uri = uri
        self.clock = clock or Clock()
        self.findings: list[str] = []
        self._lock = threading.RLock()
        self._lease: Lease | None = None
        self._heartbeat: Heartbeat | None = None
        self._next: int | None = None

    # ---- small files ----

    @abstractmethod
    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes a file whole: a reader sees the old content or the new.

        Args:
            name: relative to the run, with `/`.
            data: the content.

        Raises:
            StoreFullError: no room; the old content stands.
            StoreError: the storage cannot be written.
        """

    @abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """Reads a file.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: the storage cannot be read.
        """

    def copy(self, name: str, to: str) -> None:
        """Copies a file to another name of the run, without bringing it here where the storage can do that by itself.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: the storage cannot be written.
        """
        self.write_bytes(to, self.read_bytes(name))

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Tells whether a file is there."""

    @abstractmethod
    def list(self, folder: str = "") -> Sequence[str]:
        """Names of all files below a folder, sorted, relative to the run; without leftovers of a crash."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Removes a file; one that is not there is no error."""

    # ---- the log ----

    @abstractmethod
    def _scan(self, after: int) -> Iterator[Event]:
        """Yields the events after a number, in order, without gaps."""

    @abstractmethod
    def _write(self, event: Event, durable: bool) -> None:
        """Puts one event at the end of the log."""

    @abstractmethod
    def preflight(self) -> None:
        """Finds out before any work whether the storage can keep a run.

        Raises:
            StoreError: it cannot; says why.
        """

    def read(self, after: int = -1) -> Iterator[Event]:
        """Reads the log; an unfinished line at its end is left out (and cut off by the owner).

        Args:
            after: number of the last event that is already known.

        Raises:
            SchemaError: the run was written by a newer version.
            StoreError: a line is damaged or missing; says which and how to go on.
        """
        last = after
        for event in self._scan(after):
            last = event.seq
            yield event
        with self._lock:
            if self._lease is not None:
                self._next = last + 1

    def append(self, event_type: str, payload: Mapping[str, Any], durable: bool = True) -> Event:
        """Adds one event at the end of the log.

        Args:
            event_type: one of `EVENT_TYPES`.
            payload: its fields.
            durable: return only when it would survive a power cut. Where appending is slow, one that need not be
                may wait up to 2 s; a later durable one takes it along.

        Returns:
            The event as every reader will see it.

        Raises:
            LeaseLostError: another process owns the run now.
            StoreFullError: no room; nothing was written, and the same call may be made again.
            StoreAwayError: the storage does not answer; the same call may be made again.
            StoreError: the storage cannot be written.
        """
        plain = natural(payload)
        check_fields(event_type, plain)
        with self._lock:
            if self._lease is None:
                raise StoreError(
                    f"{self.uri}: appending needs the lease, but it is not held; call acquire() first"
                )
            if self._next is None:
                for _ in self.read():
                    pass
            assert self._next is not None
            event = Event(self._next, self._lease.epoch, utc(self.clock.wall()), event_type, plain)
            self._write(event, durable)
            self._next += 1
            return event

    @abstractmethod
    def last_seq(self) -> int:
        """Number of the last event that can be read, without reading the others; -1 for none.

        Raises:
            StoreError: the last line is damaged.
        """

    def check_owner(self) -> None:
        """Makes sure that this process still owns the run, before it writes a file that only the owner may.

        Raises:
            LeaseLostError: another process has taken it over.
            StoreError: the lease was never taken.
        """
        lease = self._lease
        if lease is None:
            raise StoreError(f"{self.uri}: must be owned to be written, but is not; call acquire() first")
        lease.check()

    @abstractmethod
    def flush(self) -> None:
        """Makes every appended event durable."""

    # ---- the lease ----

    @abstractmethod
    def _lease_file(self) -> LeaseFile:
        """Where the lease is kept."""

    @property
    def owned(self) -> bool:
        """Whether this process holds the lease, as far as it knows."""
        return self._lease is not None

    @property
    def epoch(self) -> int:
        """Epoch of the lease that is held; 0 without one."""
        return 0 if self._lease is None else self._lease.epoch

    def acquire(self, heartbeat: bool = True) -> None:
        """Becomes the owner of the run, and renews the lease from a thread.

        Args:
            heartbeat: start that thread; a test with its own clock calls `tick` instead.

        Raises:
            LeaseHeldError: another process owns the run; names its host, its pid and the lease's age.
        """
        with self._lock:
            if self._lease is not None:
                return
            self._lease = acquire(self._lease_file(), self.uri, self.clock, self._highest_epoch)
            self._next = None
            self._owner_setup()
            if heartbeat:
                self._heartbeat = Heartbeat(self.tick)
                self._heartbeat.start()

    def refuse_if_held(self) -> None:
        """Looks whether somebody certainly owns the run; nothing is written, and nothing waited for.

        Raises:
            LeaseHeldError: as `acquire`.
        """
        found = self._lease_file().read()
        if found is not None and self._lease is None and liveness(found[0], self.clock) == math.inf:
            raise held(self.uri, found[0], self.clock)

    def tick(self) -> None:
        """Renews the lease when it is due; called every half second.

        Raises:
            LeaseLostError: another process owns the run now; every later append says so too.
            StoreError: the storage could not be reached; tried again at the next call.
        """
        lease = self._lease
        if lease is not None and lease.due:
            lease.renew()

    def release(self) -> None:
        """Makes everything durable and gives the run back."""
        with self._lock:
            if self._lease is None:
                return
            try:
                self.flush()
            finally:
                heartbeat, self._heartbeat = self._heartbeat, None
                if heartbeat is not None:
                    heartbeat.stop()
                lease, self._lease, self._next = self._lease, None, None
                self._owner_teardown()
                lease.release()

    @abstractmethod
    def _owner_setup(self) -> None:
        """Called once the lease is held."""

    @abstractmethod
    def _owner_teardown(self) -> None:
        """Called just before the lease is given back."""

    def _highest_epoch(self) -> int:
        return max((event.epoch for event in self._scan(-1)), default=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def relative(name: str) -> PurePosixPath:
    """Checks that a name stays inside the run.

    Raises:
        StoreError: it does not.

    >>> str(relative("history/part-00000.parquet"))
    'history/part-00000.parquet'
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise StoreError(f"a file's name must stay inside the run, but got {name=}")
    return path
