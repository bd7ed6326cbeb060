"""Reading a space as a sweep file writes it: its entries, and everything that is wrong at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from spaces.class_values import read_class_values
from spaces.derive import ranged
from spaces.entries import Entry, Fixed, OrderedPair, Simplex
from spaces.named import named
from spaces.ranges import ChoiceList, NumberRange, Said, read_plain
from spaces.setting import Setting
from trainable.config import nearest
from trainable.errors import ConfigError

FROM = "from"
SIMPLEX = "simplex"
_LOW, _HIGH = "_min", "_max"


def read(spec: str | Mapping[str, Any], setting: Setting) -> tuple[Entry, ...]:
    """The entries of a space; what is wrong is added to `setting.faults`.

    Args:
        spec: the name of a space, or knobs with what is said of each: `{low, high, log}`, `[a, b, ...]`, `{}` (the
            knob's own range) or one value. `from: <named space>` starts from another one; there `null` takes a knob
            out. `loss: {simplex: [ce, dice]}` searches weights that sum to 1.
        setting: where the space is used.
    """
    entries: list[Entry] = []
    ranges: dict[str, NumberRange] = {}
    items = _items(spec, setting)
    for said in items.values():
        try:
            _read_one(said, items, setting, entries, ranges)
        except ConfigError as error:
            setting.faults.extend(error.faults)
    entries += _ranged(ranges, entries, setting)
    _check_names(entries, setting)
    return tuple(entries)


def _items(spec: str | Mapping[str, Any], setting: Setting) -> dict[str, Said]:
    own: dict[str, Any] = {} if isinstance(spec, str) else dict(spec)
    start = spec if isinstance(spec, str) else own.pop(FROM, None)
    items: dict[str, Said] = {}
    if start is not None:
        try:
            known = named(str(start), setting.where).spec
            items = {name: Said(name, value, True) for name, value in _leaves(known, setting)}
        except ConfigError as error:
            setting.faults.extend(error.faults)
    for name, value in _leaves(own, setting):
        if name in items and not items[name].reference:
            setting.fault(name, f"a knob must be given once, but {name} stands twice; remove one")
        items[name] = Said(name, value)
    # `knob: null` takes a knob of the space it starts from out again; alone it would say nothing.
    return {name: said for name, said in items.items() if said.value is not None}


def _leaves(given: Mapping[str, Any], setting: Setting, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Knobs and what is said of each; sections may be nested or dotted."""
    for key, value in given.items():
        name = f"{prefix}{key}"
        is_section = name not in setting.knobs and any(
            known.startswith(f"{name}.") for known in setting.knobs
        )
        if is_section and isinstance(value, Mapping):
            yield from _leaves(value, setting, f"{name}.")
        else:
            yield name, value


def _read_one(
    said: Said,
    items: Mapping[str, Said],
    setting: Setting,
    entries: list[Entry],
    ranges: dict[str, NumberRange],
) -> None:
    knob = setting.knob_of(said.name)
    section, _, last = said.name.rpartition(".")
    if knob is None and last == SIMPLEX:
        entries.append(_simplex(said, section, setting))
    elif knob is None:
        raise setting.error(said.name, _unknown(said.name, setting))
    elif not knob.searchable:
        raise setting.error(
            said.name, f"{knob.name} cannot be searched: {knob.why_not}; fix it in train: instead"
        )
    elif knob.kind == "per_class" and said.name == knob.name:
        classes = tuple(c for c in setting.class_names if f"{knob.name}.{c}" not in items)
        entries += read_class_values(said, knob, setting, classes)
    else:
        found = read_plain(said, knob, setting)
        if isinstance(found, NumberRange):
            ranges[said.name] = found
        else:
            entries.append(found.entry(said.name) if isinstance(found, ChoiceList) else found)


def _unknown(name: str, setting: Setting) -> str:
    classes = [
        f"{k.name}.{c}" for k in setting.knobs.values() if k.kind == "per_class" for c in setting.class_names
    ]
    hint = nearest(name, [*setting.knobs, *classes])
    return f"a space must name knobs of the recipe, but got {name!r}{hint}; `thresher knobs` lists them"


def _simplex(said: Said, section: str, setting: Setting) -> Simplex:
    names = [f"{section}.{part}" for part in said.value] if isinstance(said.value, list | tuple) else []
    if len(names) < 2 or len(set(names)) < len(names):
        raise setting.error(
            said.name, f"a simplex must list two or more different weights, but got {said.value!r}"
        )
    for name in names:
        knob = setting.knobs.get(name)
        if knob is None or knob.kind != "float" or not knob.searchable:
            weights = [k.removeprefix(f"{section}.") for k in setting.knobs if k.startswith(f"{section}.")]
            hint = nearest(name.rpartition(".")[2], weights)
            raise setting.error(
                said.name, f"a simplex must list numeric knobs of {section}, but got {name!r}{hint}"
            )
        if knob.search != (0.0, 1.0):
            raise setting.error(
                said.name, f"a simplex must take weights that range from 0 to 1, but got {name}"
            )
    return Simplex(tuple(names))


def _partner(name: str) -> str:
    """The other of an ordered pair, `zoom_min` and `zoom_max`; "" where the name is no such."""
    if name.endswith(_LOW):
        return name.removesuffix(_LOW) + _HIGH
    return name.removesuffix(_HIGH) + _LOW if name.endswith(_HIGH) else ""


def _ranged(ranges: Mapping[str, NumberRange], others: Sequence[Entry], setting: Setting) -> list[Entry]:
    """Entries of the ranges; of two that must stay in order, one entry."""
    entries: list[Entry] = []
    chosen = {name for entry in others for name in entry.names if not isinstance(entry, Fixed)}
    still = {**setting.base, **{e.name: e.value for e in others if isinstance(e, Fixed)}}
    for name, found in ranges.items():
        partner = _partner(name)
        try:
            if partner in chosen:
                raise setting.error(
                    name, f"{name} must be a range or a value like {partner}, so that they stay in order"
                )
            if partner in ranges:
                if name.endswith(_LOW):
                    entries.append(_pair(name, partner, found, ranges[partner], setting))
            elif partner in setting.knobs:
                entries.append(_beside(name, found, partner, still[partner], setting))
            else:
                entries.append(found.entry(name))
        except ConfigError as error:
            setting.faults.extend(error.faults)
    return entries


def _pair(low: str, high: str, below: NumberRange, above: NumberRange, setting: Setting) -> OrderedPair:
    top = min(below.high, above.high)
    if below.low > top:
        raise setting.error(
            low, f"{low} must find room below {high}, but got {below.low:g} and {above.high:g}"
        )
    kind: Literal["int", "float"] = "int" if below.whole else "float"
    axis = ranged(low, kind, below.low, top, below.scale if below.scale == "log" else "linear")
    return OrderedPair(low, high, axis, above.low, above.high)


def _beside(name: str, found: NumberRange, partner: str, value: Any, setting: Setting) -> Entry:
    """A range next to a partner that is held still: cut so that the two stay in order."""
    if name.endswith(_LOW):
        low, high = found.low, min(found.high, value)
    else:
        low, high = max(found.low, value), found.high
    if low > high:
        raise setting.error(
            name,
            f"{name} must find room beside {partner}={value!r}, but got [{found.low:g}, {found.high:g}]; "
            f"search both, or change {partner}",
        )
    return NumberRange(low, high, found.scale, found.whole).entry(name)


def _check_names(entries: Sequence[Entry], setting: Setting) -> None:
    """No knob twice, no coordinate twice, and nothing that `train:` fixes."""
    names = [name for entry in entries for name in entry.names]
    for name in sorted({name for name in names if names.count(name) > 1}):
        setting.fault(name, f"a knob must be searched in one way, but {name} is searched in two; remove one")
    axes = [axis.name for entry in entries for axis in entry.axes]
    for name in sorted({name for name in axes if axes.count(name) > 1}):
        setting.fault(
            name, f"coordinates must have different names, but got {name} twice; rename the group or class"
        )
    for name in setting.fixed_by_train(names):
        setting.fault(
            name,
            f"a knob must be either fixed or searched, but {name} is searched and train: says {setting.train[name]!r}; "
            "take it out of train:, or out of the space (`from: <named space>` and `<knob>: null`)",
        )
