"""How a run's configuration is put together: recipe defaults < preset < `train:` < sampled values.

Knobs counted in steps that come from a default or a preset scale with the length of the run; those counted in pixels
scale with the crop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from trainable.config.names import nearest
from trainable.config.nested import flatten, merge, unflatten
from trainable.config.recipe import RecipeConfig
from trainable.errors import ConfigError, Fault
from trainable.knob import DEFAULT_CLASS, Knob, knobs_of


def faults_of(error: ValidationError, where: str, known: Mapping[str, Any] | None = None) -> list[Fault]:
    """Every fault in a pydantic error, one `Fault` each, with the nearest name for an unknown key.

    Args:
        error: what pydantic raised.
        where: the file or section that was read.
        known: dotted names that are allowed, for the hint.
    """
    faults: list[Fault] = []
    for item in error.errors():
        dotted = ".".join(str(part) for part in item["loc"])
        place = f"{where}:{dotted}" if where and dotted else where or dotted
        if item["type"] == "extra_forbidden":
            hint = nearest(dotted, known or ())
            faults.append(Fault(place, f"unknown key {dotted!r}{hint}; remove it or use a known name"))
            continue
        message = item["msg"].removeprefix("Value error, ")
        given = item["input"]
        if item["type"] == "value_error" or isinstance(given, Mapping | BaseModel):
            faults += [Fault(place, line) for line in message.split("\n")]
            continue
        # A per-class knob that was given one number holds it as `default`.
        name = dotted.removesuffix(f".{DEFAULT_CLASS}").split(".")[-1] or where.rpartition(":")[2] or "it"
        must, fix = _in_words(item["type"], item.get("ctx", {}), given) or (f"be valid ({message.lower()})", "")
        faults.append(Fault(place, f"{name} must {must}, but got {name}={given!r}{fix and f'; {fix}'}"))
    return faults


def _in_words(kind: str, context: Mapping[str, Any], given: Any) -> tuple[str, str] | None:
    """What must hold and what to do, for the kinds of fault that pydantic words for programmers."""
    if kind in _BOUNDS:
        return f"be {_BOUNDS[kind]} {next(iter(context.values())):.12g}", "change it"
    if kind == "literal_error":
        return f"be one of {str(context['expected']).replace(' or ', ', ')}", "choose one"
    if kind == "string_too_short":
        return "not be empty", "fill it in"
    start = kind.partition("_")[0]
    if start == "string" and isinstance(given, int | float):
        return _TYPES[start], "put it in quotes"
    if start in ("int", "float") and isinstance(given, str) and given.strip("+-.0123456789e") == "":
        return _TYPES[start], "remove the quotes"
    return (_TYPES[start], "correct it") if start in _TYPES else None


_BOUNDS = {
    "greater_than_equal": "at least", "greater_than": "above", "less_than_equal": "at most", "less_than": "below",
}  # fmt: skip
_TYPES = {
    "int": "be a whole number", "float": "be a number", "bool": "be true or false", "string": "be a text",
    "tuple": "be a list", "list": "be a list", "dict": "hold keys and values", "model": "hold keys and values",
    "mapping": "hold keys and values",
}  # fmt: skip


def scaled(
    values: Mapping[str, Any], knobs: Mapping[str, Knob], *, own: Mapping[str, Any], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """A default's or preset's values, scaled to the run's length and crop.

    A knob counted in steps is multiplied by steps / own steps (at least 1 where it was above 0); one counted in
    pixels by crop_size / own crop_size; `patience`, counted in evaluations, keeps its share of the run; so does the
    horizon 1 / (1 - d) of a decay d, which becomes max(0, 1 - (1 - d) own steps / steps). Without that, an average
    over 1,000 steps would still be at its start when a run of 200 steps ends.

    Args:
        values: flat values to scale.
        knobs: the recipe's knobs.
        own: `steps`, `crop_size`, `eval_every_steps` that the values were written for.
        fixed: what the run sets itself; its `steps`, `crop_size` and `eval_every_steps` count.

    >>> from trainable.knob import knobs_of
    >>> scaled({"optimizer.warmup_steps": 1000}, knobs_of(RecipeConfig),
    ...        own={"steps": 50_000, "crop_size": 256, "eval_every_steps": 500}, fixed={"steps": 500})
    {'optimizer.warmup_steps': 10}
    """
    steps = fixed.get("steps", own["steps"])
    by_length = steps / own["steps"]
    by_crop = fixed.get("crop_size", own["crop_size"]) / own["crop_size"]
    every = fixed.get("eval_every_steps", max(1, round(own["eval_every_steps"] * by_length)))
    result = dict(values)
    for name, value in values.items():
        declared = knobs.get(name)
        if declared is None or not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if name == "patience":
            share = value * own["eval_every_steps"] / own["steps"]
            result[name] = max(1, round(share * steps / every)) if value else 0
        elif declared.in_steps and value:
            result[name] = max(1, round(value * by_length))
        elif declared.horizon and by_length != 1:
            result[name] = max(0.0, 1 - (1 - value) / by_length)
        elif declared.in_pixels and value:
            result[name] = max(16, round(value * by_crop))
    return result


def resolve(
    config: type[RecipeConfig],
    *,
    preset: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    sampled: Mapping[str, Any] | None = None,
    class_names: Iterable[str] = (),
    where: str = "train",
) -> RecipeConfig:
    """Put a run's configuration together: defaults < preset < `train:` < sampled.

    Args:
        config: the recipe's configuration class.
        preset: nested or flat values of a documented configuration.
        train: what the user fixed, nested.
        sampled: flat values that a search drew.
        class_names: names of the data's classes; per-class values may use only these.
        where: what the faults are said to be in.

    Returns:
        A checked configuration with every value written out.

    Raises:
        ConfigError: every fault at once.
    """
    knobs = knobs_of(config)
    names = tuple(class_names)
    user = merge(unflatten(train or {}), unflatten(sampled or {}))
    defaults = {k.name: k.default for k in knobs.values()}
    own = {key: defaults[key] for key in ("steps", "crop_size", "eval_every_steps")}
    fixed = {key: user[key] for key in own if isinstance(user.get(key), int) and user[key] >= 1}
    documented = unflatten(preset or {})
    preset_own = own | {key: documented[key] for key in own if key in documented}
    fixed_over_defaults = {key: documented[key] for key in own if key in documented} | fixed
    base = unflatten(scaled(defaults, knobs, own=own, fixed=fixed_over_defaults))
    over = unflatten(scaled(flatten(documented), knobs, own=preset_own, fixed=fixed))
    nested = merge(merge(base, _known_classes(over, knobs, names)), user)
    wrong_classes = list(_class_faults(nested, knobs, names, where)) if names else []
    faults, made = _validated(config, nested, base, where, knobs)
    faults += wrong_classes
    if faults or made is None:
        raise ConfigError(faults)
    return made


def _validated(
    config: type[RecipeConfig], nested: dict[str, Any], base: dict[str, Any], where: str, knobs: Mapping[str, Knob]
) -> tuple[list[Fault], RecipeConfig | None]:
    """Every fault at once: what is wrong alone is put back to its default, so that what is wrong together shows."""
    faults: list[Fault] = []
    for _ in range(3):
        try:
            return faults, config.model_validate(nested)
        except ValidationError as error:
            faults += [f for f in faults_of(error, where, knobs) if f not in faults]
            for item in error.errors():
                _put_back(nested, item["loc"], base)
    return faults, None


def _put_back(nested: dict[str, Any], loc: tuple[int | str, ...], base: Mapping[str, Any]) -> None:
    """Replace the value at `loc` by the base's, or drop it where the base has none."""
    level: Any = nested
    default: Any = base
    for part in loc[:-1]:
        default = default.get(part, {}) if isinstance(default, Mapping) else {}
        below = level.get(part) if isinstance(level, dict) else None
        if not isinstance(below, dict):
            break
        level = below
    else:
        if not loc or not isinstance(level, dict):
            return
        if isinstance(default, Mapping) and loc[-1] in default:
            level[loc[-1]] = default[loc[-1]]
        else:
            level.pop(loc[-1], None)


