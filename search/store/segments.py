"""The files of a log in a folder: which there are, and where each begins and ends."""

from __future__ import annotations

import math
import os
from pathlib import Path

from search.events import decode, is_whole
from trainable.errors import StoreError


def segments(folder: Path) -> list[tuple[int, Path]]:
    """Number and path of every log file, in order; whatever else lies in the folder is left alone."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder}: must be a readable folder, but got {error.strerror or error}") from error
    numbers = ((name.removesuffix(".jsonl"), name) for name in names if name.endswith(".jsonl"))
    return sorted((int(number), folder / name) for number, name in numbers if number.isdecimal())


def limits(firsts: list[tuple[int, int] | None]) -> list[float]:
    """For each file, the first event number of any later one: from there on its own do not count.

    A later file of an earlier owner limits nothing: it was begun by one who did not know that he had lost the run.

    Args:
        firsts: number and epoch of the first event of each file, in order; None for one that holds none.

    >>> limits([(0, 1), (5, 2), (5, 1)])
    [5, inf, inf]
    """
    known = [(index, *first) for index, first in enumerate(firsts) if first is not None]
    return [
        min(
            (seq for at, seq, epoch in known if at > index and (first is None or epoch >= first[1])),
            default=math.inf,
        )
        for index, first in enumerate(firsts)
    ]


def last_seq(path: Path) -> int | None:
    """Number of the last whole event in a file; None when it holds none."""
    try:
        with path.open("rb") as file:
            size, block = file.seek(0, os.SEEK_END), 2**16
            while True:
                start = max(0, size - block)
                file.seek(start)
                data = file.read()
                # The newline before the last whole line must be in sight, or the file's beginning.
                if start == 0 or data.count(b"\n") >= 2:
                    break
                block *= 4
    except OSError as error:
        raise StoreError(f"{path}: must be readable, but got {error.strerror or error}") from error
    lines = data.split(b"\n")
    if lines[-1] and not is_whole(lines[-1]):
        lines.pop()
    whole = [line for line in lines if line]
    if not whole:
        return None
    if not is_whole(whole[-1]):
        raise StoreError(
            f"{path}: the last event must match its checksum, but does not; see `table --verify`"
        )
    return next(decode([whole[-1]])).seq


def first_of(path: Path) -> tuple[int, int] | None:
    """Number and epoch of the first event in a file; None when it holds none that is whole."""
    try:
        with path.open("rb") as file:
            line = file.readline().removesuffix(b"\n")
    except OSError as error:
        raise StoreError(f"{path}: must be readable, but got {error.strerror or error}") from error
    if not line or not is_whole(line):
        return None
    event = next(decode([line]))
    return event.seq, event.epoch
