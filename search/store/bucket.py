"""Objects by name on S3, GCS, Azure or in memory: requests that are tried again, errors that say what to do."""

from __future__ import annotations

import ipaddress
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore import exceptions
from obstore.store import MemoryStore

from search.address import address_fault
from search.store.clock import Clock
from trainable.errors import ConfigError, StoreAwayError, StoreError
from trainable.faults import declare, fault_point

TRIES = 6
REQUEST_S, BIG_REQUEST_S = 20.0, 600.0
"""How long one request may take, and one that carries or copies a checkpoint: over a slow line that takes minutes."""

BIG_BYTES = 8 * 2**20

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 10.0
_NO_RETRIES: Any = {"max_retries": 0}
_memories: dict[str, Any] = {}
_Result = TypeVar("_Result")

declare("object.put", "object.written", "object.delete")


class Taken(Exception):
    """A conditional put did not hold: the object is there already, or is another one by now."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object as listed.

    Attributes:
        name: relative to the bucket's prefix.
        size: bytes.
        tag: this version of it, for `put(over=...)`.
    """

    name: str
    size: int
    tag: Mapping[str, str]


class Bucket:
    """The objects below one address.

    Credentials and endpoint come from the environment, as the cloud's own tools read it (`AWS_ACCESS_KEY_ID`,
    `AWS_ENDPOINT_URL`, ...), and never from the address.

    Args:
        uri: `s3://bucket/prefix`, `gs://`, `az://`, or `memory://name` within this process.
        clock: for the waits between tries.
        tries: how often a request is made before it fails.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(self, uri: str, clock: Clock, tries: int = TRIES) -> None:
        self.uri = uri.rstrip("/")
        self._clock, self._tries = clock, tries
        fault = address_fault(self.uri)
        if fault is not None:
            raise ConfigError(f"storage: {fault}")
        self._in_memory = self.uri.startswith("memory://")
        self._store = self._connect(REQUEST_S)

    @cached_property
    def _unhurried(self) -> Any:
        """The same place, for requests that may take long."""
        return self._connect(BIG_REQUEST_S)

    def _connect(self, request_s: float) -> Any:
        if self._in_memory:
            return _memory(self.uri)
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        client: Any = {
            "timeout": timedelta(seconds=request_s),
            "connect_timeout": timedelta(seconds=5),
        }
        if _is_loopback(endpoint):
            client["allow_http"] = True
        try:
            return obstore.store.from_url(self.uri, client_options=client, retry_config=_NO_RETRIES)
        except (exceptions.BaseError, ValueError) as error:
            raise ConfigError(f"storage: {self.uri} cannot be used: {_short(error)}") from None

    def get(self, name: str) -> tuple[bytes, Mapping[str, str], float]:
        """Reads an object: its bytes, its version, and when it was written (wall clock).

        Raises:
            FileNotFoundError: it is not there.
            StoreError: the storage cannot be reached.
        """

        def read() -> tuple[bytes, Mapping[str, str], float]:
            found = obstore.get(self._store, name)
            if found.meta["size"] > BIG_BYTES:
                found = obstore.get(self._unhurried, name)
            return bytes(found.bytes()), _tag(found.meta), found.meta["last_modified"].timestamp()

        return self._patiently(f"read {name}", read)

    def put(
        self,
        name: str,
        data: bytes,
        *,
        create: bool = False,
        over: Mapping[str, str] | None = None,
        point: str = "object",
    ) -> Mapping[str, str]:
        """Writes an object whole.

        Args:
            name: the object.
            data: its content.
            create: only when it is not there yet.
            over: only in place of this version.
            point: first part of the names of its fault points.

        Returns:
            The version that was written.

        Raises:
            Taken: the condition did not hold. After a try whose answer got lost it may be our own object.
            StoreError: the storage cannot be reached.
        """
        mode: Any = "create" if create else "overwrite" if over is None else dict(over)
        place = self._unhurried if len(data) > BIG_BYTES else self._store

        def write() -> Mapping[str, str]:
            fault_point(f"{point}.put")
            return _tag(obstore.put(place, name, data, mode=mode, use_multipart=False))

        tag = self._patiently(f"write {name}", write, missing_is_taken=over is not None)
        fault_point(f"{point}.written")
        return tag

    def copy(self, name: str, to: str) -> None:
        """Copies an object where it is, over whatever stands at the other name.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: the storage cannot be reached, or does not copy.
        """
        self._patiently(f"copy {name}", lambda: obstore.copy(self._unhurried, name, to))

    def list(self, folder: str = "") -> Sequence[Found]:
        """Lists the objects below a folder, sorted by name."""
        listed = self._patiently(
            f"list {folder or '/'}", lambda: obstore.list(self._store, prefix=folder or None).collect()
        )
        return sorted((Found(f["path"], f["size"], _tag(f)) for f in listed), key=lambda found: found.name)

    def exists(self, name: str) -> bool:
        """Tells whether an object is there."""
        try:
            self._patiently(f"look at {name}", lambda: obstore.head(self._store, name))
        except FileNotFoundError:
            return False
        return True

    def delete(self, names: Sequence[str]) -> None:
        """Removes objects; those that are not there are no error."""

        def remove() -> None:
            fault_point("object.delete")
            obstore.delete(self._store, list(names))

        if names:
            try:
                self._patiently(f"delete {names[0]}", remove)
            except FileNotFoundError:
                return

    def _patiently(self, what: str, act: Callable[[], _Result], missing_is_taken: bool = False) -> _Result:
        """Makes a request until it succeeds, with growing, jittered pauses; gives up after `tries`."""
        for attempt in range(1, self._tries + 1):
            try:
                return act()
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                raise Taken(what) from None
            except (exceptions.NotFoundError, FileNotFoundError) as error:
                if missing_is_taken:
                    raise Taken(what) from None
                if "NoSuchBucket" in str(error):
                    raise StoreError(
                        f"{self.uri}: the bucket must exist, but does not; make it first"
                    ) from None
                raise FileNotFoundError(f"{self.uri}: cannot {what}: it is not there") from None
            except (
                exceptions.PermissionDeniedError,
                exceptions.UnauthenticatedError,
                PermissionError,
            ) as error:
                raise StoreError(
                    f"{self.uri}: must be open to these credentials, but cannot {what}: {_short(error)}; "
                    "check the environment (AWS_ACCESS_KEY_ID, ...)"
                ) from None
            except (exceptions.NotSupportedError, exceptions.InvalidPathError) as error:
                raise StoreError(f"{self.uri}: cannot {what}: {_short(error)}") from None
            except (exceptions.BaseError, OSError) as error:
                if attempt == self._tries:
                    raise StoreAwayError(
                        f"{self.uri}: must be reachable, but cannot {what} after {attempt} tries: {_short(error)}"
                    ) from None
            longest = min(_FIRST_WAIT_S * 3 ** (attempt - 1), _LONGEST_WAIT_S)
            self._clock.sleep(random.uniform(0.5, 1.0) * longest)
        raise AssertionError("unreachable: the last try returns or raises")


def _memory(uri: str) -> Any:
    return _memories.setdefault(uri, MemoryStore())


def _tag(meta: Mapping[str, Any]) -> Mapping[str, str]:
    return {key: str(meta[key]) for key in ("e_tag", "version") if meta.get(key) is not None}


def _short(error: BaseException) -> str:
    """The first words of an error: what a server sends in its body may repeat the key's name."""
    return str(error).split("<", 1)[0].split("\n", 1)[0].strip(" :-")[:300] or type(error).__name__


def _is_loopback(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
