"""Where a run is kept: an append-only log of events, the lease of its owner, and small files."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from search.store.base import LogMoved, Store
from search.store.clock import Clock
from search.store.local import LocalStore
from search.store.log import RunLog
from search.store.objects import ObjectStore

__all__ = ["Clock", "LocalStore", "LogMoved", "ObjectStore", "RunLog", "Store", "open_store"]


def open_store(uri: str | Path, clock: Clock | None = None) -> Store:
    """Opens the place of a run; nothing is read or written yet.

    Args:
        uri: a folder, `file://...`, or an address on object storage: `s3://bucket/prefix`, `gs://`, `az://`;
            `memory://name` lives as long as this process.
        clock: the clocks; only tests hand in their own.

    Raises:
        ConfigError: the address cannot be used.

    >>> open_store("memory://doctest").exists("lease.json")
    False
    """
    text = str(uri)
    if text.startswith("file://"):
        return LocalStore(Path(url2pathname(urlsplit(text).path)), clock)
    # pathlib folds `s3://x` to `s3:/x`; a drive letter is no scheme.
    if isinstance(uri, str) and "://" in text:
        return ObjectStore(text, clock)
    return LocalStore(Path(uri), clock)
