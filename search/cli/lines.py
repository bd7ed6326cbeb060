"""Faults of data told by the lines of the file that named the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from search.config import overridden, placed
from trainable import strict_yaml
from trainable.document import Document
from trainable.errors import DataError, Fault


@contextmanager
def told_by_line(file: Path, sets: Iterable[str] = ()) -> Iterator[None]:
    """Put file and line in front of a data fault whose place is a key such as `data.val`.

    Args:
        file: what was read; a folder has no lines.
        sets: the overrides that were put on top.
    """
    try:
        yield
    except DataError as error:
        if not file.is_file():
            raise
        document = overridden(strict_yaml.load(file), sets)
        raise DataError([_by_line(fault, document) for fault in error.faults]) from error


def _by_line(fault: Fault, document: Document) -> Fault:
    return placed([fault], document)[0] if fault.where.startswith("data.") else fault
