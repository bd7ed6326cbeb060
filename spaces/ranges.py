"""What a space says of one number or one choice: a range inside the range worth trying, a list, or one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spaces.derive import Axis, ranged
from spaces.entries import Fixed, Shared
from spaces.setting import Setting
from trainable.config import nearest
from trainable.knob import Knob, Scale

RANGE_KEYS = ("low", "high", "log", "scale", "choices")
_CHOSEN = ("choice", "bool", "text")


@dataclass(frozen=True)
class Said:
    """What is said of a name.

    Attributes:
        name: a knob, or one class or group of a per-class knob.
        value: as written.
        reference: whether its numbers are meant for the recipe's default length and crop.
    """

    name: str
    value: Any
    reference: bool = False


@dataclass(frozen=True)
class NumberRange:
    """A range of natural values, both ends included."""

    low: float
    high: float
    scale: Scale
    whole: bool

    def entry(self, name: str, names: tuple[str, ...] = ()) -> Shared:
        """The entry that searches it, for one knob or for several names that share the value."""
        axis = ranged(name, "int" if self.whole else "float", self.low, self.high, self.scale)
        return Shared(names or (name,), axis, self.scale)


@dataclass(frozen=True)
class ChoiceList:
    """Values to choose from."""

    values: tuple[Any, ...]

    def entry(self, name: str, names: tuple[str, ...] = ()) -> Shared:
        """The entry that searches it, for one knob or for several names that share the value."""
        return Shared(names or (name,), Axis(name, "choice", choices=self.values))


def read_plain(said: Said, knob: Knob, setting: Setting) -> NumberRange | ChoiceList | Fixed:
    """Reads `{low, high, log}`, `[a, b, ...]`, `{}` (the knob's own range or choices) or one value.

    Raises:
        ConfigError: it cannot be read, or it widens the range worth trying.
    """
    value = said.value
    if isinstance(value, list | tuple):
        return _choices(said.name, value, knob, setting)
    if not isinstance(value, Mapping):
        return Fixed(said.name, value)
    check_keys(said.name, value, RANGE_KEYS, setting)
    if knob.kind not in _CHOSEN and "choices" not in value:
        return _range(said, knob, setting)
    if extra := [key for key in value if key != "choices"]:
        raise setting.error(
            said.name, f"choices must stand alone, but got {', '.join(extra)} as well; remove one"
        )
    if "choices" not in value and not knob.choices:
        raise setting.error(
            said.name, f"{said.name} must be given a list to choose from, but got {dict(value)!r}"
        )
    return _choices(said.name, value.get("choices", knob.choices), knob, setting)


def check_keys(name: str, value: Mapping[str, Any], known: tuple[str, ...], setting: Setting) -> None:
    """Checks the keys of what is said of a name.

    Raises:
        ConfigError: one is not known.
    """
    for key in value:
        if key not in known:
            hint = nearest(str(key), known)
            raise setting.error(
                f"{name}.{key}", f"keys must be among {', '.join(known)}, but got {key!r}{hint}"
            )


def _range(said: Said, knob: Knob, setting: Setting) -> NumberRange:
    bounds = setting.search_range(knob)
    if bounds is None:
        raise setting.error(
            said.name, f"{knob.name} has no range worth trying; give a list, or fix it in train:"
        )
    ends = []
    for key, own in zip(("low", "high"), bounds, strict=True):
        number = said.value.get(key, own)
        if not is_number(number, knob):
            kind = "a whole number" if knob.kind == "int" else "a number"
            raise setting.error(said.name, f"{key} must be {kind}, but got {key}={number!r}")
        if said.reference and key in said.value:
            number = setting.scaled(knob, number)
        check_narrow(said.name, number, knob, bounds, setting, f"{key}=")
        ends.append(int(number) if knob.kind == "int" else float(number))
    low, high = ends
    if low > high or (low == high and {"low", "high"} <= said.value.keys()):
        raise setting.error(
            said.name,
            f"low must be below high, but got {low=}, {high=}; give one value to hold {said.name} still",
        )
    scale = _scale(said, knob, setting)
    found = NumberRange(low, high, scale, knob.kind == "int")
    try:
        found.entry(said.name)
    except ValueError as error:
        raise setting.error(said.name, str(error)) from error
    return found


def check_narrow(
    name: str, value: Any, knob: Knob, bounds: tuple[float, float], setting: Setting, key: str = ""
) -> None:
    """Checks that a number lies in the range worth trying.

    Raises:
        ConfigError: it does not; a space narrows a range and never widens it.
    """
    if bounds[0] <= value <= bounds[1]:
        return
    at = f" at steps={setting.base['steps']}" if knob.in_steps or knob.name == "patience" else ""
    at = f" at crop_size={setting.base['crop_size']}" if knob.in_pixels else at
    raise setting.error(
        name,
        f"{name} must lie in [{bounds[0]:g}, {bounds[1]:g}], its range worth trying{at}, but got {key}{value!r}; "
        "a space may narrow a range, not widen it",
    )


def _scale(said: Said, knob: Knob, setting: Setting) -> Scale:
    log, scale = said.value.get("log"), said.value.get("scale")
    if log is not None and not isinstance(log, bool):
        raise setting.error(said.name, f"log must be true or false, but got log={log!r}")
    if scale is None:
        return knob.scale if log is None else "log" if log else "linear"
    if log is not None or scale not in ("linear", "log", "log1m"):
        raise setting.error(
            said.name,
            f"scale must be linear, log or log1m, and stand without log, but got scale={scale!r}, {log=}",
        )
    found: Scale = scale
    return found


def is_number(value: Any, knob: Knob) -> bool:
    """Whether a value is a number of the knob's type."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return False
    return knob.kind != "int" or float(value).is_integer()


def _choices(name: str, given: Any, knob: Knob, setting: Setting) -> ChoiceList:
    values = tuple(given) if isinstance(given, list | tuple) else ()
    if len(values) < 2 or any(values.count(v) > 1 for v in values):
        raise setting.error(
            name, f"choices must be a list of two or more different values, but got {given!r}"
        )
    bounds = None if knob.kind in _CHOSEN else setting.search_range(knob)
    for value in values:
        if knob.kind in _CHOSEN:
            _check_choice(name, value, knob, setting)
        elif bounds is None or not is_number(value, knob):
            raise setting.error(name, f"choices must be numbers in the knob's range, but got {value!r}")
        else:
            check_narrow(name, value, knob, bounds, setting)
    return ChoiceList(tuple(map(float, values)) if knob.kind in ("float", "per_class") else values)


def _check_choice(name: str, value: Any, knob: Knob, setting: Setting) -> None:
    if knob.choices and not any(type(c) is type(value) and c == value for c in knob.choices):
        raise setting.error(
            name, f"choices must be among {', '.join(map(repr, knob.choices))}, but got {value!r}"
        )
    if not knob.choices and not (value is None or isinstance(value, str)):
        raise setting.error(name, f"choices must be text or null, but got {value!r}")
