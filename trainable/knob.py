"""One typed declaration per hyperparameter.

`knob()` returns a pydantic `Field`; from that one line come the default, the type, the legal check, the help,
the Optuna distribution, the Parquet column and the README's table. `knobs_of` reads the declarations back.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

Kind = Literal["float", "int", "bool", "choice", "per_class", "text"]
Scale = Literal["linear", "log", "log1m"]
Phase = Literal["start", "self_training"]

_KEY = "knob"
DEFAULT_CLASS = "default"


class Section(BaseModel):
    """A group of knobs: strict, immutable, and every fault reported at once."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=False, allow_inf_nan=False, validate_default=True
    )


def _as_mapping(value: Any) -> Any:
    """A single number stands for every class."""
    if isinstance(value, Mapping | bool):
        return value
    return {DEFAULT_CLASS: value}


_T = TypeVar("_T")
PerClass = Annotated[dict[str, _T], BeforeValidator(_as_mapping)]
"""A value per class: a number, or a mapping from class name to number with `default` for the rest."""

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A share in [0, 1): a pixel is kept where p > t, so 1.0 would keep none."""


@dataclass(frozen=True)
class Knob:
    """What is known of one hyperparameter.

    Attributes:
        name: dotted path in the recipe's configuration, for example `optimizer.lr`.
        kind: the type; `per_class` holds one number per class.
        default: what a recipe uses when nobody says otherwise.
        legal: inclusive bounds that the code supports; None where there is no bound.
        search: the range worth trying, inside `legal`; None where it is not searched by default.
        choices: the allowed values of a choice.
        scale: how the range is walked: `linear`, `log`, or `log1m` (the log of one minus the value).
        unit: what a number counts.
        help: one sentence.
        acts_from: the phase of a run from which the knob has any effect.
        in_steps: counted in optimizer steps, so a preset's value scales with the length of the run.
        in_pixels: counted in pixels, so a preset's value scales with the crop.
        horizon: a decay that looks back 1 / (1 - value) steps, so a preset's value keeps that share of the run.
        searchable: False for what is a yardstick of the search.
        why_not: why it cannot be searched.
        caution: what to know before searching it.
    """

    name: str
    kind: Kind
    default: Any
    legal: tuple[float, float] | None = None
    search: tuple[float, float] | None = None
    choices: tuple[Any, ...] = ()
    scale: Scale = "linear"
    unit: str = ""
    help: str = ""
    acts_from: Phase = "start"
    in_steps: bool = False
    in_pixels: bool = False
    horizon: bool = False
    searchable: bool = True
    why_not: str = ""
    caution: str = ""


def knob(
    default: Any,
    *,
    legal: tuple[float, float] | None = None,
    search: tuple[float, float] | None = None,
    choices: tuple[Any, ...] = (),
    scale: Scale = "linear",
    unit: str = "",
    help: str,
    acts_from: Phase = "start",
    in_steps: bool = False,
    in_pixels: bool = False,
    horizon: bool = False,
    searchable: bool = True,
    why_not: str = "",
    caution: str = "",
    each: bool = False,
) -> Any:
    """Declare one hyperparameter as a field of a `Section`.

    Args:
        default: its value when nothing else is said.
        legal: inclusive (low, high) that the code supports.
        search: (low, high) worth trying; must lie inside `legal`.
        choices: for a choice whose type does not list them.
        scale: `linear`, `log` or `log1m`.
        unit: what a number counts (`steps`, `probability`, `pixels`).
        help: one sentence for people.
        acts_from: `start` or `self_training`.
        in_steps: True where the value counts optimizer steps.
        in_pixels: True where the value counts pixels of the crop.
        horizon: True for a decay whose horizon, 1 / (1 - value), counts steps.
        searchable: False for a yardstick; then `why_not` says why.
        why_not: the reason.
        caution: what to know before searching it.
        each: True for a `PerClass` knob, whose bounds stand in its type.

    Returns:
        A pydantic field; the annotation gives the type.

    Raises:
        ValueError: `search` is not inside `legal`.

    >>> class Example(Section):
    ...     lr: float = knob(0.01, legal=(0, 10), search=(1e-4, 1e-1), scale="log", help="Learning rate.")
    >>> knobs_of(Example)["lr"].search
    (0.0001, 0.1)
    """
    if legal and search and not (legal[0] <= search[0] < search[1] <= legal[1]):
        raise ValueError(f"search must lie inside legal={legal} with low < high, but got search={search}")
    declared = Knob(
        name="", kind="float", default=default, legal=legal, search=search, choices=choices, scale=scale,
        unit=unit, help=help, acts_from=acts_from, in_steps=in_steps, in_pixels=in_pixels, horizon=horizon,
        searchable=searchable, why_not=why_not, caution=caution,
    )  # fmt: skip
    extra: Any = {_KEY: declared}
    low, high = legal if legal and not each else (None, None)
    return Field(default=default, ge=low, le=high, description=help, json_schema_extra=extra)


def redeclared(config: type[BaseModel], name: str, default: Any, **changes: Any) -> Any:
    """A knob declared again with another default, for the field that takes its place in a subclass.

    Args:
        config: where it is declared. name: dotted. default: the new default.
        changes: further arguments of `knob` that differ.

    >>> class Example(Section):
    ...     lr: float = knob(0.01, legal=(0, 10), help="Learning rate.")
    >>> class Slower(Example):
    ...     lr: float = redeclared(Example, "lr", 0.001)
    >>> Slower().lr, knobs_of(Slower)["lr"].legal
    (0.001, (0, 10))
    """
    found = knobs_of(config)[name]
    kept = {key: value for key, value in vars(found).items() if key not in ("name", "kind", "default")}
    return knob(default, each=found.kind == "per_class", **(kept | changes))


def _plain(annotation: Any) -> Any:
    """The annotation without `Annotated` and without `| None`."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        return _plain(inner[0]) if len(inner) == 1 else annotation
    return annotation


