"""Values per class from two coordinates: a base, and a slope on how frequent a class is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from spaces.derive import Axis, Coordinate, same


@dataclass(frozen=True)
class BaseSlope:
    """A value per class from two coordinates: t_c = sigmoid(logit(base) + slope * z_c).

    z_c is the standardized logarithm of class c's share of the labeled pixels (see `standardized_log`): with a
    positive slope a frequent class gets a higher value than a rare one. `low` and `high` bound the base; a class
    may lie beyond them, always inside (0, 1).

    Attributes:
        knob: the per-class knob, for example `threshold`.
        z: of each class in the search its z_c, by class name.
        low: lowest base, above 0.
        high: highest base, below 1.
        slope_low: lowest slope.
        slope_high: highest slope.

    >>> entry = BaseSlope("threshold", {"road": -1.0, "field": 1.0}, 0.2, 0.99, -1.0, 1.0)
    >>> {c: round(t, 3) for c, t in entry.natural({"threshold.base": 0.9, "threshold.slope": 0.5}).items()}
    {'threshold.road': 0.845, 'threshold.field': 0.937}
    """

    kind: ClassVar[str] = "base_slope"
    knob: str
    z: Mapping[str, float]
    low: float
    high: float
    slope_low: float
    slope_high: float

    @property
    def axes(self) -> tuple[Axis, ...]:
        """See `Entry`."""
        return (
            Axis(f"{self.knob}.base", "float", self.low, self.high),
            Axis(f"{self.knob}.slope", "float", self.slope_low, self.slope_high),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """See `Entry`."""
        return tuple(f"{self.knob}.{c}" for c in self.z)

    def natural(self, coords: Mapping[str, Coordinate]) -> dict[str, Any]:
        """See `Entry`."""
        center = _logit(coords[f"{self.knob}.base"])
        slope = coords[f"{self.knob}.slope"]
        return {f"{self.knob}.{c}": _sigmoid(center + slope * z) for c, z in self.z.items()}

    def coords(self, natural: Mapping[str, Any]) -> dict[str, Coordinate] | None:
        """See `Entry`."""
        values = [float(natural[name]) for name in self.names]
        if not all(0.0 < value < 1.0 for value in values):
            return None
        logits, zs = [_logit(value) for value in values], list(self.z.values())
        mean_z, mean_logit = math.fsum(zs) / len(zs), math.fsum(logits) / len(zs)
        spread = math.fsum((z - mean_z) ** 2 for z in zs)
        product = math.fsum((z - mean_z) * (x - mean_logit) for z, x in zip(zs, logits, strict=True))
        slope = product / spread if spread > 0 else 0.0
        base_axis, slope_axis = self.axes
        try:
            found: dict[str, Coordinate] = {
                base_axis.name: base_axis.snapped(_sigmoid(mean_logit - slope * mean_z)),
                slope_axis.name: slope_axis.snapped(slope),
            }
        except ValueError:
            return None
        again = self.natural(found)
        return found if all(same(again[name], natural[name]) for name in self.names) else None

    def to_json(self) -> dict[str, Any]:
        """See `Entry`."""
        return {"entry": self.kind, **asdict(self), "z": dict(self.z)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> BaseSlope:
        """The inverse of `to_json`."""
        return cls(**{key: value for key, value in found.items() if key != "entry"})


def standardized_log(shares: Mapping[str, float]) -> dict[str, float]:
    """z_c = (log f_c - mean) / standard deviation of the logarithms, over the classes.

    A class without a single pixel counts as half as frequent as the rarest that has some; classes that are all
    equally frequent get 0.

    Args:
        shares: of each class its share of the labeled pixels.

    >>> {c: round(z, 6) for c, z in standardized_log({"road": 0.01, "field": 0.99}).items()}
    {'road': -1.0, 'field': 1.0}
    """
    if not shares:
        return {}
    rarest = min((share for share in shares.values() if share > 0), default=1.0)
    logs = {c: math.log(share if share > 0 else rarest / 2) for c, share in shares.items()}
    mean = math.fsum(logs.values()) / len(logs)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in logs.values()) / len(logs))
    return {c: (x - mean) / deviation if deviation > 1e-12 else 0.0 for c, x in logs.items()}


def _logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
