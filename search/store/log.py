"""A store together with the live state of its run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

from search.events import Event, check_fields, natural
from search.records import RunState
from search.store.base import LogMoved, Store
from trainable.errors import RunExistsError, StoreError

BUFFERED = frozenset({"evaluated"})
"""Events that may wait for a moment where appending is slow; see `RunLog.append`."""


class RunLog:
    """A run that is open: each event is durable first, then folded into `state`.

    Args:
        store: where the run is kept.

    Attributes:
        state: the run as of the last event.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.state = RunState()
        self._lock = threading.RLock()

    @classmethod
    def create(cls, store: Store, *, heartbeat: bool = True, **run_opened: Any) -> Self:
        """Starts a run that does not exist yet and becomes its owner.

        Raises:
            StoreError: there is a run already.
            LeaseHeldError: another process is starting it.
        """
        log = cls(store)
        # Looked at before the lease is touched: a run that is there is left as it is.
        _refuse_a_run(store)
        store.acquire(heartbeat)
        try:
            _refuse_a_run(store)
            log.append("run_opened", **run_opened)
        except BaseException:
            store.release()
            raise
        return log

    @classmethod
    def resume(
        cls,
        store: Store,
        *,
        heartbeat: bool = True,
        given: Callable[[RunState], Mapping[str, Any]] | None = None,
        **resumed: Any,
    ) -> Self:
        """Becomes the owner of a run that exists, and writes `resumed`.

        Args:
            store: where the run is kept.
            heartbeat: renew the lease from a thread.
            given: more fields, of the run as its owner finds it: nobody else changes it any more. What it raises
                leaves the run as it was.
            **resumed: fields of the event.

        Raises:
            StoreError: there is no run, or its log is damaged.
            SchemaError: it was written by a newer version.
            LeaseHeldError: another process owns it.
        """
        # Read before the lease is touched: a run that cannot be read is left as it is.
        log = cls.open(store)
        store.acquire(heartbeat)
        try:
            log.refresh()
            log.append("resumed", **resumed, **(given(log.state) if given is not None else {}))
        except BaseException:
            store.release()
            raise
        return log

    @classmethod
    def open(cls, store: Store) -> Self:
        """Reads a run without owning it; nothing is written.

        Raises:
            StoreError: there is no run, or its log is damaged.
            SchemaError: it was written by a newer version.
        """
        log = cls(store)
        log.refresh()
        if not log.state.run:
            raise StoreError(
                f"{store.uri}: must hold a run (events/*.jsonl), but there is none; check the path"
            )
        return log

    def append(self, event_type: str, /, **payload: Any) -> Event:
        """Records one event and folds it in. When this returns, the event survives a crash.

        Only an evaluation that the trial goes on from may wait up to 2 s on object storage.

        Args:
            event_type: one of `EVENT_TYPES`.
            **payload: its fields.

        Raises:
            StoreError: see `Store.append`; the state is unchanged and the call may be made again. Also an event that
                does not fit the run, such as an unknown trial: it is refused before it is written.
        """
        plain = natural(payload)
        check_fields(event_type, plain)
        with self._lock:
            while True:
                self.state.check(event_type, plain)
                try:
                    event = self.store.append(event_type, plain, durable=is_durable(event_type, plain))
                except LogMoved as moved:
                    for known in moved.events:
                        self.state.apply(known)
                    last = moved.events[-1]
                    if (last.epoch, last.type, last.payload) == (self.store.epoch, event_type, plain):
                        return last  # An earlier call wrote it, and was told that it had failed.
                    continue
                self.state.apply(event)
                return event

    def refresh(self) -> list[Event]:
        """Folds in what was written since; returns those events."""
        with self._lock:
            new = []
            for event in self.store.read(self.state.seq):
                self.state.apply(event)
                new.append(event)
            return new

    def close(self) -> None:
        """Makes everything durable and gives the run back."""
        self.store.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refuse_a_run(store: Store) -> None:
    last = store.last_seq()
    if last >= 0:
        raise RunExistsError(
            f"{store.uri}: must not hold a run yet, but has one of {last + 1} events; "
            "resume it, or choose another name"
        )


def is_durable(event_type: str, payload: dict[str, Any]) -> bool:
    """Whether an event must survive a crash before it is acted on: all but an evaluation without an end."""
    return event_type not in BUFFERED or payload["decision"].get("action", "continue") != "continue"
