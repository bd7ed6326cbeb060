"""What a sweep file says of its recipe, against what that recipe and the data's classes know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from search.address import address_fault
from search.metric_columns import objectives
from spaces import SearchSpace
from trainable.batch_norm import POOLING_ARCHITECTURES, one_image
from trainable.collective import uneven_batches
from trainable.config import DataConfig, RecipeConfig, names_file, nearest, resolve
from trainable.data.layouts import class_table
from trainable.errors import ConfigError, DataError, Fault
from trainable.knob import Knob, knobs_of
from trainable.metrics.objective import Direction
from trainable.models import check_network
from trainable.recipes import RECIPES
from trainable.recipes.interface import Recipe
from trainable.task import Task


def flat_train(
    train: Mapping[str, Any], faults: list[Fault], recipe: type[Recipe[Any]] | None = None
) -> dict[str, Any]:
    """The fixed knobs by dotted name, whether they were written nested, dotted or both.

    Args:
        train: the section.
        faults: a knob given twice, or as a value and as a group, is added here.
        recipe: whose whole numbers may be written as 5e4.

    >>> flat_train({"optimizer": {"lr": 0.1}, "st.weight": 2, "steps": 5}, [])
    {'optimizer.lr': 0.1, 'st.weight': 2, 'steps': 5}
    """
    flat: dict[str, Any] = {}
    for dotted, value in _leaves(train, ""):
        where = f"train.{dotted}"
        if not all(dotted.split(".")):
            faults.append(Fault(where, f"a knob's name must not have empty parts, but got {dotted!r}; mend the dots"))
            continue
        if dotted in flat:
            faults.append(Fault(where, f"a knob must be given once, but {dotted} stands twice; remove one"))
        flat.setdefault(dotted, value)
    for dotted in list(flat):
        groups = [dotted[:i] for i, letter in enumerate(dotted) if letter == "." and dotted[:i] in flat]
        for group in groups:
            message = f"{group} must hold either a value or keys, but got {group}={flat[group]!r} and {dotted}"
            faults.append(Fault(f"train.{dotted}", f"{message}; remove one"))
            del flat[dotted]
            break
    knobs = knobs_of(recipe.config) if recipe is not None else {}
    return {name: _whole(value, knobs.get(name)) for name, value in flat.items()}


def _whole(value: Any, knob: Knob | None) -> Any:
    if knob is not None and knob.kind == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _leaves(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def find_recipe(name: Any, faults: list[Fault]) -> type[Recipe[Any]] | None:
    """The recipe, or None with a fault that lists all of them."""
    if isinstance(name, str) and name in RECIPES:
        return RECIPES[name]
    hint = nearest(str(name), RECIPES)
    faults.append(Fault("recipe", f"recipe must be one of {', '.join(RECIPES)}, but got recipe={name!r}{hint}"))
    return None


def find_preset(recipe: type[Recipe[Any]], name: Any, faults: list[Fault]) -> Mapping[str, Any] | None:
    """A preset's values, or None with a fault that lists all of them."""
    if name is None:
        return None
    if isinstance(name, str) and name in recipe.presets:
        return recipe.presets[name].values
    known = ", ".join(recipe.presets) or "none"
    hint = nearest(str(name), recipe.presets)
    faults.append(Fault("preset", f"preset must be one of {recipe.name}'s ({known}), but got preset={name!r}{hint}"))
    return None


def class_names(data: DataConfig, faults: list[Fault]) -> tuple[str, ...]:
    """The data's classes, or none with a fault; thresholds are checked against them."""
    try:
        return class_table(data, Path.cwd()).names
    except (DataError, ConfigError) as error:
        faults += error.faults
        return ()


def check_train(
    recipe: type[Recipe[Any]], preset: Mapping[str, Any] | None, train: Mapping[str, Any],
    names: tuple[str, ...], faults: list[Fault],
) -> RecipeConfig | None:  # fmt: skip
    """The recipe's configuration as the file fixes it, or None with every fault."""
    wrong = list(_wrong_types(train, knobs_of(recipe.config)))
    faults += wrong
    sound = {name: value for name, value in train.items() if f"train.{name}" not in {f.where for f in wrong}}
    try:
        made = resolve(recipe.config, preset=preset, train=sound, class_names=names, where="train")
    except ConfigError as error:
        faults += error.faults
        return None
    return None if wrong else made


def _wrong_types(train: Mapping[str, Any], knobs: Mapping[str, Knob]) -> Iterator[Fault]:
    """Values that would be converted in silence: truth values and quoted numbers."""
    for name, value in train.items():
        knob = knobs.get(name) or next((k for k in knobs.values() if _is_class_of(name, k)), None)
        if knob is None:
            continue
        if knob.kind in ("int", "float", "per_class") and isinstance(value, bool | str):
            hint = "; remove the quotes" if isinstance(value, str) and _is_number(value) else ""
            yield Fault(f"train.{name}", f"{name} must be a number, but got {name}={value!r}{hint}")
        elif knob.kind == "bool" and value is not None and not isinstance(value, bool):
            yield Fault(f"train.{name}", f"{name} must be true or false, but got {name}={value!r}")


