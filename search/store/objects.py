"""A run on object storage: events in small immutable objects, merged now and then."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from search.events import Event, encode
from search.store.base import EVENTS, LEASE, LogMoved, Store, relative
from search.store.bucket import Bucket, Found, Taken
from search.store.clock import Clock
from search.store.lease import LeaseFile
from search.store.lines import read_lines
from search.store.object_lease import ObjectLeaseFile
from search.store.small_objects import READERS, SmallObjects, content
from trainable.errors import StoreError

WAIT_S = 1.0
"""How long an evaluation waits at least; with the heart beating every half second it is sent within 2 s."""

MERGE_AT = 1000
"""So many small objects become one."""

MERGE_AT_END = 100
"""At the end of an owner's time so many suffice."""

_RELISTS = 5


class ObjectStore(Store):
    """Keeps a run below an address such as `s3://bucket/prefix`.

    The log is `events/<number of its first event>.jsonl`. Each object is made by a put that fails when the name is
    taken, and the next one's name follows from all before it; so of two writers only one can go on, whatever
    either believes about the lease. Objects are never changed, except that the owner puts the merged
    content of a thousand in place of the first and removes the others: a reader counts each event once.

    Args:
        uri: the address.
        clock: the clocks.
        merge_at: how many small objects are merged into one.
    """

    def __init__(self, uri: str, clock: Clock | None = None, merge_at: int = MERGE_AT) -> None:
        super().__init__(uri.rstrip("/"), clock)
        self._bucket = Bucket(self.uri, self.clock)
        self._moved: LogMoved | None = None
        self._merge_at = merge_at
        self._waiting: list[bytes] = []
        self._waiting_from = 0
        self._waiting_since = 0.0
        self._small = SmallObjects(self._bucket, self._objects)
        self._must_ask = True

    # ---- small files ----

    def write_bytes(self, name: str, data: bytes) -> None:
        """See `Store.write_bytes`: one put."""
        self._bucket.put(str(relative(name)), data)

    def read_bytes(self, name: str) -> bytes:
        """See `Store.read_bytes`."""
        return self._bucket.get(str(relative(name)))[0]

    def copy(self, name: str, to: str) -> None:
        """See `Store.copy`."""
        self._bucket.copy(str(relative(name)), str(relative(to)))

    def exists(self, name: str) -> bool:
        """See `Store.exists`."""
        return self._bucket.exists(str(relative(name)))

    def list(self, folder: str = "") -> Sequence[str]:
        """See `Store.list`."""
        return [found.name for found in self._bucket.list(str(relative(folder)) if folder else "")]

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        self._bucket.delete([str(relative(name))])

    def preflight(self) -> None:
        """Puts and removes a small object, and makes sure that a conditional put is honored."""
        probe = f".probe-{random.getrandbits(32):08x}"
        # Few tries: what does not answer now is better said at once.
        bucket = Bucket(self.uri, self.clock, tries=2)
        bucket.put(probe, b"thresher\n", create=True)
        try:
            bucket.put(probe, b"again\n", create=True)
        except Taken:
            return
        finally:
            bucket.delete([probe])
        raise StoreError(
            f"{self.uri}: must refuse a put over an object that is there (If-None-Match), but took it; "
            "use a store that honors conditional puts"
        )

    # ---- reading the log ----

    def _objects(self) -> Sequence[tuple[int, Found]]:
        named = (
            (found.name.rpartition("/")[2].removesuffix(".jsonl"), found)
            for found in self._bucket.list(EVENTS)
        )
        return sorted((int(first), found) for first, found in named if first.isdecimal())

    def _scan(self, after: int) -> Iterator[Event]:
        expected = after + 1
        for tries_left in reversed(range(_RELISTS)):
            whole = True
            for where, data in self._contents(expected):
                if data is None:
                    whole = False  # Merged away since it was listed.
                    break
                for event in read_lines(data, where):
                    if event.seq > expected:
                        whole = False
                        break
                    if event.seq == expected:
                        expected += 1
                        yield event
                if not whole:
                    break
            if whole:
                return
            if tries_left:
                self.clock.sleep(0.2)
        raise StoreError(
            f"{self.uri}/{EVENTS}: event {expected} must come next, but is missing; restore the objects from a copy"
        )

    def _contents(self, expected: int) -> Iterator[tuple[str, bytes | None]]:
        objects = self._objects()
        start = max((index for index, (first, _) in enumerate(objects) if first <= expected), default=0)
        wanted = [found.name for _, found in objects[start:]]
        if self._lease is not None and self._next is None:
            self._small.remember(objects)
        with ThreadPoolExecutor(min(READERS, max(1, len(wanted)))) as readers:
            for at in range(0, len(wanted), READERS * 4):
                some = wanted[at : at + READERS * 4]
                read = readers.map(lambda name: content(self._bucket, name), some)
                for name, data in zip(some, read, strict=True):
                    yield f"{self.uri}/{name}", data

    def last_seq(self) -> int:
        """See `Store.last_seq`."""
        for _ in range(_RELISTS):
            objects = self._objects()
            if not objects:
                return -1
            name = objects[-1][1].name
            data = content(self._bucket, name)
            if data:
                return max(event.seq for event in read_lines(data, f"{self.uri}/{name}"))
        raise StoreError(f"{self.uri}/{EVENTS}: must be readable, but changes all the time; try again")

    # ---- appending ----

    def _write(self, event: Event, durable: bool) -> None:
        assert self._lease is not None
        self._lease.check()
        if self._moved is not None:
            moved, self._moved = self._moved, None
            raise moved
        if not self._waiting:
            self._waiting_from, self._waiting_since = event.seq, self.clock.monotonic()
        self._waiting.append(encode(event))
        # The first event of an owner, and the first after a failed put, must find out what stands in the log.
        if not durable and not self._must_ask:
            return
        self._must_ask = True
        try:
            self._send()
        except LogMoved:
            raise
        except BaseException:
            # The caller is told that this one failed. Should it stand in the log after all, that is found next time.
            self._waiting.pop()
            raise
        self._must_ask = False

    def _send(self) -> None:
        """Puts all that waits into one object.

        Raises:
            LogMoved: events that this process did not know stand there; what waited behind them is dropped.
        """
        assert self._lease is not None
        if self._waiting and self._lease.overdue:
            # Asleep for longer than a lease lasts: another owner's merge may have freed the name that comes next.
            self._lease.renew()
        while self._waiting:
            data, name = b"".join(self._waiting), _name(self._waiting_from)
            try:
                tag = self._bucket.put(name, data, create=True)
            except Taken:
                self._reconcile(name)
                continue
            self._small.add(name, tag, data)
            self._sent(len(self._waiting))

    def _sent(self, count: int) -> None:
        del self._waiting[:count]
        self._waiting_from += count

    def _reconcile(self, name: str) -> None:
        """The next object is there already: ours, after a put whose answer got lost, or another owner's."""
        assert self._lease is not None
        data, tag, _ = self._bucket.get(name)
        lines = data.split(b"\n")[:-1]
        events = list(read_lines(data, f"{self.uri}/{name}"))
        newest = max((event.epoch for event in events), default=0)
        if newest > self._lease.epoch:
            self._lease.lose(f"another process writes to it (epoch {newest})")
        known = 0
        while known < min(len(lines), len(self._waiting)) and self._waiting[known] == lines[known] + b"\n":
            known += 1
        self._small.add(name, tag, data)
        self._sent(known)
        if known < len(events):
            self._waiting.clear()
            self._next = events[-1].seq + 1
            raise LogMoved(f"{self.uri}/{name}: holds events that were not known", events[known:])

    def flush(self) -> None:
        """Sends what waits."""
        with self._lock:
            try:
                self._send()
            except LogMoved as moved:
                # Whoever appends next must hear of it.
                self._moved = moved

    # ---- the lease, and what its thread does ----

    def tick(self) -> None:
        """Renews the lease when it is due, sends what has waited, merges."""
        super().tick()
        if self._lease is None or not self._lock.acquire(blocking=False):
            return
        try:
            if self._waiting and self.clock.monotonic() - self._waiting_since >= WAIT_S:
                self.flush()
            if len(self._small) >= self._merge_at:
                self._small.merge()
        finally:
            self._lock.release()

    def _lease_file(self) -> LeaseFile:
        return ObjectLeaseFile(self._bucket, LEASE)

    def _owner_setup(self) -> None:
        self._small.clear()
        self._waiting, self._must_ask, self._moved = [], True, None

    def _owner_teardown(self) -> None:
        if len(self._small) >= min(MERGE_AT_END, self._merge_at):
            try:
                self._small.merge()
            except StoreError as error:
                # Merging only makes reading faster.
                self.findings.append(str(error))
        self._small.clear()
        self._waiting = []


def _name(first: int) -> str:
    return f"{EVENTS}/{first:012d}.jsonl"
