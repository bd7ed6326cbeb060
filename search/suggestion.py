"""What a trial is to be: drawn by a sampler, or one of the recipe's documented configurations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trainable.config import RecipeConfig, flatten, merge, resolve, unflatten

SAMPLED, DEFAULT, PRESET = "sampled", "default", "preset:"
_YARDSTICKS = ("steps", "eval_every_steps", "exclude_classes", "patience_action")
_YARDSTICK_SECTION = "health."


@dataclass(frozen=True)
class Suggestion:
    """The next trial.

    Attributes:
        number: ours, stable.
        source: `sampled`, `default` or `preset:<name>`.
        params: natural values of what the space sets, by dotted name.
        coords: coordinates in the space; None where it cannot represent the trial, which the sampler is then never
            told of.
        sampler: how it came about: `name`; of a baseline, `also` the others that come to the same; else `seed`, and the
            trials that it was computed from, as ranges of numbers, first and last included: `told` those that had
            ended, `running` those that had not.
        config: the recipe's full configuration, nested, where the trial does not follow from `params`.
        parent: what it goes back to.
    """

    number: int
    source: str
    params: Mapping[str, Any]
    coords: Mapping[str, float] | None
    sampler: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    parent: int | str | None = None

    def payload(self) -> dict[str, Any]:
        """Its part of an `asked` event."""
        return {
            "trial": self.number,
            "source": self.source,
            "parent": self.parent,
            "params": dict(self.params),
            "coords": dict(self.coords or {}),
            "sampler": dict(self.sampler),
        }


@dataclass(frozen=True)
class Baseline:
    """A trial with a configuration of its own.

    Attributes:
        source: `default` or `preset:<name>`.
        config: the recipe's full configuration, nested.
        also: other documented configurations that come to the same here.
    """

    source: str
    config: Mapping[str, Any]
    also: tuple[str, ...] = ()


def is_baseline(source: str) -> bool:
    """Whether a trial is one that the others are measured by: never pruned.

    >>> is_baseline("preset:V3.1"), is_baseline("sampled")
    (True, False)
    """
    return source == DEFAULT or source.startswith(PRESET)


def baselines(
    config: type[RecipeConfig],
    presets: Mapping[str, Mapping[str, Any]],
    *,
    train: Mapping[str, Any],
    base: Mapping[str, Any],
    class_names: Iterable[str],
) -> tuple[Baseline, ...]:
    """The recipe's defaults and documented configurations, in the order in which they run, none of them twice.

    A documented configuration that comes to the same as an earlier one is named by that (`also`) and not trained: under
    common random numbers it would give the same curve. Each is defaults < preset < `train:`. What makes the trials of a
    search comparable (length, evaluation, health rules, excluded classes) is that of the search.

    Args:
        config: the recipe's configuration class.
        presets: values of the documented configurations by name.
        train: what the sweep fixes, nested or flat.
        base: the full configuration that sampled values are put on, nested or flat.
        class_names: the data's classes.

    Raises:
        ConfigError: `train:` does not fit one of them.
    """
    names = tuple(class_names)
    measures = {
        key: value
        for key, value in flatten(base).items()
        if key in _YARDSTICKS or key.startswith(_YARDSTICK_SECTION)
    }
    fixed = merge(unflatten(flatten(train)), unflatten(measures))
    found = [Baseline(DEFAULT, resolve(config, train=fixed, class_names=names).model_dump(mode="json"))]
    for name, values in presets.items():
        made = resolve(config, preset=values, train=fixed, class_names=names, where=f"train (preset {name})")
        plain, source = made.model_dump(mode="json"), f"{PRESET}{name}"
        same = next((place for place, earlier in enumerate(found) if earlier.config == plain), None)
        if same is None:
            found.append(Baseline(source, plain))
        else:
            found[same] = replace(found[same], also=(*found[same].also, source))
    return tuple(found)


def seed_of(*key: object) -> int:
    """A seed below 2^32 that depends on the key alone.

    >>> seed_of(0, 3) == seed_of(0, 3) != seed_of(0, 4)
    True
    """
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big")


def share(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:6], "big") / 2**48


def spans(numbers: Iterable[int]) -> list[list[int]]:
    """Rising numbers as ranges, first and last included: short however long a search runs.

    >>> spans([0, 1, 2, 5, 7, 8])
    [[0, 2], [5, 5], [7, 8]]
    """
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found
