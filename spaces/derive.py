"""From a knob's range to a search coordinate and back; the only place in `spaces` that names Optuna.

A *natural* value is what the configuration holds, a *coordinate* is what the sampler draws. A knob on the `log1m`
scale is drawn as its distance to one, on a log scale: an EMA decay of 0.999 has the coordinate 0.001. A choice is
drawn as its place in the list. So every coordinate is a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from trainable.knob import Scale

Coordinate: TypeAlias = "float | int"
Distribution: TypeAlias = BaseDistribution
TOLERANCE = 1e-9
"""Two natural values that are relatively this close count as one: above rounding, far below any search step."""


@dataclass(frozen=True)
class Axis:
    """One coordinate of a search.

    Attributes:
        name: unique in its space.
        kind: `float`, `int` or `choice`.
        low: lowest coordinate, inclusive.
        high: highest coordinate, inclusive.
        log: whether the range is walked by ratios.
        choices: the natural values of a choice, whose coordinate is the place in this list.
    """

    name: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def at(self, share: float) -> Coordinate:
        """The coordinate below which a `share` in [0, 1) of the axis lies.

        >>> round(Axis("lr", "float", 1e-4, 1e-2, log=True).at(0.5), 9)
        0.001
        >>> [Axis("k", "int", 1, 3).at(u) for u in (0.0, 0.34, 0.99)]
        [1, 2, 3]
        >>> Axis("flip", "choice", choices=(False, True)).at(0.7)
        1
        """
        if self.kind == "choice":
            return min(int(share * len(self.choices)), len(self.choices) - 1)
        low, high = (self.low - 0.5, self.high + 0.5) if self.kind == "int" else (self.low, self.high)
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        if self.kind == "int":
            return int(min(max(math.floor(value + 0.5), self.low), self.high))
        return min(max(value, self.low), self.high)

    def snapped(self, value: Any) -> Coordinate:
        """`value` as a coordinate of this axis; a rounding error past a bound becomes the bound.

        Raises:
            ValueError: `value` does not lie on the axis.

        >>> Axis("a", "float", 0.1, 0.3).snapped(0.1 + 0.2)
        0.3
        """
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{self.name} must be a number, but got {value!r}")
        if self.kind != "float":
            low, high = (0, len(self.choices) - 1) if self.kind == "choice" else (self.low, self.high)
            if value != int(value) or not low <= value <= high:
                raise ValueError(f"{self.name} must be whole and in [{low}, {high}], but got {value!r}")
            return int(value)
        slack = TOLERANCE * max(abs(self.low), abs(self.high))
        slack = min(slack, TOLERANCE * self.low) if self.log else slack
        if not self.low - slack <= value <= self.high + slack:
            raise ValueError(f"{self.name} must lie in [{self.low}, {self.high}], but got {value!r}")
        return float(min(max(value, self.low), self.high))

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes an equal axis."""
        if self.kind == "choice":
            return {"name": self.name, "kind": self.kind, "choices": list(self.choices)}
        return {"name": self.name, "kind": self.kind, "low": self.low, "high": self.high, "log": self.log}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Axis:
        """The inverse of `to_json`.

        >>> axis = Axis("lr", "float", 1e-4, 1e-2, log=True)
        >>> Axis.from_json(axis.to_json()) == axis
        True
        """
        return cls(**{**found, "choices": tuple(found.get("choices", ()))})


def distribution(axis: Axis) -> BaseDistribution:
    """The Optuna distribution of an axis.

    >>> distribution(Axis("k", "int", 1, 8, log=True))
    IntDistribution(high=8, log=True, low=1, step=1)
    """
    if axis.kind == "choice":
        return CategoricalDistribution(range(len(axis.choices)))
    if axis.kind == "int":
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def ranged(name: str, kind: Literal["float", "int"], low: float, high: float, scale: Scale) -> Axis:
    """The axis of a knob that takes natural values from `low` to `high`, both included.

    Args:
        name: the knob; on the `log1m` scale the coordinate is named after the distance to one.
        kind: type of the natural value.
        low: lowest natural value.
        high: highest natural value.
        scale: how the range is walked.

    Raises:
        ValueError: the scale does not fit the range.

    >>> ranged("ema_decay", "float", 0.9, 0.9999, "log1m").name
    '1-ema_decay'
    """
    if scale == "log" and low <= 0:
        raise ValueError(f"a log scale needs low above 0, but got low={low}; raise low or set log: false")
    if scale != "log1m":
        return Axis(name, kind, low, high, log=scale == "log")
    if kind == "int" or high >= 1:
        raise ValueError(f"a log1m scale needs numbers below 1, but got high={high}; lower high")
    return Axis(f"1-{name}", "float", 1.0 - high, 1.0 - low, log=True)


def to_natural(axis: Axis, scale: Scale, coordinate: Coordinate) -> Any:
    """The natural value at a coordinate of a knob's axis.

    >>> to_natural(ranged("ema_decay", "float", 0.5, 0.99, "log1m"), "log1m", 0.25)
    0.75
    """
    if axis.kind == "choice":
        return axis.choices[int(coordinate)]
    return 1.0 - coordinate if scale == "log1m" else coordinate


def to_coordinate(axis: Axis, scale: Scale, natural: Any) -> Coordinate:
    """The coordinate of a natural value; the inverse of `to_natural`.

    Raises:
        ValueError: the value does not lie on the axis.

    >>> to_coordinate(Axis("flip", "choice", choices=(False, True)), "linear", True)
    1
    """
    if axis.kind == "choice":
        found = [i for i, choice in enumerate(axis.choices) if same(choice, natural)]
        if not found:
            raise ValueError(f"{axis.name} must be one of {axis.choices}, but got {natural!r}")
        return found[0]
    if isinstance(natural, bool) or not isinstance(natural, int | float):
        raise ValueError(f"{axis.name} must be a number, but got {natural!r}")
    return axis.snapped(1.0 - natural if scale == "log1m" else natural)


def same(first: Any, second: Any) -> bool:
    """Whether two natural values are one, up to rounding.

    >>> same(0.3, 0.1 + 0.2), same(1, True), same((1, 2), [1, 2])
    (True, False, True)
    """
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, int | float) and isinstance(second, int | float):
        return math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=1e-12)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
