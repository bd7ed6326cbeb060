"""The files of a log in a folder: which there are, and where each begins and ends."""

from __future__ import annotations

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


def limits(firsts: list[int | None]) -> list[float]:
    """For each file, the first event number of any later one: from there on its own do not count."""
    found, limit = [], float("inf")
    for first in reversed(firsts):
        found.append(limit)
        limit = limit if first is None else min(limit, first)
    return found[::-1]


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


def first_seq(path: Path) -> int | None:
    """Number of the first event in a file; None when it holds none that is whole."""
    try:
        with path.open("rb") as file:
            line = file.readline().removesuffix(b"\n")
    except OSError as error:
        raise StoreError(f"{path}: must be readable, but got {error.strerror or error}") from error
    if not line or not is_whole(line):
        return None
    return next(decode([line])).seq
