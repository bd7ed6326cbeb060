"""What is known of a file by its content, remembered between runs by path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from trainable.config import CacheConfig
from trainable.errors import DataError, Fault
from trainable.faults import declare, fault_point

_VERSION = 1

declare("memo.write", "memo.rename")
# A file changed again within the clock's grain keeps its time of change, so what is this young is not remembered.
_TOO_YOUNG_S = 3.0
_PART = 32

In = TypeVar("In")
Out = TypeVar("Out")


def cache_folder(cfg: CacheConfig, root: Path) -> Path:
    """Where derived data are kept: `THRESHER_CACHE`, else `data.cache.dir`, else the user's cache folder.

    Args:
        cfg: the cache section.
        root: what a relative `data.cache.dir` is relative to.
    """
    forced = os.environ.get("THRESHER_CACHE")
    if forced:
        return Path(forced).expanduser().absolute()
    if cfg.dir is not None:
        return (root / Path(os.path.expandvars(cfg.dir)).expanduser()).absolute()
    if platform.system() == "Windows":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "thresher" / "cache"
    if platform.system() == "Darwin":
        return Path.home() / "Library" / "Caches" / "thresher"
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given and Path(given).is_absolute() else Path.home() / ".cache") / "thresher"


def workers() -> int:
    """Threads for decoding and hashing, both of which run outside Python's lock."""
    return max(1, min(8, os.cpu_count() or 1))


def each(work: Callable[[In], Out], inputs: Iterable[In], faults: list[Fault]) -> list[Out | None]:
    """Do a job for every input in a few threads; a `DataError` becomes faults and None, in the inputs' order."""

    def guarded(value: In) -> tuple[Out | None, tuple[Fault, ...]]:
        try:
            return work(value), ()
        except DataError as error:
            return None, error.faults

    def several(values: list[In]) -> list[tuple[Out | None, tuple[Fault, ...]]]:
        return [guarded(value) for value in values]

    listed = list(inputs)
    # Most jobs only look up what is remembered, so that one at a time would cost more than the work.
    parts = [listed[start : start + _PART] for start in range(0, len(listed), _PART)]
    with ThreadPoolExecutor(workers()) as pool:
        results = [result for part in pool.map(several, parts) for result in part]
    for _, found in results:
        faults.extend(found)
    return [result for result, _ in results]


class Memo:
    """Facts about the files below one folder, kept in a JSON file.

    Losing or damaging it costs time, never correctness. Several processes may use it: the last to save wins.

    Args:
        folder: the cache folder.
        root: the data set's folder.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.root = root
        self.path = folder / "files" / f"{hashlib.sha256(str(root).encode()).hexdigest()[:24]}.json"
        self._facts: dict[str, dict[str, Any]] = {}
        self._changed = False
        try:
            plain = json.loads(self.path.read_text(encoding="utf-8"))
            if plain["version"] == _VERSION:
                self._facts = dict(plain["files"])
        except (OSError, ValueError, KeyError, TypeError):
            self._facts = {}

    def facts(self, path: Path) -> dict[str, Any]:
        """What is known of a file: at least its `sha256`. Valid until the file changes.

        Raises:
            DataError: the file cannot be read.
        """
        key = str(path)
        try:
            state = path.stat()
            if not stat.S_ISREG(state.st_mode):
                # Whoever opens a pipe waits until somebody writes into it.
                raise DataError([Fault(key, "must be a regular file, but is a pipe, a device or a folder; remove it")])
            stamp = [state.st_size, state.st_mtime_ns]
            known = self._facts.get(key)
            if isinstance(known, dict) and known.get("stamp") == stamp and isinstance(known.get("sha256"), str):
                return known
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError([Fault(key, f"the file must be readable, but got: {error.strerror or error}; "
                                   "mend its link or permissions, or remove it")]) from error  # fmt: skip
        fresh: dict[str, Any] = {"stamp": stamp, "sha256": digest}
        if time.time() - state.st_mtime > _TOO_YOUNG_S:
            self._facts[key] = fresh
            self._changed = True
        return fresh

    def remember(self, facts: dict[str, Any], key: str, value: Any) -> None:
        """Add to what `facts` returned for a file."""
        facts[key] = value
        self._changed = True

    def save(self) -> None:
        """Write it down, if anything is new. A cache folder that cannot be written only costs time next time."""
        if not self._changed:
            return
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fault_point("memo.write")
            temporary.write_text(json.dumps({"version": _VERSION, "files": self._facts}), encoding="utf-8")
            fault_point("memo.rename")
            temporary.replace(self.path)
            for left in self.path.parent.glob(f"{self.path.stem}.*.tmp"):
                left.unlink(missing_ok=True)
        except OSError:
            temporary.unlink(missing_ok=True)
            return
        self._changed = False
