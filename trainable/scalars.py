"""What a plain word in a configuration file or after `--set key=` means: the YAML 1.2 core rules, finite only."""

from __future__ import annotations

import math
import re
from typing import Any

MAX_DIGITS = 40

_NULL = re.compile(r"(?:~|null|Null|NULL|)")
_TRUE = re.compile(r"(?:true|True|TRUE)")
_FALSE = re.compile(r"(?:false|False|FALSE)")
_INT = re.compile(r"[-+]?[0-9]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_OCTAL = re.compile(r"0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NON_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def scalar(text: str) -> Any:
    """A plain scalar as null, a truth value, a number or a string.

    Raises:
        ValueError: not a number, an infinity, or more digits than a number here may have.

    >>> [scalar(s) for s in ("5e-4", "no", "0x10", "007", "1.", "~", "12:30", "1_000")]
    [0.0005, 'no', 16, 7, 1.0, None, '12:30', '1_000']
    """
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _NON_FINITE.fullmatch(text):
        raise ValueError(f"a number must be finite, but got {text}; use null where a value may be left out")
    if len(text) > MAX_DIGITS:
        if _INT.fullmatch(text) or _FLOAT.fullmatch(text):
            raise ValueError(f"a number must have at most {MAX_DIGITS} characters, but got {len(text)}")
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text) or _OCTAL.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"a number must fit 64 bits, but got {text}")
        return number
    return text
