"""Batches that are cut ahead of the loop, in one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from trainable.data.streams import HostBatch

Batches = dict[str, HostBatch]


class Prefetcher:
    """Cuts batches ahead of the loop in one daemon thread.

    An exception in the thread is raised where the batch would have been taken.

    Args:
        cut: step to batches.
        first: the first step. stop: the step after the last.
        depth: how many batches wait at most.
    """

    def __init__(self, cut: Callable[[int], Batches], first: int, stop: int, depth: int = 2) -> None:
        self._queue: queue.Queue[Batches | BaseException] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._count = max(0, stop - first)
        self._thread = threading.Thread(target=self._run, args=(cut, first, stop), name="prefetch", daemon=True)
        self._thread.start()

    def _run(self, cut: Callable[[int], Batches], first: int, stop: int) -> None:
        for step in range(first, stop):
            try:
                made: Batches | BaseException = cut(step)
            except Exception as error:  # handed to the loop, which raises it
                made = error
            while not self._closed.is_set():
                try:
                    self._queue.put(made, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._closed.is_set() or isinstance(made, BaseException):
                return

    def __iter__(self) -> Iterator[Batches]:
        for _ in range(self._count):
            made = self._queue.get()
            if isinstance(made, BaseException):
                raise made
            yield made

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._closed.set()
        self._thread.join(timeout=10)
