"""The lease of a run on object storage: `lease.json`, written by conditional puts only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from search.store.bucket import Bucket, Taken
from search.store.lease import Conflict, Holder
from trainable.faults import declare

declare("lease.put", "lease.written")


class ObjectLeaseFile:
    """A `LeaseFile` in a bucket.

    Args:
        bucket: the run.
        name: the object.
    """

    def __init__(self, bucket: Bucket, name: str) -> None:
        self._bucket, self._name = bucket, name

    def read(self) -> tuple[Holder, object] | None:
        """What the object says."""
        try:
            data, tag, modified = self._bucket.get(self._name)
        except FileNotFoundError:
            return None
        return Holder.from_bytes(data, modified), tag

    def create(self, mine: Holder) -> object:
        """Makes the object, if nobody else does."""
        try:
            return self._bucket.put(self._name, mine.to_bytes(), create=True, point="lease")
        except Taken:
            return self._settle(mine)

    def take(self, mine: Holder, tag: object) -> object:
        """Puts our lease in place of the stale one, if it is still that one."""
        try:
            over = cast(Mapping[str, str], tag)
            return self._bucket.put(self._name, mine.to_bytes(), over=over, point="lease")
        except Taken:
            return self._settle(mine)

    def renew(self, mine: Holder, tag: object) -> object:
        """Puts our lease in place of ours."""
        try:
            return self.take(mine, tag)
        except _Gone:
            return self.create(mine)

    def check(self, mine: Holder, tag: object) -> object:
        """Asks nothing: every durable append is a conditional put, which a later owner makes fail."""
        return tag

    def _settle(self, mine: Holder) -> object:
        """A put whose answer got lost may have been made: then the lease is ours all the same."""
        found = self.read()
        if found is None:
            raise _Gone("the lease was removed")
        holder, tag = found
        if holder.token != mine.token:
            raise Conflict(f"process pid={holder.pid} on host={holder.host} holds it (epoch {holder.epoch})")
        return tag


class _Gone(Conflict):
    """The object is not there any more."""
