"""A trial's folder when the run lives on object storage: a local folder, kept equal to a place in the store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from search.store.base import Store
from trainable.errors import StoreError
from trainable.faults import declare, fault_point

_PUSH_EVERY_S = 1.0
_WORTH_BYTES = 2**20
"""Smaller files are sent again rather than asked for."""
_OTHER = (0, 0, 0)

declare("mirror.put", "mirror.delete", "mirror.pull")


class Mirror:
    """Copies a folder's finished files to the store as they change, and back before a trial begins.

    Files appear in the folder by rename, so one that has its final name is whole.

    Args:
        store: the run.
        prefix: where in the run, such as `trials/7`.
        directory: the local folder.
        allowed: asked before each round; False once the folder's owner may no longer write.
    """

    def __init__(
        self, store: Store, prefix: str, directory: Path, allowed: Callable[[], bool] = lambda: True
    ) -> None:
        self._store, self._prefix, self._directory, self._allowed = store, prefix, directory, allowed
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def pull(self) -> list[str]:
        """Fetches what the store has; returns the names."""
        self._directory.mkdir(parents=True, exist_ok=True)
        names = []
        for name in self._store.list(self._prefix):
            relative = name.removeprefix(self._prefix).lstrip("/")
            path = self._directory / relative
            if ".." in path.relative_to(self._directory).parts:
                raise StoreError(f"{name}: must lie in the trial's own folder; remove it from the run")
            path.parent.mkdir(parents=True, exist_ok=True)
            fault_point("mirror.pull")
            path.write_bytes(self._store.read_bytes(name))
            self._seen[relative] = _stamp(path)
            names.append(relative)
        return names

    def push(self) -> list[str]:
        """Sends what is new or changed, what names other files last; returns the names.

        Raises:
            StoreError: the store cannot be reached; the next call tries again.
        """
        with self._lock:
            if not self._allowed():
                return []
            found = self._files()
            changed = [name for name, stamp in found.items() if self._seen.get(name) != stamp]
            renamed = {name: there for name in changed if (there := self._sent_as(found[name])) is not None}
            # Before what they were is replaced there.
            moved = [name for name, there in renamed.items() if self._copied(there, name, found[name])]
            for name in sorted(set(changed).difference(moved), key=_turn):
                fault_point("mirror.put")
                path = self._directory / name
                try:
                    self._store.write_bytes(f"{self._prefix}/{name}", path.read_bytes())
                    # One that was replaced meanwhile is sent again by the next round.
                    self._seen[name] = found[name] if _stamp(path) == found[name] else _OTHER
                except FileNotFoundError:
                    continue  # Replaced or deleted meanwhile: the next round sees it.
            for name in [name for name in self._seen if name not in found]:
                # A file that is being replaced is gone for a moment; a folder that is gone says nothing of the run.
                if (self._directory / name).exists() or not self._directory.is_dir():
                    continue
                fault_point("mirror.delete")
                self._store.delete(f"{self._prefix}/{name}")
                del self._seen[name]
            return changed

    def _sent_as(self, stamp: tuple[int, int, int]) -> str | None:
        """The name under which the store has this very file, which has been renamed since."""
        return next(
            (name for name, known in self._seen.items() if known == stamp and stamp[1] >= _WORTH_BYTES), None
        )

    def _copied(self, there: str, name: str, stamp: tuple[int, int, int]) -> bool:
        fault_point("mirror.put")
        try:
            self._store.copy(f"{self._prefix}/{there}", f"{self._prefix}/{name}")
        except (FileNotFoundError, StoreError):
            return False  # Then it is sent as any other.
        self._seen[name] = stamp
        return True

    def try_push(self) -> None:
        """Pushes; what cannot be sent now is sent by a later round, and training goes on meanwhile."""
        try:
            self.push()
        except (StoreError, OSError) as error:
            print(f"{self._prefix}: not copied to the run yet, tried again: {error}", flush=True)

    def start(self) -> None:
        """Begins to push once a second."""
        self._thread.start()

    def stop(self) -> None:
        """Pushes what is left.

        Raises:
            StoreError: it could not.
        """
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self.push()

    def _files(self) -> dict[str, tuple[int, int, int]]:
        found = {}
        for path in self._directory.rglob("*"):
            relative = path.relative_to(self._directory)
            if path.is_file() and not any(part.startswith(".") for part in relative.parts):
                found[relative.as_posix()] = _stamp(path)
        return found

    def _run(self) -> None:
        while not self._over.wait(_PUSH_EVERY_S):
            self.try_push()


def _turn(name: str) -> tuple[int, str]:
    """What names another file must not arrive before it: a state names targets, an index names a model."""
    return (2 if name.endswith(".json") else 1 if name.endswith(".pt") else 0), name


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
