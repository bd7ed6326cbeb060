"""Many arrays of bytes in one file, each found by its place: written once, whole or not at all, then memory-mapped."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainable.atomic import sync_folder
from trainable.data.files import UInt8
from trainable.data.hashes import workers
from trainable.data.lock import BuildLock, build_lock
from trainable.errors import DataError, Fault
from trainable.faults import declare, fault_point

FORMAT = 1

_BATCH_ITEMS = 64
_BATCH_BYTES = 128 << 20
_SYNC_BYTES = 1 << 30
_VERIFY_BYTES = 1 << 30

declare(
    "cache.write", "cache.fsync", "cache.rename", "cache.dirsync",
    "cache.index.write", "cache.index.fsync", "cache.index.rename", "cache.index.dirsync", "cache.drop",
)  # fmt: skip

_logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Content:
    """One array before it is read: what it holds, and how large it will be.

    Attributes:
        key: hash of what it is made from.
        shape: (H, W, C).
        load: reads it; `uint8[H, W, C]`, or a `DataError`.
    """

    key: str
    shape: tuple[int, int, int]
    load: Callable[[], UInt8]

    @property
    def nbytes(self) -> int:
        """Bytes once decoded."""
        height, width, channels = self.shape
        return height * width * channels


class Pack:
    """Arrays in a memory-mapped file that cannot be written through.

    Args:
        data: the file's bytes.
        shapes: (H, W, C) of each array.
    """

    def __init__(self, data: UInt8, shapes: Sequence[tuple[int, int, int]]) -> None:
        self._data = data
        self._shapes = list(shapes)
        self._offsets = np.concatenate([[0], np.cumsum([h * w * c for h, w, c in self._shapes], dtype=np.int64)])

    def __len__(self) -> int:
        return len(self._shapes)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return int(self._offsets[-1])

    def array(self, place: int) -> UInt8:
        """A view of one array, `uint8[H, W, C]`."""
        start, end = self._offsets[place], self._offsets[place + 1]
        return self._data[start:end].reshape(self._shapes[place])


@dataclass(frozen=True)
class PackFiles:
    """Where a pack lies. Its name is the hash of its contents' keys and shapes.

    Attributes:
        folder: the folder.
        contents: what is in it, in order.
    """

    folder: Path
    contents: tuple[Content, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(content.nbytes for content in self.contents)

    @cached_property
    def name(self) -> str:
        """The hash that names the pack's files."""
        digest = hashlib.sha256(f"thresher {FORMAT}\n".encode())
        for content in self.contents:
            digest.update(f"{content.key} {content.shape}\n".encode())
        return digest.hexdigest()[:32]

    def open(self) -> Pack | None:
        """The pack if it is there and whole, else None.

        The index carries a checksum of itself, the size of the data and a checksum of every array. Arrays are
        checked up to `_VERIFY_BYTES`, spread over the file, which also warms the operating system's cache.
        """
        if not self.contents:
            return Pack(np.empty(0, np.uint8), [])
        try:
            plain = json.loads((self.folder / f"{self.name}.json").read_text(encoding="utf-8"))
            index = plain["index"]
            if plain["checksum"] != _checksum(index) or index["format"] != FORMAT:
                return None
            data_path = self.folder / str(index["data"])
            if Path(str(index["data"])).name != index["data"] or data_path.stat().st_size != self.nbytes:
                return None
            data: UInt8 = np.memmap(data_path, np.uint8, mode="r")
        except (OSError, ValueError, KeyError, TypeError):
            return None
        pack = Pack(data, [content.shape for content in self.contents])
        return pack if _sums_agree(pack, index["sums"]) else None

    def build(self, progress: Progress | None = None) -> Pack:
        """Open the pack, building it first if it is not there or damaged.

        Args:
            progress: called with (arrays done, arrays in all).

        Raises:
            DataError: some content cannot be read (all of them are named), or the folder cannot be written.
        """
        found = self.open()
        if found is not None:
            return found
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with build_lock(self.folder / f"{self.name}.lock", lambda: self.open() is not None) as lock:
                if lock is not None and self.open() is None:
                    self._write(lock, progress)
        except OSError as error:
            found = self.open()
            if found is not None:
                # Another process took the lock for abandoned, was faster, and removed what this one had begun.
                return found
            text = (
                f"the cache must be writable and have {self.nbytes / 1e9:.2f} GB free, but got {type(error).__name__}: "
                f"{error.strerror}; free space, or set data.cache.dir or THRESHER_CACHE"
            )
            raise DataError([Fault(str(self.folder), text)]) from error
        built = self.open()
        if built is None:
            text = "what was just written must be readable, but it is damaged; check the disk, or set data.cache.dir"
            raise DataError([Fault(str(self.folder), text)])
        return built

    def _write(self, lock: BuildLock, progress: Progress | None) -> None:
        unique = f"{self.name}.{uuid.uuid4().hex[:12]}"
        temporary, data_path = self.folder / f"{unique}.tmp", self.folder / f"{unique}.bin"
        try:
            with temporary.open("wb") as file:
                sums = _write_arrays(file, self.contents, lock, progress)
                fault_point("cache.fsync")
                file.flush()
                os.fsync(file.fileno())
            fault_point("cache.rename")
            temporary.replace(data_path)
            fault_point("cache.dirsync")
            sync_folder(self.folder)
            self._write_index(unique, {"format": FORMAT, "data": data_path.name, "sums": sums})
        except BaseException:
            for half_done in self.folder.glob(f"{unique}.*"):
                _try_unlink(half_done)
            raise
        for old in self.folder.glob(f"{self.name}.*.*"):
            if old.name != data_path.name:
                _logger.warning("%s: removed, left by a build that did not end or of what is built anew", old)
                fault_point("cache.drop")
                _try_unlink(old)

    def _write_index(self, unique: str, index: dict[str, Any]) -> None:
        temporary = self.folder / f"{unique}.json.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            fault_point("cache.index.write")
            json.dump({"index": index, "checksum": _checksum(index)}, file)
            file.flush()
            fault_point("cache.index.fsync")
            os.fsync(file.fileno())
        fault_point("cache.index.rename")
        temporary.replace(self.folder / f"{self.name}.json")
        fault_point("cache.index.dirsync")
        sync_folder(self.folder)


