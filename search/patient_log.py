"""A run's log that waits while the disk is full or the storage away, instead of ending the search."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from search.events import Event
from search.store import RunLog, Store
from trainable.errors import StoreAwayError, StoreFullError

_WAIT_S = 2.0
_SAY_EVERY = 30


class PatientLog(RunLog):
    """Appends as `RunLog` does; a full disk, or storage that does not answer, pauses the search until it is over.

    Trials wait in their report meanwhile, and nothing is half-written. Every event that is recorded is handed to
    the listeners, which may draw it or copy it but must not write to the log.

    Attributes:
        listeners: called with each event after it is durable.
        giving_up: asked while waiting; True ends the wait with the error.
        say: a line for the user.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.listeners: list[Callable[[Event], None]] = []
        self.giving_up: Callable[[], bool] = lambda: False
        self.say: Callable[[str], None] = print
        self.wait_s = _WAIT_S
        self._pause = threading.Event()

    def append(self, event_type: str, /, **payload: Any) -> Event:
        """Records one event; see `RunLog.append`."""
        rounds = 0
        while True:
            try:
                event = super().append(event_type, **payload)
            except (StoreFullError, StoreAwayError) as error:
                if self.giving_up():
                    raise
                if rounds % _SAY_EVERY == 0:
                    self.say(f"paused: {error}")
                rounds += 1
                self._pause.wait(self.wait_s)
                continue
            if rounds:
                self.say("the storage takes events again: the search goes on")
            for listener in self.listeners:
                listener(event)
            return event
