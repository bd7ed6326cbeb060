"""Where a space is used: the recipe's knobs, the data's classes, what the run fixes, and the ranges that follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainable.config import RecipeConfig, flatten, resolve, scaled
from trainable.errors import ConfigError, Fault
from trainable.knob import DEFAULT_CLASS, Knob, knobs_of


@dataclass(frozen=True)
class Setting:
    """What the entries of a space are read against.

    Attributes:
        config: the recipe's configuration class.
        knobs: its knobs by dotted name.
        class_names: the data's classes.
        class_freq: share of each class among the labeled pixels, in class order.
        train: what the run fixes, flat.
        base: every knob's value before sampling, flat; per-class knobs have one value per class.
        where: what faults are said to be in.
        faults: what was found wrong so far.
    """

    config: type[RecipeConfig]
    knobs: Mapping[str, Knob]
    class_names: tuple[str, ...]
    class_freq: tuple[float, ...]
    train: Mapping[str, Any]
    base: Mapping[str, Any]
    where: str = "space"
    faults: list[Fault] = field(default_factory=list)

    def fault(self, name: str, message: str) -> None:
        """Notes what is wrong with one name."""
        self.faults.append(Fault(f"{self.where}.{name}" if name else self.where, message))

    def error(self, name: str, message: str) -> ConfigError:
        """What is wrong with one name, to be raised."""
        return ConfigError([Fault(f"{self.where}.{name}", message)])

    def knob_of(self, name: str) -> Knob | None:
        """The knob of that name; also for one class of a per-class knob, `threshold.road`."""
        found = self.knobs.get(name)
        if found is not None:
            return found
        knob = next(
            (k for k in self.knobs.values() if k.kind == "per_class" and name.startswith(f"{k.name}.")), None
        )
        return knob if knob is not None and name[len(knob.name) + 1 :] in self.class_names else None

    def own(self) -> dict[str, Any]:
        """The length and crop that the knobs' declared ranges are meant for."""
        return {key: self.knobs[key].default for key in ("steps", "crop_size", "eval_every_steps")}

    def scaled(self, knob: Knob, value: float) -> Any:
        """A number declared for the recipe's default length and crop, at this run's."""
        fixed = {key: self.base[key] for key in ("steps", "crop_size", "eval_every_steps")}
        return scaled({knob.name: value}, self.knobs, own=self.own(), fixed=fixed)[knob.name]

    def search_range(self, knob: Knob) -> tuple[float, float] | None:
        """The range worth trying, at this run's length and crop; None where there is none."""
        if knob.search is None:
            return None
        return self.scaled(knob, knob.search[0]), self.scaled(knob, knob.search[1])

    def fixed_by_train(self, names: Iterable[str]) -> list[str]:
        """Which keys of `train:` hold still what `names` would search."""
        searched = set(names)
        found = [name for name in self.train if name in searched]
        for knob in self.knobs.values():
            classes = {f"{knob.name}.{c}" for c in self.class_names}
            if knob.kind == "per_class" and classes & searched:
                # A number for all classes is a base for some, but pointless when every class is searched.
                left = classes - searched - set(self.train)
                found += [
                    key
                    for key in (knob.name, f"{knob.name}.{DEFAULT_CLASS}")
                    if key in self.train and not left
                ]
        return found


def setting(
    config: type[RecipeConfig],
    class_names: Iterable[str],
    class_freq: Iterable[float],
    *,
    train: Mapping[str, Any],
    preset: Mapping[str, Any] | None,
    where: str,
) -> Setting:
    """Puts a `Setting` together; a `train:` that is wrong adds its faults and is left out.

    Args:
        config: the recipe's configuration class.
        class_names: the data's classes.
        class_freq: share of each among the labeled pixels.
        train: what the run fixes, nested or flat.
        preset: values of the documented configuration that the run starts from.
        where: what faults are said to be in.
    """
    names = tuple(class_names)
    faults: list[Fault] = []
    flat = flatten(train)
    try:
        made = resolve(config, preset=preset, train=flat, class_names=names)
    except ConfigError as error:
        faults += error.faults
        made = resolve(config, class_names=names)
    knobs = knobs_of(config)
    base = flat_config(made.model_dump(mode="json"), per_class_names(knobs.values()), names)
    return Setting(config, knobs, names, tuple(class_freq), flat, base, where, faults)


def per_class_names(knobs: Iterable[Knob]) -> tuple[str, ...]:
    """Names of the knobs that hold a value per class."""
    return tuple(knob.name for knob in knobs if knob.kind == "per_class")


def flat_config(
    config: Mapping[str, Any], per_class: Iterable[str], class_names: Iterable[str]
) -> dict[str, Any]:
    """A configuration by dotted name, per-class knobs written out class by class.

    Args:
        config: nested or flat.
        per_class: names of the per-class knobs.
        class_names: the data's classes; for each value the class's own or `default`.

    >>> flat_config({"threshold": {"default": 0.6, "road": 0.7}, "steps": 5}, ["threshold"], ["road", "water"])
    {'steps': 5, 'threshold.road': 0.7, 'threshold.water': 0.6}
    """
    flat = flatten(config)
    for name in per_class:
        given = {key: flat.pop(key) for key in list(flat) if key == name or key.startswith(f"{name}.")}
        rest = given.get(f"{name}.{DEFAULT_CLASS}", given.get(name))
        flat |= {f"{name}.{c}": given.get(f"{name}.{c}", rest) for c in class_names}
    return flat
