"""The small objects at the end of a log on object storage, which become one: reading gets faster, no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from search.store.bucket import Bucket, Found, Taken
from search.store.lines import read_lines
from trainable.faults import declare

READERS = 16
"""So many objects are read at a time."""

_SMALL_BYTES = 256 * 2**10

declare("merge.put", "merge.written")


@dataclass(slots=True)
class _Part:
    """One small object of this log: its name, its version, and its bytes where they are still at hand."""

    name: str
    tag: Mapping[str, str]
    data: bytes | None


class SmallObjects:
    """Those that a merge is to take, in the order of the log.

    Args:
        bucket: where they are.
        objects: lists the log's objects, each with the number of its first event.
    """

    def __init__(self, bucket: Bucket, objects: Callable[[], Sequence[tuple[int, Found]]]) -> None:
        self._bucket, self._objects = bucket, objects
        self._parts: list[_Part] = []

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, name: str, tag: Mapping[str, str], data: bytes) -> None:
        """Another stands at the end now."""
        self._parts.append(_Part(name, tag, data))

    def clear(self) -> None:
        """Forgets them all."""
        self._parts = []

    def remember(self, objects: Sequence[tuple[int, Found]]) -> None:
        """Takes those at the end of a listing: what stands before a large one stays."""
        self._parts = []
        for _, found in objects:
            if found.size >= _SMALL_BYTES:
                self._parts = []
            else:
                self._parts.append(_Part(found.name, found.tag, None))

    def merge(self) -> None:
        """Puts the content of all small objects in place of the first, then removes the others."""
        parts = list(self._parts)
        merged = self._joined(parts)
        if merged is None:
            self.remember(self._objects())
            return
        try:
            tag = self._bucket.put(parts[0].name, merged, over=parts[0].tag, point="merge")
        except Taken:
            # Merged by a put whose answer got lost, or by another owner: look again instead of guessing.
            self.remember(self._objects())
            return
        self._bucket.delete([part.name for part in parts[1:]])
        kept = [] if len(merged) >= _SMALL_BYTES else [_Part(parts[0].name, tag, merged)]
        self._parts[: len(parts)] = kept

    def _joined(self, parts: Sequence[_Part]) -> bytes | None:
        """Their lines, each event once; None where one is missing."""
        with ThreadPoolExecutor(READERS) as readers:
            contents = list(
                readers.map(lambda part: part.data or content(self._bucket, part.name) or b"", parts)
            )
        lines: list[bytes] = []
        expected = None
        for part, data in zip(parts, contents, strict=True):
            for line, event in zip(data.split(b"\n"), read_lines(data, part.name), strict=False):
                if expected is None or event.seq == expected:
                    lines.append(line + b"\n")
                    expected = event.seq + 1
                elif event.seq > expected:
                    return None
        return b"".join(lines)


def content(bucket: Bucket, name: str) -> bytes | None:
    """An object's bytes; None where it is not there any more."""
    try:
        return bucket.get(name)[0]
    except FileNotFoundError:
        return None
