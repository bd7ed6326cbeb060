"""Small text files that people write: class tables, lists of ids, coordinates. Whatever stands there, no crash."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from trainable.errors import DataError, Fault

_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path, what: str, fix: str) -> str:
    """The text of a file, without a byte order mark.

    Args:
        path: the file.
        what: what it is, for the message: "a list of ids".
        fix: what to do where it is not there.

    Raises:
        DataError: there is no such file, it may not be read, or it is not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            # A pipe would block for ever.
            raise _refused(path, what, f"it is {'a folder' if path.is_dir() else 'no regular file'}; {fix}")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise _refused(path, what, f"there is no such file; {fix}") from None
    except (OSError, ValueError) as error:
        raise _refused(path, what, f"got: {getattr(error, 'strerror', None) or error}; {fix}") from None
    if raw.startswith(_WIDE_MARKS) or b"\0" in raw[:2]:
        raise _refused(path, what, "it is UTF-16; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"line {line} holds the byte 0x{raw[error.start]:02x}"
        raise _refused(path, what, f"{byte}, as other encodings do; save it as UTF-8") from None


def _refused(path: Path, what: str, reason: str) -> DataError:
    return DataError([Fault(str(path), f"{what} must be a UTF-8 file that can be read, but {reason}")])


def csv_rows(path: Path, text: str, faults: list[Fault]) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line that each ends on, separated by commas, semicolons or tabs, as the first line is.

    Args:
        path: the file, for the message. text: what it holds. faults: a row that cannot be read is added here.

    >>> list(csv_rows(Path("x.csv"), "a;b\\n1;2\\n", []))
    [(1, ['a', 'b']), (2, ['1', '2'])]
    """
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max((",", ";", "\t"), key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        where = f"{path}:{max(1, reader.line_num)}"
        faults.append(
            Fault(where, f"the line must be CSV, but got: {error}; mend its quotes or write it anew")
        )
