"""The classes of a data set: names and colors from a CSV, or the documented ones of VOC.

Row order is the class id. Names become parts of metric names and knob names, so what would break those is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trainable.data.texts import csv_rows, read_text
from trainable.errors import DataError, Fault
from trainable.knob import DEFAULT_CLASS

Color = tuple[int, int, int]

IGNORE = 255
"""The class id of pixels that no loss and no metric sees."""

_NAME_COLUMNS = ("class_name", "class", "name", "label")
_COLOR_COLUMNS = ("class_color", "class_colour", "color", "colour", "rgb")
_CHANNEL_COLUMNS = ("r", "red"), ("g", "green"), ("b", "blue")
_FORBIDDEN = re.compile(r"[./=\x00-\x1f\x7f]")
_MAX_CLASSES = 255

VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC_VOID: Color = (224, 224, 192)


@dataclass(frozen=True)
class ClassTable:
    """Names and colors in the order of the class ids.

    Attributes:
        names: one per class.
        colors: one per class; empty where no mask is read by color.
        ignore: colors that mean "no label here".
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...] = ()
    ignore: tuple[Color, ...] = ()

    def id_of(self, color: Color) -> int | None:
        """The class id of a color, `IGNORE`, or None if the color is unknown."""
        if color in self.ignore:
            return IGNORE
        return self.colors.index(color) if color in self.colors else None

    def nearest(self, color: Color) -> str:
        """The class whose color is closest (Euclidean, in RGB), with the distance.

        >>> ClassTable(("water", "road"), ((0, 0, 255), (90, 90, 90))).nearest((90, 90, 93))
        'road 90 90 90, distance 3'
        """
        if not self.colors:
            return "none"
        distances = [sum((a - b) ** 2 for a, b in zip(color, c, strict=True)) for c in self.colors]
        best = distances.index(min(distances))
        red, green, blue = self.colors[best]
        return f"{self.names[best]} {red} {green} {blue}, distance {round(distances[best] ** 0.5)}"


def voc_palette(size: int = 256) -> tuple[Color, ...]:
    """The VOC color map: bit k of each channel of entry i comes from bits 3 (7 - k) + channel of i.

    >>> voc_palette(3)
    ((0, 0, 0), (128, 0, 0), (0, 128, 0))

    Source: the color map of the PASCAL VOC development kit, from its description.
    """
    colors = []
    for index in range(size):
        channels = [
            sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)
        ]
        colors.append((channels[0], channels[1], channels[2]))
    return tuple(colors)


def voc_classes() -> ClassTable:
    """VOC's 21 classes and its void color."""
    return ClassTable(VOC_NAMES, voc_palette(len(VOC_NAMES)), (VOC_VOID,))


def parse_color(text: str) -> Color:
    """A color from "R G B", "R,G,B", "(R, G, B)" or "#RRGGBB".

    Raises:
        ValueError: not three whole numbers from 0 to 255.

    >>> parse_color("60 16 152"), parse_color("#3c1098"), parse_color("(60, 16, 152)")
    ((60, 16, 152), (60, 16, 152), (60, 16, 152))
    """
    plain = text.strip()
    if re.fullmatch(r"#[0-9a-fA-F]{6}", plain):
        return int(plain[1:3], 16), int(plain[3:5], 16), int(plain[5:7], 16)
    parts = [part for part in re.split(r"[\s,;:/|]+", plain.strip("()[]{}\"' ")) if part]
    if len(parts) != 3 or not all(re.fullmatch(r"[0-9]{1,3}", part) and int(part) <= 255 for part in parts):
        raise ValueError(f'a color must be "R G B" with whole numbers from 0 to 255, but got {text!r}')
    return int(parts[0]), int(parts[1]), int(parts[2])


def parse_ignore(colors: Iterable[str], faults: list[Fault]) -> tuple[Color, ...]:
    """The colors listed in `data.ignore`; what is wrong goes to `faults`."""
    parsed: list[Color] = []
    for text in colors:
        try:
            parsed.append(parse_color(text))
        except ValueError as error:
            faults.append(Fault("data.ignore", f'{error}; write for example "155 155 155"'))
    return tuple(dict.fromkeys(parsed))


