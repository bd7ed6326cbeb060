"""Where a run is kept: an append-only log of events, the lease of its owner, and small files."""

from __future__ import annotations

from pathlib import Path

from search.store.base import LogMoved, Store
from search.store.clock import Clock
from search.store.local import LocalStore
from search.store.log import RunLog

__all__ = ["Clock", "LocalStore", "LogMoved", "RunLog", "Store", "open_store"]


def open_store(uri: str | Path, clock: Clock | None = None) -> Store:
    """Opens the place of a run; nothing is read or written yet.

    Args:
        uri: a folder.
        clock: the clocks; only tests hand in their own.
    """
    return LocalStore(Path(uri), clock)
