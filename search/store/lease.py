"""Who owns a run: one process, which says so in `lease.json` and renews it.

A lease is stale when its process is gone (same machine, same boot), or when it was not renewed for `TTL_S`. Taking a
stale one over raises the epoch, which every event carries, so that an owner that comes back late finds out.
Clocks may jump or differ between machines. So a lease whose time is up by the clock alone, with an owner that cannot
be seen to be gone, is watched for a while on the monotonic clock first: an owner that lives renews it meanwhile.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, NoReturn, Protocol

from search.events import utc
from search.store.clock import Clock
from search.store.identity import boot_id, booted_at, host_name
from trainable.errors import LeaseHeldError, LeaseLostError
from trainable.processes import pid_alive

TTL_S = 60.0
"""A lease that was not renewed for this long is stale."""

RENEW_S = 10.0
"""How often an owner renews."""

WATCH_S = RENEW_S + 2.0
"""How long a lease that is stale by the clock alone is watched before it is taken over."""

_held_here: set[str] = set()


@dataclass(frozen=True, slots=True)
class Holder:
    """What `lease.json` says.

    Attributes:
        host: name of the machine.
        pid: its process.
        boot_id: which start of that machine; empty where the system does not tell.
        epoch: how often the run has changed hands.
        renewed: wall-clock time of the last renewal.
        expires: wall-clock time when it becomes stale.
        token: tells two owners on one machine apart.
        released: whether the owner has given it back.
    """

    host: str
    pid: int
    boot_id: str
    epoch: int
    renewed: float
    expires: float
    token: str
    released: bool = False

    def to_bytes(self) -> bytes:
        """The file's content."""
        shown = {**asdict(self), "renewed": utc(self.renewed), "expires": utc(self.expires)}
        return (json.dumps(shown, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, modified: float) -> Holder:
        """Reads the file; one that cannot be understood counts as held by nobody known since it was written."""
        try:
            found = json.loads(data)
            renewed, expires = _seconds(found.get("renewed")), _seconds(found["expires"])
            return cls(
                host=str(found["host"]),
                pid=int(found["pid"]),
                boot_id=str(found.get("boot_id") or ""),
                epoch=int(found.get("epoch", 0)),
                renewed=expires - TTL_S if found.get("renewed") is None else renewed,
                expires=expires,
                token=str(found.get("token", "")),
                released=found.get("released") is True,
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return cls("unknown", -1, "", 0, modified, modified + TTL_S, "")


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        return datetime.fromisoformat(value).timestamp()
    return float(value or 0.0)


class Conflict(Exception):
    """Somebody else wrote the lease first."""


class LeaseFile(Protocol):
    """Where a lease is kept; `tag` names one version of the file and is only compared."""

    def read(self) -> tuple[Holder, object] | None:
        """The current holder, or None where there never was one."""

    def create(self, mine: Holder) -> object:
        """Writes the first lease of a run. Raises Conflict."""

    def take(self, mine: Holder, tag: object) -> object:
        """Writes a lease of a higher epoch over the one that `tag` names. Raises Conflict."""

    def renew(self, mine: Holder, tag: object) -> object:
        """Writes the same lease again. Raises Conflict when it is no longer the newest."""

    def check(self, mine: Holder, tag: object) -> object:
        """Cheaply: is it still ours? Raises Conflict."""


class Lease:
    """A run that this process owns.

    Args:
        file: where it is kept.
        mine: what was written there.
        tag: that version.
        clock: the clocks.
    """

    def __init__(self, file: LeaseFile, mine: Holder, tag: object, clock: Clock) -> None:
        self._file, self._mine, self._tag, self._clock = file, mine, tag, clock
        self._next_renewal = clock.monotonic() + RENEW_S
        self._ours_until = clock.monotonic() + TTL_S, clock.wall() + TTL_S
        self._lost: str | None = None
        self._released = False
        self._lock = threading.RLock()

    @property
    def epoch(self) -> int:
        """The number that every event of this owner carries."""
        return self._mine.epoch

    @property
    def due(self) -> bool:
        """Whether it is time to renew."""
        return self._clock.monotonic() >= self._next_renewal

    @property
    def overdue(self) -> bool:
        """Whether it was not renewed for so long that another process may own the run: by either clock."""
        until, wall = self._ours_until
        return self._clock.monotonic() >= until or self._clock.wall() >= wall

    def check(self) -> None:
        """Makes sure that the run is still ours.

        Raises:
            LeaseLostError: another process has taken it over.
        """
        self._guard(self._file.check)

    def lose(self, how: str) -> NoReturn:
        """Notes that the run is no longer ours, where that was seen elsewhere than in the lease.

        Raises:
            LeaseLostError: always.
        """
        with self._lock:
            self._lost = self._lost or how
            _held_here.discard(self._mine.token)
        self.check()
        raise AssertionError("unreachable: a lost lease does not pass its check")

    def renew(self) -> None:
        """Says again that the run is ours.

        Raises:
            LeaseLostError: another process has taken it over.
        """
        with self._lock:
            if self._released:
                return
            now = self._clock.wall()
            self._next_renewal = self._clock.monotonic() + RENEW_S
            begun = self._clock.monotonic()
            self._mine = replace(self._mine, renewed=now, expires=now + TTL_S)
            self._guard(self._file.renew)
            self._ours_until = begun + TTL_S, now + TTL_S

    def release(self) -> None:
        """Gives the run back; the next owner need not wait."""
        with self._lock:
            if self._released or self._lost is not None:
                return
            self._released = True
            now = self._clock.wall()
            self._mine = replace(self._mine, renewed=now, expires=now, released=True)
            try:
                self._file.renew(self._mine, self._tag)
            except Conflict as conflict:
                self._lost = str(conflict)
            finally:
                _held_here.discard(self._mine.token)

    def _guard(self, act: Callable[[Holder, object], object]) -> None:
        with self._lock:
            if self._lost is None:
                try:
                    self._tag = act(self._mine, self._tag)
                    return
                except Conflict as conflict:
                    self._lost = str(conflict)
                    _held_here.discard(self._mine.token)
        raise LeaseLostError(
            f"lease.json: this process (pid {self._mine.pid}, epoch {self._mine.epoch}) must own the run, but "
            f"{self._lost}; it stops writing, what it wrote before stands"
        )


def acquire(file: LeaseFile, where: str, clock: Clock, floor: Callable[[], int]) -> Lease:
    """Makes this process the owner of a run.

    Args:
        file: where the lease is kept.
        where: the run, for messages.
        clock: the clocks.
        floor: gives the highest epoch in the log; asked only where there is no lease.

    Raises:
        LeaseHeldError: another process owns it; says which, and when it last renewed.
    """
    for _ in range(5):
        found = file.read()
        if found is not None and not _is_free(file, found[0], found[1], clock):
            raise held(where, found[0], clock)
        now = clock.wall()
        epoch = (floor() if found is None else found[0].epoch) + 1
        mine = Holder(host_name(), os.getpid(), boot_id(), epoch, now, now + TTL_S, secrets.token_hex(8))
        # Known here before anybody can read it, so that no other thread takes it for one of a dead process.
        _held_here.add(mine.token)
        try:
            tag = file.create(mine) if found is None else file.take(mine, found[1])
        except BaseException as error:
            _held_here.discard(mine.token)
            if isinstance(error, Conflict):
                continue
            raise
        return Lease(file, mine, tag, clock)
    raise LeaseHeldError(f"{where}: must have one owner, but other processes are taking it over; try again")


def held(where: str, holder: Holder, clock: Clock) -> LeaseHeldError:
    """The error that names who owns a run."""
    age = max(0.0, clock.wall() - holder.renewed)
    return LeaseHeldError(
        f"{where}: must have one owner, but process pid={holder.pid} on host={holder.host} holds it "
        f"(renewed {age:.0f} s ago); wait for it to end or stop it first; if it is dead, its lease is free "
        f"{TTL_S:.0f} s after the last renewal"
    )


def liveness(holder: Holder, clock: Clock) -> float:
    """How a lease stands: inf = held, 0 = free, else for how many seconds to watch it before it is free.

    A machine of our name that is not this one started at another time; its lease is renewed while this one runs.
    """
    if holder.released:
        return 0.0
    left = holder.expires - clock.wall()
    if holder.host == host_name():
        if holder.boot_id and boot_id() and holder.boot_id != boot_id():
            gone = holder.renewed < booted_at()
        else:
            # One that has our own number and is not us is gone: a container started again counts from the same.
            gone = holder.token not in _held_here if holder.pid == os.getpid() else not pid_alive(holder.pid)
        if gone:
            return 0.0
    if left <= 0:
        return WATCH_S
    # One that ends later than any lease can, and clocks differ by a minute at most, was written by a wrong clock.
    return float("inf") if left <= 2 * TTL_S else TTL_S


def _is_free(file: LeaseFile, holder: Holder, tag: object, clock: Clock) -> bool:
    watch = liveness(holder, clock)
    if watch in (0.0, float("inf")):
        return watch == 0.0
    until = clock.monotonic() + watch
    while clock.monotonic() < until:
        clock.sleep(1.0)
        now = file.read()
        if now is None:
            return True
        if now[1] != tag:
            return now[0].released
        if liveness(now[0], clock) == 0.0:
            return True
    return True