def _is_class_of(name: str, knob: Knob) -> bool:
    return knob.kind == "per_class" and name.startswith(f"{knob.name}.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_space(
    recipe: type[Recipe[Any]], spec: Any, preset: Mapping[str, Any] | None, train: Mapping[str, Any],
    names: tuple[str, ...], faults: list[Fault],
) -> None:  # fmt: skip
    """The space must be one that the recipe's knobs and the data's classes allow."""
    try:
        SearchSpace.from_spec(spec, recipe.config, names, train=train, preset=preset)
    except ConfigError as error:
        faults += error.faults


def check_classes(recipe: type[Recipe[Any]], names: tuple[str, ...], faults: list[Fault]) -> None:
    """A recipe of two classes takes no others; without this its trials would say so, one by one."""
    if names:
        try:
            recipe.adapt(Task(names, (0,) * len(names)))
        except ConfigError as error:
            faults += error.faults


def check_batch(config: RecipeConfig, workers: int, faults: list[Fault]) -> None:
    """Workers must share a batch evenly, and some networks cannot normalize one image of each."""
    faults += uneven_batches(config, workers)
    architecture, images = getattr(config, "architecture", None), config.batch_size
    if architecture in POOLING_ARCHITECTURES and images // workers == 1:
        faults.append(one_image(f"architecture {architecture}", images, workers))


def check_networks(config: RecipeConfig, space: Any, faults: list[Fault]) -> None:
    """Networks and encoders must be known by name: a wrong one would fail every trial at its first step."""
    given = {key: getattr(config, key, None) for key in ("architecture", "encoder")}
    asked = [(key, value, f"train.{key}") for key, value in given.items()]
    if isinstance(space, Mapping):
        for key in given:
            listed = space.get(key)
            choices = listed.get("choices") if isinstance(listed, Mapping) else listed
            asked += [(key, value, f"space.{key}") for value in choices or () if isinstance(choices, list)]
    for key, value, where in asked:
        if isinstance(value, str):
            try:
                check_network(**{"architecture": "unet", "encoder": "resnet18", key: value})
            except ConfigError as error:
                faults += [Fault(where, fault.message) for fault in error.faults]


def check_weight_files(train: Mapping[str, Any], faults: list[Fault]) -> None:
    """Files of weights must be there: a missing one would fail every trial."""
    for key in ("init_from", "encoder_weights"):
        value = train.get(key)
        if isinstance(value, str) and is_weight_file(key, value) and not Path(value).is_file():
            message = f"{key} must be a file of weights, but there is none at {value!r}; correct the path"
            faults.append(Fault(f"train.{key}", message))


def is_weight_file(key: str, value: str) -> bool:
    """Whether a knob's text is a file's path and not the name of known weights."""
    return key == "init_from" or (key == "encoder_weights" and names_file(value))


def check_place(run: str, faults: list[Fault]) -> None:
    """A run's folder must lie in folders, and its address be one of a storage that is known."""
    if "://" in run:
        fault = None if run.startswith("file://") else address_fault(run)
        faults += [] if fault is None else [Fault("storage", fault)]
        return
    there = next((path for path in (Path(run), *Path(run).parents) if path.exists()), None)
    if there is not None and not there.is_dir():
        message = f"storage must be a folder, but {str(there)!r} is a file; choose another place or name"
        faults.append(Fault("storage", message))


def check_rungs(asha: Any, steps: int, faults: list[Fault]) -> None:
    """The first rung must lie within the run."""
    grace = getattr(asha, "grace_steps", None)
    if isinstance(grace, int) and grace > steps:
        message = f"grace_steps must not exceed steps={steps}, but got grace_steps={grace}; lower it or use auto"
        faults.append(Fault("search.asha.grace_steps", message))


def check_objective(
    recipe: type[Recipe[Any]], objective: str | None, direction: Direction | None, names: tuple[str, ...],
    faults: list[Fault], prefix: str = "",
) -> None:  # fmt: skip
    """The metric that ranks must be one of the validation images, in the direction that is the metric's own."""
    known = objectives(names, recipe.metrics, recipe.objective)
    if objective is not None and objective not in known:
        message = f"objective must be a validation metric that {recipe.name} reports, but got {objective=}"
        hint = nearest(objective, known) or f"; the recipe's own is {recipe.objective!r}"
        faults.append(Fault(f"{prefix}objective", f"{message}{hint}; metrics: {', '.join(known)}"))
        return
    try:
        recipe.objective_of(objective, direction)
    except ConfigError as error:
        faults += [Fault(f"{prefix}{fault.where}", fault.message) for fault in error.faults]