def _write_arrays(
    file: BinaryIO, contents: Sequence[Content], lock: BuildLock, progress: Progress | None
) -> list[int]:
    """Write all arrays one after the other; a content that cannot be read never leaves a gap, but ends the build."""
    sums: list[int] = []
    faults: list[Fault] = []
    unsynced = done = 0
    with ThreadPoolExecutor(workers()) as pool:
        for batch in _batches(contents):
            for array, found in pool.map(_loaded, batch):
                faults += found
                done += 1
                if array is None or faults:
                    continue
                fault_point("cache.write")
                file.write(array.data)
                sums.append(zlib.crc32(array.data))
                unsynced += array.nbytes
            lock.still_here()
            if progress is not None:
                progress(done, len(contents))
            if unsynced > _SYNC_BYTES:
                file.flush()
                os.fsync(file.fileno())
                unsynced = 0
    if faults:
        raise DataError(faults)
    return sums


def _loaded(content: Content) -> tuple[UInt8 | None, tuple[Fault, ...]]:
    try:
        array = content.load()
    except DataError as error:
        return None, error.faults
    if array.shape != content.shape or array.dtype != np.uint8:
        raise ValueError(f"array must be uint8{content.shape}, but got {array.dtype}{array.shape}")
    return np.ascontiguousarray(array), ()


def _batches(contents: Sequence[Content]) -> Iterator[list[Content]]:
    """So many at a time that the threads are busy and memory stays small, whatever the size of the images."""
    batch: list[Content] = []
    size = 0
    for content in contents:
        if batch and (len(batch) >= _BATCH_ITEMS or size + content.nbytes > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(content)
        size += content.nbytes
    if batch:
        yield batch


def _sums_agree(pack: Pack, sums: object) -> bool:
    if not isinstance(sums, list) or len(sums) != len(pack):
        return False
    stride = max(1, -(-pack.nbytes // _VERIFY_BYTES))
    return all(zlib.crc32(pack.array(place).data) == sums[place] for place in range(0, len(pack), stride))


def _checksum(index: object) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _try_unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # Windows keeps a file that another process maps; the next build removes it.
        return
