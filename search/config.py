"""Reading a sweep file: overrides, paths, and every fault at once with its line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from search.checks import (
    check_batch,
    check_classes,
    check_networks,
    check_objective,
    check_place,
    check_rungs,
    check_space,
    check_train,
    check_weight_files,
    class_names,
    find_preset,
    find_recipe,
    flat_train,
    is_weight_file,
)
from search.schema import (
    AshaConfig,
    BudgetConfig,
    KeepConfig,
    NotifyConfig,
    ResourcesConfig,
    SearchConfig,
    SweepConfig,
    TrackingConfig,
    WandbConfig,
)
from trainable import strict_yaml
from trainable.config import DataConfig, RunConfig, faults_of
from trainable.document import Document
from trainable.errors import ConfigError, Fault
from trainable.recipes import RECIPES, dimension_fault

__all__ = [
    "AshaConfig", "BudgetConfig", "KeepConfig", "NotifyConfig", "ResourcesConfig", "SearchConfig", "SweepConfig",
    "TrackingConfig", "WandbConfig", "load_data", "load_run", "load_sweep", "overridden",
]  # fmt: skip

DATA_VARIABLE = "THRESHER_DATA"
_VARIABLE = re.compile(r"\$\{([^}]*)\}?")
_ONLY_SWEEPS = ("space", "search", "resources", "storage", "tracking", "notify")
_LINE = re.compile(r":(\d+)(?::|$)")
_PATHS = ("data.root", "data.classes", "data.labeled", "data.unlabeled", "data.val", "data.test", "data.cache.dir")
_ROOTED = ("data.root", "storage")

_Model = TypeVar("_Model", bound=BaseModel)
_Whole = TypeVar("_Whole", SweepConfig, RunConfig)


def load_sweep(path: str | Path, sets: Iterable[str] = ()) -> SweepConfig:
    """Read a sweep file, put the overrides on top, and check all of it.

    Args:
        path: the YAML file.
        sets: overrides `path.to.key=value`; the later one wins.

    Returns:
        The sweep with absolute paths, `train` by dotted name, and every default written out.

    Raises:
        ConfigError: every fault, each with file, line and key.
    """
    return _loaded(SweepConfig, overridden(strict_yaml.load(path), sets), path, lambda data, given: data)


def _line(fault: Fault) -> int:
    """Where a fault stands in the file; overrides come first."""
    found = _LINE.search(fault.where)
    return int(found.group(1)) if found else 0


def load_run(path: str | Path, sets: Iterable[str] = ()) -> tuple[RunConfig, tuple[str, ...]]:
    """Read one configuration: what `export` writes, or a sweep file, of which only what one run needs is taken.

    Returns:
        The configuration, and the sections of a sweep file that were left aside.

    Raises:
        ConfigError: every fault, each with file, line and key.
    """
    document = overridden(strict_yaml.load(path), sets)
    aside = tuple(key for key in _ONLY_SWEEPS if key in document.data)

    def of_one(data: dict[str, Any], search: Any) -> dict[str, Any]:
        kept = {key: value for key, value in data.items() if key not in _ONLY_SWEEPS}
        if isinstance(search, Mapping):
            # A sweep's configuration alone has the best model that the sweep is after.
            kept |= {key: search[key] for key in ("objective", "direction") if key in search}
        return kept

    return _loaded(RunConfig, document, path, of_one), aside


def _loaded(
    model: type[_Whole], document: Document, path: str | Path, take: Callable[[dict[str, Any], Any], dict[str, Any]]
) -> _Whole:
    """The file as a checked model; `take` picks what belongs to it, given the data and what `search` said itself."""
    faults: list[Fault] = []
    data = rooted(document, Path(path).resolve().parent, faults)
    data = take(_normal(data, document, faults), data.get("search"))
    made = validated(model, data, document, faults)
    found: list[Fault] = []
    _check_meaning(data, made, found)
    faults += placed(found, document)
    if faults or made is None:
        raise ConfigError(sorted(faults, key=_line))
    return made


def load_data(path: str | Path, sets: Iterable[str] = ()) -> tuple[DataConfig, bool]:
    """Read the data section of a file, or take a folder as it is.

    Returns:
        The section, and whether the file's recipe trains on labeled images alone.

    Raises:
        ConfigError: every fault of the section.
    """
    whole = Path(path)
    given = Document(str(path), {"data": {"root": str(whole.resolve())}}) if whole.is_dir() else strict_yaml.load(path)
    document = overridden(given, sets)
    faults: list[Fault] = []
    data = rooted(document, whole.resolve().parent, faults)
    section = data.get("data", {})
    made = validated(DataConfig, section, document, faults, prefix="data")
    if faults or made is None:
        raise ConfigError(sorted(faults, key=_line))
    recipe = RECIPES.get(str(data.get("recipe")))
    return made, recipe is not None and not recipe.needs_unlabeled


def _normal(data: dict[str, Any], document: Document, faults: list[Fault]) -> dict[str, Any]:
    """`train` by dotted name, and the objective written out: the recipe's own, in the metric's own direction."""
    name, train, search = data.get("recipe"), data.get("train") or {}, data.get("search") or {}
    recipe = RECIPES.get(name) if isinstance(name, str) else None
    if isinstance(train, Mapping):
        found: list[Fault] = []
        flat = flat_train(train, found, recipe)
        data = {**data, "train": {name: _weight_file(name, value, document) for name, value in flat.items()}}
        faults += placed(found, document)
    if recipe is not None and isinstance(search, Mapping) and isinstance(search.get("objective", ""), str):
        own = recipe.objective_of(search.get("objective"), None)
        data = {**data, "search": {"objective": own.metric, "direction": own.direction, **search}}
    return data


def _weight_file(name: str, value: Any, document: Document) -> Any:
    """A file of weights by its absolute path, because a trial works in a folder of its own."""
    if not isinstance(value, str) or not is_weight_file(name, value):
        return value
    overridden = document.place(f"train.{name}").startswith("--set")
    start = Path.cwd() if overridden else Path(document.name).resolve().parent
    return os.path.normpath(start / os.path.expanduser(value))


def _check_meaning(data: Mapping[str, Any], made: SweepConfig | RunConfig | None, faults: list[Fault]) -> None:
    """What only the recipe and the data's classes can tell; as far as the sections are sound."""
    section = _quietly(DataConfig, data.get("data"))
    names = class_names(section, faults) if section is not None else ()
    recipe = find_recipe(data["recipe"], faults) if data.get("recipe") is not None else None
    train = data.get("train", {})
    if recipe is None or not isinstance(train, Mapping):
        return
    fault = None if section is None else dimension_fault(recipe, section.ndim)
    faults += [] if fault is None else [fault]
    check_classes(recipe, names, faults)
    preset = find_preset(recipe, data.get("preset"), faults)
    config = check_train(recipe, preset, train, names, faults)
    if config is None:
        # What is sound of it is enough to find what is wrong elsewhere.
        train = {name: value for name, value in train.items() if not _is_faulty(f"train.{name}", faults)}
        config = check_train(recipe, preset, train, names, [])
    if config is None or not names:
        return
    space = data.get("space")
    check_networks(config, space, faults)
    check_weight_files(train, faults)
    if isinstance(space, str | dict) and space:
        check_space(recipe, space, preset, train, names, faults)
    if made is None:
        return
    check_batch(config, 1 if isinstance(made, RunConfig) else made.resources.workers_per_trial, faults)
    if isinstance(made, RunConfig):
        check_objective(recipe, made.objective, made.direction, names, faults)
        return
    check_place(made.run, faults)
    check_objective(recipe, made.search.objective, made.search.direction, names, faults, "search.")
    check_rungs(made.search.asha, config.steps, faults)