def _kind_of(annotation: Any, declared: Knob) -> tuple[Kind, tuple[Any, ...]]:
    plain = _plain(annotation)
    if get_origin(plain) is dict:
        return "per_class", ()
    if get_origin(plain) is Literal:
        return "choice", get_args(plain)
    if declared.choices:
        return "choice", declared.choices
    if plain is bool:
        return "bool", (False, True)
    if plain is int:
        return "int", ()
    if plain is float:
        return "float", ()
    return "text", ()


def declared_knob(field: FieldInfo) -> Knob | None:
    """The knob that a field declares, or None."""
    extra = field.json_schema_extra
    found: Any = extra.get(_KEY) if isinstance(extra, dict) else None
    return found if isinstance(found, Knob) else None


def _walk(config: type[BaseModel], prefix: str) -> Iterator[Knob]:
    for name, field in config.model_fields.items():
        plain = _plain(field.annotation)
        dotted = f"{prefix}{name}"
        declared = declared_knob(field)
        if declared is not None:
            kind, choices = _kind_of(field.annotation, declared)
            yield replace(declared, name=dotted, kind=kind, choices=choices)
        elif isinstance(plain, type) and issubclass(plain, BaseModel):
            yield from _section(field, plain, dotted)


def _section(field: FieldInfo, section: type[BaseModel], dotted: str) -> Iterator[Knob]:
    """A section's knobs, with the defaults that the enclosing recipe gives it."""
    instance = field.get_default(call_default_factory=True)
    for inner in _walk(section, f"{dotted}."):
        value: Any = instance
        for part in inner.name[len(dotted) + 1 :].split("."):
            value = getattr(value, part, inner.default)
        yield replace(inner, default=value)


def knobs_of(config: type[BaseModel]) -> dict[str, Knob]:
    """Every knob of a recipe's configuration, by dotted name, in declaration order."""
    return {k.name: k for k in _walk(config, "")}