def read_classes(path: Path, ignore: tuple[Color, ...] = ()) -> ClassTable:
    """Read a class table from a CSV with the columns `class_name,class_color`.

    Args:
        path: the file; UTF-8, separated by commas, semicolons or tabs; a header is optional.
        ignore: colors that mean "no label here".

    Raises:
        DataError: every fault of the file at once, by line.
    """
    text = read_text(path, "a class table", "set data.classes to a CSV with the columns class_name,class_color")
    faults: list[Fault] = []
    rows = list(_rows(path, text, faults))
    names = [name for _, name, _ in rows]
    colors = [color for _, _, color in rows]
    _check_names(path, rows, faults)
    _check_colors(path, rows, ignore, faults)
    if not faults and not 2 <= len(rows) <= _MAX_CLASSES:
        faults.append(
            Fault(str(path), f"there must be 2 to {_MAX_CLASSES} classes, but got {len(rows)}; list one per row")
        )
    if faults:
        raise DataError(faults)
    return ClassTable(tuple(names), tuple(colors), ignore)


def _rows(path: Path, text: str, faults: list[Fault]) -> Iterable[tuple[int, str, Color]]:
    columns: tuple[int, tuple[int, ...]] | None = None
    for line, fields in csv_rows(path, text, faults):
        if not any(field.strip() for field in fields):
            continue
        if columns is None:
            columns = _columns(fields)
            if columns is not None:
                continue
            columns = (0, tuple(range(1, max(2, len(fields)))))
            if not _is_class(fields):
                faults.append(
                    Fault(f"{path}:{line}", "the first line must be a header with the columns class_name,class_color, "
                          f"or a class with its color, but got {','.join(fields)[:80]!r}; mend it")
                )  # fmt: skip
                return
        name, color_text = _pick(fields, columns)
        try:
            yield line, name, parse_color(color_text)
        except ValueError as error:
            faults.append(Fault(f"{path}:{line}", f"{error}; write the row as class_name,class_color"))


def _is_class(fields: list[str]) -> bool:
    """Whether a first line without known titles is a class: a name, and something with a digit for its color."""
    return any(mark.isdigit() for field in fields[1:] for mark in field)


def _columns(fields: list[str]) -> tuple[int, tuple[int, ...]] | None:
    """Where name and color stand, or None if the row is no header (then it is the first class)."""
    titles = [field.strip().lower() for field in fields]
    name = next((titles.index(title) for title in _NAME_COLUMNS if title in titles), None)
    if name is None:
        return None
    color = next((titles.index(title) for title in _COLOR_COLUMNS if title in titles), None)
    if color is not None:
        last = color == len(titles) - 1
        return name, (color, color + 1, color + 2) if last else (color,)
    channels = [next((titles.index(t) for t in names if t in titles), None) for names in _CHANNEL_COLUMNS]
    found = tuple(index for index in channels if index is not None)
    return (name, found) if len(found) == 3 else None


def _pick(fields: list[str], columns: tuple[int, tuple[int, ...]]) -> tuple[str, str]:
    name, color = columns
    # "road,110,193,228" below a header of two columns: the color's own commas were not quoted.
    parts = [fields[index].strip() for index in color if index < len(fields)]
    return (fields[name].strip() if name < len(fields) else ""), " ".join(parts)


def _check_names(path: Path, rows: list[tuple[int, str, Color]], faults: list[Fault]) -> None:
    seen: dict[str, int] = {}
    for line, name, _ in rows:
        where = f"{path}:{line}"
        if not name:
            faults.append(Fault(where, "a class must have a name, but got an empty one; name it"))
        elif _FORBIDDEN.search(name):
            fixed = _FORBIDDEN.sub("_", name)
            faults.append(
                Fault(where, "a class name must not contain '.', '/', '=' or control characters, but got "
                      f"class_name={name!r}; rename it, for example to {fixed!r}")
            )  # fmt: skip
        elif name == DEFAULT_CLASS:
            faults.append(
                Fault(where, f"{DEFAULT_CLASS!r} stands for all other classes in thresholds and cannot name one; "
                      "rename the class")
            )  # fmt: skip
        elif name in seen:
            faults.append(
                Fault(where, f"class names must be unique, but got class_name={name!r} again (first in line "
                      f"{seen[name]}); rename or remove one")
            )  # fmt: skip
        seen.setdefault(name, line)


def _check_colors(
    path: Path, rows: list[tuple[int, str, Color]], ignore: tuple[Color, ...], faults: list[Fault]
) -> None:
    seen: dict[Color, str] = {}
    for line, name, color in rows:
        shown = " ".join(map(str, color))
        if color in seen:
            faults.append(
                Fault(f"{path}:{line}", f"class colors must be unique, but got class_color={shown!r} for {name!r} and "
                      f"{seen[color]!r}; give one of them another color")
            )  # fmt: skip
        if color in ignore:
            faults.append(
                Fault(f"{path}:{line}", f"a color is either a class or ignored, but got {shown!r} for {name!r} and in "
                      "data.ignore; remove one of the two")
            )  # fmt: skip
        seen.setdefault(color, name)