def _is_faulty(key: str, faults: list[Fault]) -> bool:
    """Whether a key, one above it or one below it has a fault."""
    wheres = [fault.where.replace(":", ".") for fault in faults]
    return any(f"{key}.".startswith(f"{where}.") or where.startswith(f"{key}.") for where in wheres)


def _quietly(model: type[_Model], data: Any) -> _Model | None:
    """The model where the data make one; its faults are reported elsewhere."""
    try:
        return model.model_validate(data)
    except ValidationError:
        return None


def overridden(document: Document, sets: Iterable[str]) -> Document:
    """The document with each `path.to.key=value` put on top.

    Raises:
        ConfigError: every override that cannot be read.

    >>> document = strict_yaml.loads("train: {steps: 5}")
    >>> overridden(document, ["train.optimizer.lr=1e-3"]).data
    {'train': {'steps': 5, 'optimizer': {'lr': 0.001}}}
    """
    faults: list[Fault] = []
    for text in sets:
        dotted, equals, value = text.partition("=")
        parts = dotted.strip().split(".")
        where = f"--set {dotted.strip()}"
        if not equals or not all(parts):
            faults.append(Fault("--set", f"an override must read path.to.key=value, but got {text!r}"))
            continue
        try:
            document = document.with_value(parts, strict_yaml.parse_value(value.strip(), where), where)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return document


