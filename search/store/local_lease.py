"""The lease of a run in a folder.

`lease.json` says who owns the run. Replacing a file is not a compare-and-swap, so whoever takes a stale lease over
first makes `.lease.<epoch>.claim`, which only one process can: of all claims the highest epoch wins, whatever stands
in `lease.json` for a moment.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from search.store.atomic import FULL, create_exclusive, explain, write_atomic
from search.store.clock import Clock
from search.store.lease import Conflict, Holder
from trainable.errors import StoreAwayError, StoreError

Tag = tuple[str, int, int, int]


class LocalLeaseFile:
    """A `LeaseFile` on a disk.

    Args:
        path: `lease.json`.
        clock: the clocks.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.RLock()

    def read(self) -> tuple[Holder, object] | None:
        """The holder of the highest claim, or else what `lease.json` says."""
        try:
            current = self._holder(self._path)
        except FileNotFoundError:
            return None
        claim = self.highest_claim()
        if claim > current[0].epoch:
            try:
                return self._holder(self._claim(claim))
            except FileNotFoundError:
                pass
        return current

    def create(self, mine: Holder) -> object:
        """Makes `lease.json`, if nobody else does."""
        self._exclusive(self._path, mine)
        return self._tag(self._path)

    def take(self, mine: Holder, tag: object) -> object:
        """Claims the next epoch, then says so in `lease.json`."""
        self._exclusive(self._claim(mine.epoch), mine)
        self._put(mine)
        self._no_higher_claim(mine)
        for claim in self._claims():
            if claim < mine.epoch:
                self._claim(claim).unlink(missing_ok=True)
        return self._tag(self._path)

    def renew(self, mine: Holder, tag: object) -> object:
        """Writes `lease.json` again."""
        with self._lock:
            self._no_higher_claim(mine)
            self._settle(mine, tag)
            self._put(mine)
            self._no_higher_claim(mine)
            return self._tag(self._path)

    def check(self, mine: Holder, tag: object) -> object:
        """Looks whether `lease.json` is the file that was written last: one `stat`."""
        with self._lock:
            return self._settle(mine, tag)

    def highest_claim(self) -> int:
        """Highest epoch that was ever claimed here; 0 for none."""
        return max(self._claims(), default=0)

    def _settle(self, mine: Holder, tag: object) -> object:
        try:
            now = self._tag(self._path)
            if now == tag:
                return tag
            holder, now = self._holder(self._path)
        except FileNotFoundError:
            # Somebody removed it. If nobody else has the run, it is still ours.
            self._no_higher_claim(mine)
            return self.create(mine)
        except OSError as error:
            raise explain(error, str(self._path)) from error
        if holder.token != mine.token:
            if holder.epoch >= mine.epoch:
                raise Conflict(
                    f"process pid={holder.pid} on host={holder.host} holds it (epoch {holder.epoch})"
                )
            self._no_higher_claim(mine)
            self._put(mine)
            return self._tag(self._path)
        return now

    def _put(self, mine: Holder) -> None:
        try:
            write_atomic(self._path, mine.to_bytes(), kind="lease", clock=self._clock)
        except OSError as error:
            if error.errno not in FULL:
                raise explain(error, str(self._path)) from error
            # On a full disk the file's time is renewed alone: whoever watches the lease sees it move.
            os.utime(self._path)

    def _exclusive(self, path: Path, mine: Holder) -> None:
        try:
            create_exclusive(path, mine.to_bytes())
        except FileExistsError as error:
            raise Conflict(f"another process made {path.name} first") from error
        except OSError as error:
            raise explain(error, str(path)) from error

    def _no_higher_claim(self, mine: Holder) -> None:
        claim = self.highest_claim()
        if claim > mine.epoch:
            raise Conflict(f"another process has taken it over (epoch {claim})")

    def _claim(self, epoch: int) -> Path:
        return self._path.with_name(f".lease.{epoch}.claim")

    def _claims(self) -> list[int]:
        folder = self._path.parent
        try:
            names = [name.split(".") for name in os.listdir(folder) if name.startswith(".lease.")]
        except FileNotFoundError as error:
            raise StoreAwayError(f"{folder}: the run's folder must be there, but is not; mount it again") from error
        except OSError as error:
            raise explain(error, str(folder)) from error
        return [int(parts[2]) for parts in names if parts[3:] == ["claim"] and parts[2].isdecimal()]

    @staticmethod
    def _tag(path: Path) -> Tag:
        found = os.stat(path)
        return (path.name, found.st_ino, found.st_mtime_ns, found.st_size)

    @classmethod
    def _holder(cls, path: Path) -> tuple[Holder, Tag]:
        try:
            tag = cls._tag(path)
            data = path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{path}: must be a readable file, but got {error.strerror or error}") from error
        return Holder.from_bytes(data, tag[2] / 1e9), tag