def _known_classes(
    preset: Mapping[str, Any], knobs: Mapping[str, Knob], names: tuple[str, ...]
) -> dict[str, Any]:
    """A preset goes by class name: what it says of classes that the data do not have is left out."""
    kept = dict(preset)
    for name, declared in knobs.items():
        if declared.kind == "per_class" and isinstance(kept.get(name), Mapping) and names:
            kept[name] = {c: v for c, v in kept[name].items() if c in names or c == DEFAULT_CLASS}
    return kept


def _class_faults(
    nested: Mapping[str, Any], knobs: Mapping[str, Knob], names: tuple[str, ...], where: str
) -> Iterable[Fault]:
    for name, declared in knobs.items():
        value: Any = nested
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if name.rpartition(".")[2] == "exclude_classes" and isinstance(value, list | tuple):
            for given in value:
                if given not in names:
                    message = f"must name classes of the data ({', '.join(names)}), but got {given!r}"
                    yield Fault(f"{where}:{name}", f"{name} {message}{nearest(str(given), names)}")
            continue
        if declared.kind != "per_class" or not isinstance(value, Mapping):
            continue
        for given in value:
            if given not in names and given != DEFAULT_CLASS:
                hint = nearest(given, names)
                yield Fault(
                    f"{where}:{name}.{given}",
                    f"{name} must name classes of the data ({', '.join(names)}), but got {given!r}{hint}",
                )
        missing = [c for c in names if c not in value]
        if missing and DEFAULT_CLASS not in value:
            yield Fault(
                f"{where}:{name}",
                f"{name} must give every class a number, but {', '.join(missing)} have none; add them or `default`",
            )
