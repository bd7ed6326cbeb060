"""A search space: coordinates that a sampler draws, and the configurations that they stand for."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spaces.derive import Axis, Coordinate, Distribution, distribution, same
from spaces.entries import Entry, Fixed, OrderedPair, Shared, Simplex
from spaces.reading import read
from spaces.setting import Setting, flat_config, per_class_names, setting
from spaces.thresholds import BaseSlope
from trainable.config import RecipeConfig, resolve
from trainable.errors import ConfigError, Fault

FORMAT = 1
_KINDS: dict[str, Any] = {kind.kind: kind for kind in (Shared, Fixed, OrderedPair, Simplex, BaseSlope)}
_PROBES = 16


@dataclass(frozen=True)
class SearchSpace:
    """What may vary, and how.

    Attributes:
        entries: the parts; each maps its coordinates to natural values and back.
        class_names: the data's classes.
        per_class: names of the recipe's knobs that hold a value per class.

    >>> from spaces.entries import Shared
    >>> space = SearchSpace((Shared(("st.weight",), Axis("st.weight", "float", 0.1, 4.0, log=True)),), (), ())
    >>> space.natural({"st.weight": 0.5}), space.coords({"st.weight": 0.5}), space.coords({"st.weight": 9.0})
    ({'st.weight': 0.5}, {'st.weight': 0.5}, None)
    """

    entries: tuple[Entry, ...]
    class_names: tuple[str, ...]
    per_class: tuple[str, ...]

    @classmethod
    def from_spec(
        cls,
        spec: str | Mapping[str, Any],
        config: type[RecipeConfig],
        class_names: Iterable[str],
        class_freq: Iterable[float] | None = None,
        train: Mapping[str, Any] | None = None,
        preset: Mapping[str, Any] | None = None,
        where: str = "space",
    ) -> SearchSpace:
        """Reads a space as a sweep file writes it (see `spaces.reading.read`).

        Args:
            spec: the name of a space, or knobs with what is said of each.
            config: the recipe's configuration class.
            class_names: the data's classes.
            class_freq: share of each class among the labeled pixels; left out: all alike.
            train: the knobs that the run fixes, nested or by dotted name.
            preset: values of the documented configuration that the run starts from.
            where: what faults are said to be in.

        Raises:
            ConfigError: every fault: of the space, and of a `train:` that it cannot be read against.
        """
        names = tuple(class_names)
        freq = tuple(class_freq) if class_freq is not None else (1.0,) * len(names)
        known = setting(config, names, freq, train=train or {}, preset=preset, where=where)
        space = cls(read(spec, known), names, per_class_names(known.knobs.values()))
        if not known.faults and not space.axes:
            known.fault("", "a space must search at least one knob, but got none; name one, or a named space")
        if not known.faults:
            known.faults.extend(space._illegal(known, preset))
        if known.faults:
            raise ConfigError(known.faults)
        return space

    @cached_property
    def axes(self) -> dict[str, Axis]:
        """The coordinates by name, in order."""
        return {axis.name: axis for entry in self.entries for axis in entry.axes}

    @cached_property
    def distributions(self) -> dict[str, Distribution]:
        """What Optuna draws each coordinate from."""
        return {name: distribution(axis) for name, axis in self.axes.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The natural values that the space sets, by dotted name, those that it holds still included."""
        return tuple(name for entry in self.entries for name in entry.names)

    def natural(self, coords: Mapping[str, Coordinate]) -> dict[str, Any]:
        """The natural values at coordinates, by dotted name; they are `sampled` of `trainable.config.resolve`."""
        return {name: value for entry in self.entries for name, value in entry.natural(coords).items()}

    def coords(self, natural: Mapping[str, Any]) -> dict[str, Coordinate] | None:
        """The coordinates of natural values, or None where none gives exactly these.

        Args:
            natural: at least `names`, by dotted name; more is left aside.
        """
        found: dict[str, Coordinate] = {}
        for entry in self.entries:
            if any(natural.get(name) is None and name not in natural for name in entry.names):
                return None
            part = entry.coords(natural)
            if part is None:
                return None
            found |= part
        again = self.natural(found)
        return found if all(same(again[name], natural[name]) for name in self.names) else None

    def flat(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A full configuration by dotted name, per-class knobs written out class by class."""
        return flat_config(config, self.per_class, self.class_names)

    def params(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The natural values of a full configuration for what the space sets."""
        flat = self.flat(config)
        return {name: flat[name] for name in self.names if name in flat}

    def represent(self, config: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Coordinate] | None:
        """The coordinates of a whole configuration, or None.

        Args:
            config: a full configuration of the recipe, nested or flat.
            base: the full configuration that sampled values are put on; what the space does not set must agree
                with it, because the sampler would else credit the coordinates with what other knobs did.
        """
        whole = self.flat(config)
        coords = self.coords(whole)
        if coords is None:
            return None
        rebuilt = self.flat(base) | self.natural(coords)
        agree = rebuilt.keys() == whole.keys() and all(same(rebuilt[key], whole[key]) for key in whole)
        return coords if agree else None

    def at(self, shares: Sequence[float]) -> dict[str, Coordinate]:
        """The coordinates at one share in [0, 1) per axis, in the order of `axes`."""
        return {axis.name: axis.at(share) for axis, share in zip(self.axes.values(), shares, strict=True)}

    def describe(self) -> list[dict[str, Any]]:
        """One row per coordinate, and per value held still, for people."""
        rows: list[dict[str, Any]] = []
        for entry in self.entries:
            knobs = list(entry.names)
            rows += [{"knobs": knobs, "entry": entry.kind, **axis.to_json()} for axis in entry.axes]
            if isinstance(entry, Fixed):
                rows.append({"knobs": knobs, "entry": entry.kind, "value": entry.value})
        return rows

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes an equal space, without the recipe or the data."""
        return {
            "format": FORMAT,
            "entries": [entry.to_json() for entry in self.entries],
            "class_names": list(self.class_names),
            "per_class": list(self.per_class),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> SearchSpace:
        """The inverse of `to_json`.

        Raises:
            ConfigError: it was written by a newer version.
        """
        if found.get("format") != FORMAT:
            raise ConfigError(
                f"space: format must be {FORMAT}, but got format={found.get('format')!r}; use a newer version"
            )
        entries = tuple(_KINDS[entry["entry"]].from_json(entry) for entry in found["entries"])
        return cls(entries, tuple(found["class_names"]), tuple(found["per_class"]))

    @cached_property
    def space_hash(self) -> str:
        """sha256 of the space's JSON: equal spaces, equal hashes."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _illegal(self, known: Setting, preset: Mapping[str, Any] | None) -> list[Fault]:
        """What is wrong at the corners of the space and at points inside: knobs that are legal alone, not together."""
        for shares in _probes(len(self.axes)):
            natural = self.natural(self.at(shares))
            try:
                resolve(
                    known.config,
                    preset=preset,
                    train=known.train,
                    sampled=natural,
                    class_names=self.class_names,
                )
            except ConfigError as error:
                said = "; ".join(fault.message for fault in error.faults)
                return [
                    Fault(
                        known.where,
                        f"every point of a space must be legal, but one gives: {said}; narrow the knobs",
                    )
                ]
        return []


def _probes(dimensions: int) -> Iterator[list[float]]:
    draw = random.Random(0)
    yield [0.0] * dimensions
    yield [1.0] * dimensions
    for _ in range(_PROBES):
        yield [draw.choice((0.0, 1.0, draw.random())) for _ in range(dimensions)]