def rooted(document: Document, base: Path, faults: list[Fault]) -> dict[str, Any]:
    """The document's data with `${THRESHER_DATA}` expanded and paths made absolute.

    A path from the file is relative to the file's folder, one from an override to the working directory.
    Paths inside `data` other than the root stay as they are: they are relative to the root.
    """
    data = document.data
    for dotted in (*_PATHS, "storage"):
        *parents, last = dotted.split(".")
        section: Any = data
        for key in parents:
            section = section.get(key) if isinstance(section, dict) else None
        value = section.get(last) if isinstance(section, dict) else None
        if dotted == "storage" and value is None and "storage" not in data:
            value = SweepConfig.model_fields["storage"].default
        if not isinstance(value, str) or not value:
            continue
        place = document.place(dotted)
        expanded = _expanded(value, f"{place}:{dotted}", faults)
        if dotted in _ROOTED and "://" not in expanded:
            start = Path.cwd() if place.startswith("--set") else base
            try:
                expanded = os.path.normpath(start / Path(expanded).expanduser())
            except RuntimeError:
                message = f"{last} must be a path, but got {expanded!r}, and there is no such user's home; write it out"
                faults.append(Fault(f"{place}:{dotted}", message))
        data = _with(data, parents, last, expanded)
    return data


def _with(data: dict[str, Any], parents: Sequence[str], last: str, value: Any) -> dict[str, Any]:
    """A copy with one nested value replaced; the sections on the way exist."""
    if not parents:
        return {**data, last: value}
    return {**data, parents[0]: _with(data[parents[0]], parents[1:], last, value)}


def _expanded(value: str, where: str, faults: list[Fault]) -> str:
    """`${THRESHER_DATA}` replaced; any other variable is a fault."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name != DATA_VARIABLE:
            faults.append(Fault(where, f"only ${{{DATA_VARIABLE}}} is expanded, but got {match.group(0)!r}"))
        elif not os.environ.get(DATA_VARIABLE):
            faults.append(Fault(where, f"{DATA_VARIABLE} must be set for {value!r}; export it or write the path out"))
        else:
            return os.environ[DATA_VARIABLE]
        return match.group(0)

    return _VARIABLE.sub(replace, value)


def validated(
    model: type[_Model], data: Mapping[str, Any], document: Document, faults: list[Fault], prefix: str = ""
) -> _Model | None:
    """The model, or None with every fault placed on its line."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        known = dict.fromkeys(dotted_fields(model))
        found = [
            Fault(f.where, "it must be given; add it") if f.message == "Field required" else f
            for f in faults_of(error, "", known)
        ]
        faults += placed(found, document, prefix)
        return None


def placed(faults: Iterable[Fault], document: Document, prefix: str = "") -> list[Fault]:
    """Faults whose place is a dotted key, with file and line in front of it."""
    found = []
    for fault in faults:
        dotted = ".".join(part for part in (prefix, fault.where.strip(":").replace(":", ".")) if part)
        place = document.place(dotted) if dotted else document.name
        if dotted and dotted.split(".")[0] not in SweepConfig.model_fields and not prefix and place == document.name:
            found.append(fault)
            continue
        told = place.endswith(f" {dotted}") or place.startswith(f"--set {dotted}.")
        where = place if not dotted or told else f"{place}:{dotted}"
        found.append(Fault(where, fault.message))
    return found


def dotted_fields(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """Every key that a model takes, sections and their keys, dotted."""
    for name, field in model.model_fields.items():
        dotted = f"{prefix}{field.alias or name}"
        yield dotted
        section = _section(field.annotation)
        if section is not None:
            yield from dotted_fields(section, f"{dotted}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as `Section | None`."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    inner = (_section(part) for part in getattr(annotation, "__args__", ()))
    return next((part for part in inner if part is not None), None)

