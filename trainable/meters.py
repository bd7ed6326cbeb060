"""Sums of a run's signals on the device, read once per evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainable.collective import largest, total
from trainable.recipes.interface import StepOut

Key = tuple[tuple[str, int], ...]
Sums = dict[str, tuple[list[float], float]]


@dataclass(frozen=True)
class BadLoss:
    """The first step of a run of non-finite losses.

    Attributes:
        streak: how many steps in a row so far. values: every signal of the first of them.
    """

    streak: int
    values: dict[str, float]


class Meters:
    """Adds up losses, counts and thresholds without waiting for the device.

    Signals of one step go into one float64 vector, so that counting costs a concatenation and an addition; a step
    with other signals (before and after self-training starts) has a vector of its own. What several workers saw is
    summed when it is read, so that all of them judge the same numbers.

    Args:
        device: where the signals are. world_size: number of workers.
    """

    def __init__(self, device: torch.device, world_size: int = 1) -> None:
        self._device, self._world_size = device, world_size
        self._restored: Sums = {}
        self._sums: dict[Key, Tensor] = {}
        self._bad: dict[Key, Tensor] = {}
        self._streak = torch.zeros((), dtype=torch.float64, device=device)

    def clear(self) -> None:
        """Forget the sums; a run of non-finite losses goes on."""
        self._restored = {}
        self._sums = {}

    def add(self, out: StepOut, extra: Mapping[str, Tensor]) -> None:
        """Count one step.

        Args:
            out: what the step returned. extra: further numbers to be averaged, such as the learning rate.
        """
        signals = {f"mean:{name}": value for name, value in {**out.losses, **extra}.items()}
        if out.target is not None:
            for name, value in out.target.stats.items():
                signals[f"{'mean' if name in _MEANS else 'sum'}:{name}"] = value
        key = tuple((name, value.numel()) for name, value in signals.items())
        parts = [value.detach().reshape(-1).to(torch.float64) for value in signals.values()]
        current = torch.cat([*parts, torch.ones(1, dtype=torch.float64, device=self._device)])
        if key not in self._sums:
            self._sums[key] = torch.zeros_like(current)
            self._bad.setdefault(key, torch.zeros_like(current))
        self._sums[key] += current
        finite = torch.isfinite(out.losses["loss/total"].detach()).to(torch.float64)
        self._streak = (self._streak + 1) * (1 - finite)
        self._bad[key] = torch.where(self._streak == 1, current, self._bad[key])

    def sums(self) -> Sums:
        """By signal: the sums of its parts, and over how many steps of a worker. Waits for the device.

        Every worker must call it at the same step.
        """
        found = dict(self._restored)
        for key, vector in self._sums.items():
            for name, values, steps in _split(key, total(vector, self._world_size)):
                before, count = found.get(name, ([0.0] * len(values), 0.0))
                found[name] = ([a + b for a, b in zip(before, values, strict=True)], count + steps)
        return found

    def restore(self, sums: Sums) -> None:
        """Go on from the sums of a checkpoint."""
        self._restored = {name: (list(values), steps) for name, (values, steps) in sums.items()}

    def bad_loss(self) -> BadLoss | None:
        """The longest present run of non-finite losses of any worker, or None. Waits for the device and for all."""
        streak = int(largest(self._streak, self._world_size).item())
        if streak == 0:
            return None
        first: dict[str, float] = {}
        for key, vector in self._bad.items():
            for name, values, steps in _split(key, vector):
                if steps and len(values) == 1:
                    first[name.partition(":")[2]] = values[0]
        return BadLoss(streak, first)


def _split(key: Key, vector: Tensor) -> list[tuple[str, list[float], float]]:
    values = vector.tolist()
    found, offset = [], 0
    for name, width in key:
        found.append((name, values[offset : offset + width], values[-1]))
        offset += width
    return found


def read(sums: Sums, class_names: tuple[str, ...]) -> dict[str, float | None]:
    """Metrics from sums: means of losses, rates and thresholds, sums of counts, and their ratios.

    Args:
        sums: of `Meters.sums`. class_names: of the task.

    Returns:
        Metrics by the names of the contract; None where the value is not finite or has no denominator.

    >>> read({"mean:loss/sup": ([4.0], 2.0), "sum:st/pixels_selected": ([3.0], 2.0),
    ...       "sum:st/pixels_seen": ([4.0], 2.0)}, ("a",))
    {'loss/sup': 2.0, 'st/pixels_selected': 3.0, 'st/pixels_seen': 4.0, 'st/ratio': 0.75}
    """
    record: dict[str, float | None] = {}
    for signal, (values, steps) in sums.items():
        how, _, name = signal.partition(":")
        shown = [v / steps for v in values] if how == "mean" else values
        if name in _PER_CLASS:
            for class_name, value in zip(class_names, shown, strict=True):
                record[f"{name}/{class_name}"] = _finite(value)
        elif name in _PARTS:
            continue
        else:
            record[name] = _finite(shown[0])
    plain = {signal.partition(":")[2]: values for signal, (values, _) in sums.items()}
    for name, (part, whole) in _RATIOS.items():
        if part in plain and whole in plain:
            shares = [_share(a, b) for a, b in zip(plain[part], plain[whole], strict=True)]
            if not name.endswith("<class>"):
                record[name] = shares[0]
            else:
                record |= {name.replace("<class>", c): share for c, share in zip(class_names, shares, strict=True)}
    return record


_PER_CLASS = {"threshold"}
_MEANS = _PER_CLASS | {"st/entropy_limit"}
_PARTS = {"st/selected", "st/predicted"}
_RATIOS = {
    "st/ratio": ("st/pixels_selected", "st/pixels_seen"),
    "st/ratio/<class>": ("st/selected", "st/predicted"),
}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
