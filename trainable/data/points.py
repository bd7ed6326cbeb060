"""Coordinates instead of masks: `points.csv` (image, x, y) or `coordinates.json`, and the discs they stand for."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainable.data.files import SUFFIXES, UInt8
from trainable.data.texts import csv_rows, read_text
from trainable.errors import DataError, Fault

Points = tuple[tuple[float, float], ...]

FILES = ("points.csv", "coordinates.json")


def discs(points: Iterable[tuple[float, float]], radius: float, height: int, width: int) -> UInt8:
    """Filled discs around points.

    A pixel (row y, column x), whole numbers counted at its center, is 1 where (x - cx)^2 + (y - cy)^2 <= radius^2 for
    some point (cx, cy), else 0.

    Args:
        points: (x, y) in pixels; parts outside the picture are cut off.
        radius: in pixels.
        height: rows.
        width: columns.

    Returns:
        `uint8[height, width]` of 0 and 1; all 0 without points.

    >>> discs([(1, 1)], 1, 3, 4).tolist()
    [[0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]]
    """
    mask = np.zeros((height, width), np.uint8)
    for cx, cy in points:
        top, bottom = max(0, math.ceil(cy - radius)), min(height - 1, math.floor(cy + radius))
        left, right = max(0, math.ceil(cx - radius)), min(width - 1, math.floor(cx + radius))
        if top > bottom or left > right:
            continue
        dy = np.arange(top, bottom + 1, dtype=np.float64)[:, None] - cy
        dx = np.arange(left, right + 1, dtype=np.float64)[None, :] - cx
        mask[top : bottom + 1, left : right + 1] |= (dx * dx + dy * dy <= radius * radius).astype(np.uint8)
    return mask


def read_points(path: Path) -> dict[str, Points]:
    """Read coordinates by file name.

    Args:
        path: a CSV with the columns image, x, y, or a JSON object {file name: [[x, y], ...]}. An empty JSON list is
            an image that was searched and holds nothing.

    Returns:
        Points by the name as written there, in the file's order.

    Raises:
        DataError: every fault of the file at once.
    """
    text = read_text(path, "a file of coordinates", "set data.points.file, which is relative to data.root")
    faults: list[Fault] = []
    found = _from_json(path, text, faults) if path.suffix.lower() == ".json" else _from_csv(path, text, faults)
    if not found and not faults:
        faults.append(Fault(str(path), "there must be points, but got none; write rows of image,x,y"))
    if faults:
        raise DataError(faults)
    return found


def stem_of(name: str) -> str:
    """The id that a written file name means: without a picture's suffix, with forward slashes.

    >>> stem_of("mic_01.png"), stem_of("v1.2")
    ('mic_01', 'v1.2')
    """
    plain = name.replace("\\", "/")
    suffix = next((s for s in SUFFIXES if plain.lower().endswith(s)), "")
    return plain[: len(plain) - len(suffix)] if suffix else plain


def outside(points: Points, height: int, width: int) -> list[tuple[float, float]]:
    """The points whose center is not in the picture.

    >>> outside(((0.0, 0.0), (9.0, 3.0)), height=10, width=5)
    [(9.0, 3.0)]
    """
    return [(x, y) for x, y in points if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5)]


def _from_csv(path: Path, text: str, faults: list[Fault]) -> dict[str, Points]:
    rows = csv_rows(path, text, faults)
    titles = [title.strip().lower() for title in next(rows, (1, []))[1]]
    if faults:
        return {}
    missing = [name for name in ("image", "x", "y") if name not in titles]
    if missing:
        faults.append(
            Fault(f"{path}:1", f"the columns must be image, x, y, but {', '.join(missing)} is missing in "
                  f"{','.join(titles)[:80]!r}; add a header line")
        )  # fmt: skip
        return {}
    image, x, y = (titles.index(name) for name in ("image", "x", "y"))
    found: dict[str, list[tuple[float, float]]] = {}
    for line, fields in rows:
        if not any(field.strip() for field in fields):
            continue
        name = fields[image].strip() if image < len(fields) else ""
        point = _point([fields[i] if i < len(fields) else "" for i in (x, y)])
        if not name or point is None:
            faults.append(
                Fault(f"{path}:{line}", "a row must be image,x,y with finite numbers, but got "
                      f"{repr(fields)[:80]}; correct it")
            )  # fmt: skip
            continue
        found.setdefault(name, []).append(point)
    return {name: tuple(points) for name, points in found.items()}


def _from_json(path: Path, text: str, faults: list[Fault]) -> dict[str, Points]:
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(name for name, _ in pairs)
        repeated.extend(name for name, count in counts.items() if count > 1)
        return dict(pairs)

    try:
        plain = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        faults.append(Fault(str(path), f"the file must be JSON, but got {str(error)[:100]}; write it anew"))
        return {}
    if not isinstance(plain, Mapping):
        faults.append(Fault(str(path), 'the file must hold {"file name": [[x, y], ...]}, but got a '
                            f"{type(plain).__name__}; write one list per image"))  # fmt: skip
        return {}
    faults += [
        Fault(f"{path}:{name}", f"an image must stand once, but got {name!r} twice; merge the lists")
        for name in repeated
    ]
    found: dict[str, Points] = {}
    for name, listed in plain.items():
        points = [_point(pair) for pair in listed] if isinstance(listed, list) else [None]
        good = [point for point in points if point is not None]
        if len(good) < len(points):
            faults.append(
                Fault(f"{path}:{name}", f"points must be [[x, y], ...], all finite, but got {repr(listed)[:80]}; "
                      "correct")
            )  # fmt: skip
        found[name] = tuple(good)
    return found


def _point(pair: Any) -> tuple[float, float] | None:
    if not isinstance(pair, list) or len(pair) != 2 or any(isinstance(value, bool) for value in pair):
        return None
    try:
        x, y = float(pair[0]), float(pair[1])
    except (TypeError, ValueError, OverflowError):
        return None
    return (x, y) if math.isfinite(x) and math.isfinite(y) else None
