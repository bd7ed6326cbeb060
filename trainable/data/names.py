"""Ids as people write them: lists, and what must never become a path."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from trainable.data.points import stem_of
from trainable.data.texts import read_text
from trainable.errors import DataError, Fault

_SHOWN = 5
_SHOWN_FAULTS = 20
_DRIVE = re.compile(r"[A-Za-z]:")


def some(names: Iterable[str], shown: int = _SHOWN) -> str:
    """The first names, and how many more there are.

    >>> some(["a", "b", "c"], shown=2)
    'a, b and 1 more'
    """
    listed = list(names)
    rest = len(listed) - shown
    return ", ".join(listed[:shown]) + (f" and {rest} more" if rest > 0 else "")


def capped(faults: Iterable[Fault], shown: int = _SHOWN_FAULTS) -> list[Fault]:
    """The first faults of a long list, and one that names where the others are.

    >>> [str(f) for f in capped([Fault("a", "x"), Fault("b", "y"), Fault("c", "z")], shown=1)]
    ['a: x', 'and 2 more faults: b, c']
    """
    listed = list(dict.fromkeys(faults))
    rest = listed[shown:]
    if not rest:
        return listed
    return [*listed[:shown], Fault("", f"and {len(rest)} more faults: {some(fault.where for fault in rest)}")]


def meant(written: str, known: Iterable[str]) -> str:
    """The known id that a written one probably means, or the empty string.

    It differs in letter case, carries the images' folder, or is the first of several on the line.

    >>> meant("IM0", ["im0"]), meant("images/im0", ["im0"]), meant("im0 -1", ["im0"]), meant("x", ["im0"])
    ('im0', 'im0', 'im0', '')
    """
    folded = {name.casefold(): name for name in known}
    plain = written.casefold()
    first = re.split(r"[\s,;]", plain, maxsplit=1)[0]
    tries = (plain, plain.partition("/")[2], stem_of(first), stem_of(first).partition("/")[2])
    return next((folded[name] for name in tries if name in folded), "")


def hostile(name: str) -> str:
    """Why a written id must not be turned into a path, or the empty string.

    >>> hostile("../x"), hostile("t1/p2")
    ("it leaves the folder ('..')", '')
    """
    plain = name.replace("\\", "/")
    if any(unicodedata.category(mark) == "Cc" for mark in name):
        return "it holds control characters"
    if plain.startswith(("/", "~")) or _DRIVE.match(plain):
        return "it is an absolute path"
    if ".." in plain.split("/"):
        return "it leaves the folder ('..')"
    return "it is longer than 400 characters" if len(name) > 400 else ""


def read_list(path: Path, faults: list[Fault]) -> dict[str, int]:
    """Read a list of ids, one per line; a line may carry a picture's suffix. Empty lines are skipped.

    Args:
        path: the list, UTF-8.
        faults: what is wrong with it is added here.

    Returns:
        Ids with their line numbers, in the file's order.
    """
    try:
        text = read_text(path, "a list of ids", "correct the path, which is relative to data.root")
    except DataError as error:
        faults += error.faults
        return {}
    found: dict[str, int] = {}
    before = len(faults)
    for number, line in enumerate(text.split("\n"), 1):
        written = line.strip(" \t\r")
        if not written:
            continue
        reason = hostile(written)
        name = unicodedata.normalize("NFC", stem_of(written)).removeprefix("./")
        if reason:
            faults.append(
                Fault(f"{path}:{number}", f"an id must be a name below the image folder, but got {written[:80]!r}: "
                      f"{reason}; write the id alone")
            )  # fmt: skip
        elif name in found:
            faults.append(
                Fault(f"{path}:{number}", f"an id must stand once, but got {name!r} again (first in line "
                      f"{found[name]}); remove one")
            )  # fmt: skip
        else:
            found[name] = number
    if not found and len(faults) == before:
        faults.append(Fault(str(path), "a list must name at least one id, but it is empty; fill it or leave it out"))
    return found
