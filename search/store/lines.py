"""The bytes of a log, back to events, with the place of whatever is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from search.events import Event, decode, is_whole
from trainable.errors import StoreError

_AT_ONCE = 512


def read_lines(data: bytes, where: str, first: int = 1) -> Iterator[Event]:
    """Reads whole lines, each ending with a newline.

    Args:
        data: the lines.
        where: the file, for messages.
        first: number of the first line, for messages.

    Raises:
        SchemaError: an event is of a newer schema.
        StoreError: a line's checksum does not fit, or it is no event; says which and how to go on.
    """
    lines = data.split(b"\n")
    if lines.pop():
        raise StoreError(f"{where}: must end with a newline, but the last line is unfinished")
    for start in range(0, len(lines), _AT_ONCE):
        chunk = lines[start : start + _AT_ONCE]
        for offset, line in enumerate(chunk):
            if not is_whole(line):
                raise _damaged(where, first + start + offset)
        try:
            events = list(decode(chunk))
        except StoreError:
            events = [_one(line, where, first + start + offset) for offset, line in enumerate(chunk)]
        if len(events) != len(chunk):
            raise _damaged(where, first + start)
        yield from events


def _one(line: bytes, where: str, number: int) -> Event:
    try:
        (event,) = decode([line])
    except StoreError as error:
        raise type(error)(f"{where}:{number}: {error}") from error
    except ValueError as error:
        raise _damaged(where, number) from error
    return event


def _damaged(where: str, number: int) -> StoreError:
    return StoreError(
        f"{where}:{number}: an event must match its checksum, but this line does not: it was damaged after it was "
        f"written (nothing was changed). Restore the file from a copy; or, to give up this event and all later ones, "
        f"keep lines 1 to {number - 1} of it and remove the files that follow it in events/"
    )
