"""What label masks mean: the values of a whole set of files, how they are to be read, and the class ids.

A gray or palette file can mean class ids or colors. One file alone often cannot tell (a mask with only 0 and 255 is
"class 0 and ignore" or "black and white"), so the reading is decided over all masks of the set:
the declared colors, if they explain every value of every file; else ids, if every value is an id or 255; else neither,
and every file that breaks the better reading is named. No value ever becomes ignore or class 0 by default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trainable.data.classes import IGNORE, ClassTable, Color
from trainable.data.files import UInt8, refuse
from trainable.data.names import some
from trainable.data.raw_masks import Family, RawMask
from trainable.errors import Fault

Reading = Literal["color", "index"]
Readings = Mapping[Family, Reading]

_MAX_COLORS = 1024
_SHOWN_COLORS = 5

@dataclass(frozen=True)
class Census:
    """The values of one mask and how many pixels have each.

    Attributes:
        family: as in `RawMask`.
        height: rows.
        width: columns.
        entries: (number or -1 for `rgb`, color, pixels), by number and color.
        more: colors beyond the first `_MAX_COLORS`, for a file that is no label mask at all.
    """

    family: Family
    height: int
    width: int
    entries: tuple[tuple[int, Color, int], ...]
    more: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        rows = [[number, *color, count] for number, color, count in self.entries]
        return {"family": self.family, "size": [self.height, self.width], "entries": rows, "more": self.more}

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> Census:
        """The inverse of `to_json`."""
        entries = tuple((n, (r, g, b), count) for n, r, g, b, count in plain["entries"])
        return Census(plain["family"], plain["size"][0], plain["size"][1], entries, plain["more"])


def take_census(raw: RawMask) -> Census:
    """Count the values of a mask.

    Args:
        raw: a mask as stored.

    Returns:
        The values in ascending order with their pixel counts, which add up to H x W unless `more` is above 0.
    """
    height, width = raw.pixels.shape[:2]
    if raw.family == "rgb":
        codes, counts = np.unique(_codes(raw.pixels), return_counts=True)
        kept = np.argsort(-counts, kind="stable")[:_MAX_COLORS]
        kept.sort()
        entries = tuple(
            (-1, (int(c) >> 16, (int(c) >> 8) & 255, int(c) & 255), int(n))
            for c, n in zip(codes[kept], counts[kept], strict=True)
        )
        return Census("rgb", height, width, entries, more=len(codes) - len(kept))
    counts = np.bincount(raw.pixels.ravel(), minlength=256)
    entries = tuple((int(v), _color(raw.palette[v]), int(counts[v])) for v in np.flatnonzero(counts))
    return Census(raw.family, height, width, entries)


def _codes(rgb: UInt8) -> npt.NDArray[np.int32]:
    wide = rgb.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def _color(channels: UInt8) -> Color:
    return int(channels[0]), int(channels[1]), int(channels[2])


def _meaning(family: Family, reading: Reading, number: int, color: Color, classes: ClassTable) -> int | None:
    """The class id of one value, `IGNORE`, or None if the reading cannot explain it."""
    if reading == "index":
        return number if number < len(classes.names) or number == IGNORE else None
    if family == "palette" and number == IGNORE:
        # By convention, whatever color the palette gives it: short palettes pad it with black, often a class's color.
        return IGNORE
    return classes.id_of(color)


def decide_readings(censuses: Iterable[Census], classes: ClassTable) -> tuple[Readings, tuple[Family, ...]]:
    """How each family of masks is to be read, judged over the whole set.

    Args:
        censuses: one per mask.
        classes: the declared classes.

    Returns:
        The reading per family, and the families whose two readings both work but differ.
    """
    values: dict[Family, dict[tuple[int, Color], int]] = {}
    for census in censuses:
        found = values.setdefault(census.family, {})
        for number, color, count in census.entries:
            found[number, color] = found.get((number, color), 0) + count
    readings: dict[Family, Reading] = {}
    differing: list[Family] = []
    for family, found in values.items():
        by_color = {key: _meaning(family, "color", *key, classes) for key in found}
        by_index = {key: _meaning(family, "index", *key, classes) for key in found}
        unexplained = [sum(found[k] for k, v in each.items() if v is None) for each in (by_color, by_index)]
        if family == "rgb" or unexplained[0] == 0:
            readings[family] = "color"
        else:
            readings[family] = "index" if unexplained[1] <= unexplained[0] else "color"
        if family != "rgb" and unexplained == [0, 0] and by_color != by_index:
            differing.append(family)
    return readings, tuple(differing)


def mixed_fault(
    where: str, censuses: Mapping[str, Census], readings: Readings, classes: ClassTable
) -> Fault | None:
    """Masks of one set that are read in two ways: a gray file among colored ones would become class ids in silence.

    A palette whose numbers and colors mean the same goes with either.

    Args:
        where: the folder, for the message.
        censuses: one per mask, by id.
        readings: how each family is read.
        classes: the declared classes.
    """
    by_reading: dict[Reading, list[str]] = {}
    both = {family for family in readings if family != "rgb"}
    for census in censuses.values():
        for number, color, _ in census.entries:
            if _meaning(census.family, "color", number, color, classes) != _meaning(
                census.family, "index", number, color, classes
            ):
                both.discard(census.family)
    for name, census in censuses.items():
        if census.family not in both:
            by_reading.setdefault(readings[census.family], []).append(name)
    if len(by_reading) < 2:
        return None
    colored, numbered = by_reading["color"], by_reading["index"]
    fewer = min(colored, numbered, key=len)
    return Fault(
        where, f"all masks must be colored, or all hold class numbers, but got {len(colored)} of colors and "
        f"{len(numbered)} of numbers: {some(fewer)}; save those like the others"
    )  # fmt: skip


def census_fault(path: str, census: Census, readings: Readings, classes: ClassTable) -> Fault | None:
    """What the reading cannot explain in one mask: values, pixel counts and nearest classes.

    Args:
        path: the file, for the message.
        census: its values.
        readings: how the set is read.
        classes: the declared classes.
    """
    reading = readings[census.family]
    unknown = [
        entry for entry in census.entries
        if _meaning(census.family, reading, entry[0], entry[1], classes) is None
    ]  # fmt: skip
    if not unknown and not census.more:
        return None
    unknown.sort(key=lambda entry: -entry[2])
    extra = len(unknown) + census.more - _SHOWN_COLORS
    tail = f" and {extra} more" if extra > 0 else ""
    if reading == "index":
        shown = ", ".join(f"{number} ({count} px)" for number, _, count in unknown[:_SHOWN_COLORS])
        return Fault(
            path, f"class ids must be 0 to {len(classes.names) - 1}, or 255 for ignore, but got {shown}{tail}; "
            "mend the mask or list the missing class"
        )  # fmt: skip
    shown = ", ".join(
        f"{red} {green} {blue} ({count} px; nearest: {classes.nearest((red, green, blue))})"
        for _, (red, green, blue), count in unknown[:_SHOWN_COLORS]
    )
    many = len(unknown) + census.more > 3 * len(classes.names)
    fix = (
        "so many colors come from a lossy format or smoothed edges: save masks as PNG without smoothing" if many
        else "correct the mask, add the color to the class table, or list it in data.ignore"
    )  # fmt: skip
    return Fault(path, f"every color must be a class's or listed in data.ignore, but got {shown}{tail}; {fix}")


def pixels_per_class(census: Census, readings: Readings, classes: ClassTable) -> tuple[int, ...]:
    """Pixels of each class, and last those ignored.

    Args:
        census: a mask's values, all explained by the readings.
        readings: how the set is read.
        classes: the declared classes.
    """
    counts = [0] * (len(classes.names) + 1)
    for number, color, count in census.entries:
        meaning = _meaning(census.family, readings[census.family], number, color, classes)
        if meaning is not None:
            counts[-1 if meaning == IGNORE else meaning] += count
    return tuple(counts)


def class_ids(path: Path, raw: RawMask, readings: Readings, classes: ClassTable) -> UInt8:
    """The class id of every pixel, 255 where it is to be ignored.

    Args:
        path: the file, for the message.
        raw: the mask as stored.
        readings: how the set is read.
        classes: the declared classes.

    Returns:
        `uint8[H, W]`.

    Raises:
        DataError: a value is not explained; nothing is guessed.
    """
    reading: Reading = readings.get(raw.family, "color" if raw.family == "rgb" else "index")
    ids = _ids_from_rgb(raw.pixels, classes) if raw.family == "rgb" else _ids_from_numbers(raw, reading, classes)
    if (ids < 0).any():
        fault = census_fault(str(path), take_census(raw), {raw.family: reading}, classes)
        raise refuse(path, fault.message if fault else "the mask changed while it was read; try again")
    return ids.astype(np.uint8)


def _ids_from_numbers(raw: RawMask, reading: Reading, classes: ClassTable) -> npt.NDArray[np.int16]:
    table = np.full(256, -1, np.int16)
    for number in range(256):
        meaning = _meaning(raw.family, reading, number, _color(raw.palette[number]), classes)
        table[number] = -1 if meaning is None else meaning
    return table[raw.pixels]


def _ids_from_rgb(rgb: UInt8, classes: ClassTable) -> npt.NDArray[np.int16]:
    known = {color: index for index, color in enumerate(classes.colors)} | dict.fromkeys(classes.ignore, IGNORE)
    if not known:
        return np.full(rgb.shape[:2], -1, np.int16)
    pairs = sorted(((r << 16) | (g << 8) | b, index) for (r, g, b), index in known.items())
    sorted_codes = np.array([code for code, _ in pairs], np.int32)
    meanings = np.array([index for _, index in pairs], np.int16)
    codes = _codes(rgb)
    position = np.minimum(np.searchsorted(sorted_codes, codes), len(pairs) - 1)
    return np.where(sorted_codes[position] == codes, meanings[position], np.int16(-1))
