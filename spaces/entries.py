"""What a space is made of: each entry maps a few coordinates to natural knob values, and back exactly.

An entry is built so that every coordinate gives legal values: there is nothing to reject. Going back, an entry
answers None where no coordinate gives the values that it was shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from spaces.derive import Axis, Coordinate, same, to_coordinate, to_natural
from trainable.knob import Scale


class Entry(Protocol):
    """One part of a search space."""

    kind: ClassVar[str]

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The coordinates that the entry reads."""

    @property
    def names(self) -> tuple[str, ...]:
        """The natural values that it writes, by dotted name; a class's own value ends in `.<class>`."""

    def natural(self, coords: Mapping[str, Coordinate]) -> dict[str, Any]:
        """The natural values at coordinates."""

    def coords(self, natural: Mapping[str, Any]) -> dict[str, Coordinate] | None:
        """The coordinates of natural values, or None where there are none."""

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `entry_from_json` makes an equal entry."""


@dataclass(frozen=True)
class Shared:
    """One coordinate for one knob, or for several classes that share a value.

    >>> entry = Shared(("threshold.road", "threshold.roof"), Axis("threshold.built", "float", 0.2, 0.99))
    >>> entry.natural({"threshold.built": 0.5})
    {'threshold.road': 0.5, 'threshold.roof': 0.5}
    >>> entry.coords({"threshold.road": 0.5, "threshold.roof": 0.6}) is None
    True
    """

    kind: ClassVar[str] = "shared"
    names: tuple[str, ...]
    axis: Axis
    scale: Scale = "linear"

    @property
    def axes(self) -> tuple[Axis, ...]:
        """See `Entry`."""
        return (self.axis,)

    def natural(self, coords: Mapping[str, Coordinate]) -> dict[str, Any]:
        """See `Entry`."""
        return dict.fromkeys(self.names, to_natural(self.axis, self.scale, coords[self.axis.name]))

    def coords(self, natural: Mapping[str, Any]) -> dict[str, Coordinate] | None:
        """See `Entry`."""
        first, *others = (natural[name] for name in self.names)
        if not all(same(first, other) for other in others):
            return None
        try:
            return {self.axis.name: to_coordinate(self.axis, self.scale, first)}
        except ValueError:
            return None

    def to_json(self) -> dict[str, Any]:
        """See `Entry`."""
        return {
            "entry": self.kind,
            "names": list(self.names),
            "axis": self.axis.to_json(),
            "scale": self.scale,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Shared:
        """The inverse of `to_json`."""
        return cls(tuple(found["names"]), Axis.from_json(found["axis"]), found["scale"])


@dataclass(frozen=True)
class Fixed:
    """A value that the space holds still.

    >>> Fixed("batch_size", 8).natural({})
    {'batch_size': 8}
    """

    kind: ClassVar[str] = "fixed"
    name: str
    value: Any

    @property
    def axes(self) -> tuple[Axis, ...]:
        """See `Entry`."""
        return ()

    @property
    def names(self) -> tuple[str, ...]:
        """See `Entry`."""
        return (self.name,)

    def natural(self, coords: Mapping[str, Coordinate]) -> dict[str, Any]:
        """See `Entry`."""
        return {self.name: self.value}

    def coords(self, natural: Mapping[str, Any]) -> dict[str, Coordinate] | None:
        """See `Entry`."""
        return {} if same(self.value, natural[self.name]) else None

    def to_json(self) -> dict[str, Any]:
        """See `Entry`."""
        return {"entry": self.kind, "name": self.name, "value": self.value}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Fixed:
        """The inverse of `to_json`."""
        return cls(found["name"], found["value"])


@dataclass(frozen=True)
class OrderedPair:
    """Two knobs low <= high: the first as itself, the second as a share of the room above the first.

    high = floor + gap * (top - floor), with floor = max(low, bottom); whole numbers are rounded.

    Attributes:
        low: name of the smaller knob; `axis` is its coordinate.
        high: name of the larger knob, from `bottom` to `top`; its coordinate is `<high>.gap` in [0, 1].

    >>> pair = OrderedPair("zoom_min", "zoom_max", Axis("zoom_min", "float", 0.5, 2.0), 1.0, 2.0)
    >>> pair.natural({"zoom_min": 1.5, "zoom_max.gap": 0.5})
    {'zoom_min': 1.5, 'zoom_max': 1.75}
    """

    kind: ClassVar[str] = "ordered_pair"
    low: str
    high: str
    axis: Axis
    bottom: float
    top: float

    @property
    def axes(self) -> tuple[Axis, ...]:
        """See `Entry`."""
        return (self.axis, Axis(f"{self.high}.gap", "float", 0.0, 1.0))

    @property
    def names(self) -> tuple[str, ...]:
        """See `Entry`."""
        return (self.low, self.high)

    def natural(self, coords: Mapping[str, Coordinate]) -> dict[str, Any]:
        """See `Entry`."""
        low, gap = coords[self.axis.name], coords[f"{self.high}.gap"]
        floor = max(low, self.bottom)
        high = floor + gap * (self.top - floor)
        if self.axis.kind == "int":
            return {self.low: int(low), self.high: int(min(math.floor(high + 0.5), self.top))}
        return {self.low: low, self.high: min(max(high, floor), self.top)}

    def coords(self, natural: Mapping[str, Any]) -> dict[str, Coordinate] | None:
        """See `Entry`."""
        try:
            low = self.axis.snapped(natural[self.low])
            floor = max(low, self.bottom)
            high = Axis(self.high, self.axis.kind, floor, self.top).snapped(natural[self.high])
        except ValueError:
            return None
        room = self.top - floor
        return {self.axis.name: low, f"{self.high}.gap": (high - floor) / room if room > 0 else 0.0}

    def to_json(self) -> dict[str, Any]:
        """See `Entry`."""
        return {
            "entry": self.kind,
            "low": self.low,
            "high": self.high,
            "axis": self.axis.to_json(),
            "bottom": self.bottom,
            "top": self.top,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> OrderedPair:
        """The inverse of `to_json`."""
        axis = Axis.from_json(found["axis"])
        return cls(found["low"], found["high"], axis, found["bottom"], found["top"])


@dataclass(frozen=True)
class Simplex:
    """Weights that are at least 0 and sum to 1, by breaking a stick; uniform coordinates give uniform weights.

    Of the K weights, number i (from 0) takes the share 1 - (1 - u_i)^(1 / (K - 1 - i)) of what the ones before it
    left; the last takes the rest. The coordinates are u_0 ... u_{K-2} in [0, 1], named `<weight>.share`.

    >>> thirds = Simplex(("loss.ce", "loss.dice", "loss.focal"))
    >>> thirds.natural({"loss.ce.share": 0.75, "loss.dice.share": 0.5})
    {'loss.ce': 0.5, 'loss.dice': 0.25, 'loss.focal': 0.25}

    Source: the Beta(1, k) construction of the uniform Dirichlet distribution (Sethuraman 1994, finite case), by
        inverting each Beta's distribution function.
    """

    kind: ClassVar[str] = "simplex"
    names: tuple[str, ...]

    @property
    def axes(self) -> tuple[Axis, ...]:
        """See `Entry`."""
        return tuple(Axis(f"{name}.share", "float", 0.0, 1.0) for name in self.names[:-1])

    def natural(self, coords: Mapping[str, Coordinate]) -> dict[str, Any]:
        """See `Entry`."""
        rest, weights = 1.0, {}
        for index, name in enumerate(self.names[:-1]):
            left = (1.0 - coords[f"{name}.share"]) ** (1.0 / (len(self.names) - 1 - index))
            weights[name] = rest * (1.0 - left)
            rest *= left
        return weights | {self.names[-1]: rest}

    def coords(self, natural: Mapping[str, Any]) -> dict[str, Coordinate] | None:
        """See `Entry`."""
        weights = [float(natural[name]) for name in self.names]
        if min(weights) < 0 or not same(math.fsum(weights), 1.0):
            return None
        found: dict[str, Coordinate] = {}
        for index, name in enumerate(self.names[:-1]):
            # What is left is summed from the end: subtracting from 1 would lose a small last weight.
            rest, after = math.fsum(weights[index:]), math.fsum(weights[index + 1 :])
            left = after / rest if rest > 0 else 1.0
            found[f"{name}.share"] = 1.0 - left ** (len(self.names) - 1 - index)
        return found

    def to_json(self) -> dict[str, Any]:
        """See `Entry`."""
        return {"entry": self.kind, "names": list(self.names)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Simplex:
        """The inverse of `to_json`."""
        return cls(tuple(found["names"]))
