"""What a space says of a knob with a value per class: free, by a base and a slope, by groups, or one for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spaces.entries import Entry, Fixed
from spaces.ranges import RANGE_KEYS, Said, check_keys, read_plain
from spaces.setting import Setting
from spaces.thresholds import BaseSlope, standardized_log
from trainable.config import nearest
from trainable.knob import Knob

MODES = ("free", "base_slope", "groups", "shared")
SLOPE = (-1.0, 1.0)
"""Slopes that are tried unless a space says otherwise; at 1, one deviation in frequency is one unit of logit."""
SLOPE_LEGAL = (-2.0, 2.0)
_KEYS = ("mode", *RANGE_KEYS, "groups", "slope")


def read_class_values(said: Said, knob: Knob, setting: Setting, classes: tuple[str, ...]) -> list[Entry]:
    """Reads `{mode, low, high, groups, slope}`, a list (free), or one value (for all classes).

    Args:
        said: what is said of the knob.
        knob: the per-class knob.
        setting: where the space is used.
        classes: the classes that are not spoken of on their own.

    Raises:
        ConfigError: it cannot be read.
    """
    value = said.value
    if isinstance(value, list | tuple):
        value = {"choices": value}
    if not isinstance(value, Mapping):
        return [Fixed(f"{knob.name}.{c}", value) for c in classes]
    check_keys(said.name, value, _KEYS, setting)
    mode = value.get("mode", "groups" if "groups" in value else "free")
    if mode not in MODES:
        hint = nearest(str(mode), MODES)
        raise setting.error(said.name, f"mode must be one of {', '.join(MODES)}, but got mode={mode!r}{hint}")
    for key, owner in (("groups", "groups"), ("slope", "base_slope")):
        if key in value and mode != owner:
            raise setting.error(
                said.name, f"{key} goes with mode: {owner}, but got mode={mode!r}; remove one"
            )
    if not classes:
        raise setting.error(
            said.name, f"{knob.name} must have a class left to search; each stands on its own already"
        )
    if mode == "base_slope":
        return [_base_slope(said, knob, setting, classes)]
    if mode == "groups":
        groups = _groups(said, setting, classes)
    else:
        groups = {c: (c,) for c in classes} if mode == "free" else {"all": classes}
    inner = {key: value[key] for key in RANGE_KEYS if key in value}
    entries: list[Entry] = []
    for name, members in groups.items():
        found = read_plain(Said(f"{knob.name}.{name}", inner, said.reference), knob, setting)
        if isinstance(found, Fixed):
            raise setting.error(said.name, f"a range or a list must be given, but got {inner!r}")
        entries.append(found.entry(f"{knob.name}.{name}", tuple(f"{knob.name}.{c}" for c in members)))
    return entries


def _groups(said: Said, setting: Setting, classes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    given = said.value.get("groups")
    if not isinstance(given, Mapping) or not given:
        raise setting.error(said.name, f"groups must be {{name: [classes]}}, but got groups={given!r}")
    seen: list[str] = []
    for name, members in given.items():
        if not isinstance(name, str) or not name or "." in name or "=" in name:
            raise setting.error(
                said.name, f"a group's name must be text without '.' or '=', but got {name!r}"
            )
        if not isinstance(members, list | tuple) or not members:
            raise setting.error(said.name, f"group {name} must list classes, but got {members!r}")
        for c in members:
            if c not in classes:
                raise setting.error(
                    said.name,
                    f"group {name} must list classes of the data, but got {c!r}{nearest(str(c), classes)}",
                )
            if c in seen:
                raise setting.error(
                    said.name, f"a class must stand in one group, but {c} stands in two or twice"
                )
            seen.append(c)
    if missing := [c for c in classes if c not in seen]:
        hint = f"add a group, or give {said.name}.{missing[0]} a value of its own"
        raise setting.error(
            said.name, f"every class must stand in a group, but got none for {', '.join(missing)}; {hint}"
        )
    return {name: tuple(members) for name, members in given.items()}


def _base_slope(said: Said, knob: Knob, setting: Setting, classes: tuple[str, ...]) -> BaseSlope:
    value = said.value
    if extra := [key for key in ("log", "scale", "choices") if key in value]:
        raise setting.error(
            said.name, f"mode: base_slope takes low, high and slope, but got {', '.join(extra)}"
        )
    inner = {key: value[key] for key in ("low", "high") if key in value}
    base = read_plain(Said(said.name, {**inner, "log": False}, said.reference), knob, setting)
    low, high = getattr(base, "low", 0.0), getattr(base, "high", 1.0)
    if not 0 < low < high < 1:
        raise setting.error(
            said.name, f"a base must lie inside (0, 1), but got {low=}, {high=}; narrow low and high"
        )
    slope = value.get("slope", SLOPE)
    sound = isinstance(slope, list | tuple) and len(slope) == 2 and all(_is_float(s) for s in slope)
    if not sound or not SLOPE_LEGAL[0] <= slope[0] < slope[1] <= SLOPE_LEGAL[1]:
        raise setting.error(
            said.name, f"slope must be [low, high] inside {list(SLOPE_LEGAL)}, but got slope={slope!r}"
        )
    z = standardized_log(dict(zip(setting.class_names, setting.class_freq, strict=True)))
    return BaseSlope(knob.name, {c: z[c] for c in classes}, low, high, float(slope[0]), float(slope[1]))


def _is_float(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
