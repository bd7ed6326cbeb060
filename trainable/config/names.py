"""Names: of runs, which must be safe as folders, and of keys, the nearest of which is a hint."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import PurePath

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_RESERVED = {"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(1, 10))}


def check_name(name: str) -> str:
    """A name that is safe as a folder on every system, or ValueError.

    >>> check_name("salak-thresholds")
    'salak-thresholds'
    """
    safe = NAME_PATTERN.fullmatch(name) and not name.endswith(".") and ".." not in name
    if not safe or name.split(".")[0].lower() in _RESERVED:
        raise ValueError(
            "name must be 1 to 100 letters, digits, '.', '_' or '-', start with a letter or digit, not end with "
            f"'.', and not be a reserved word, but got name={name[:120]!r}; rename it"
        )
    return name


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint with the nearest known name, or the empty string.

    >>> nearest("stepz", ["steps", "patience"])
    "; did you mean 'steps'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def names_file(weights: str) -> bool:
    """Whether a text names a file of weights, and not weights that are known by name.

    >>> names_file("imagenet"), names_file("encoder.safetensors"), names_file("runs/encoder")
    (False, True, True)
    """
    return PurePath(weights).suffix in {".pt", ".pth", ".safetensors"} or "/" in weights or os.sep in weights
