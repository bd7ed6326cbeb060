"""What a run is configured by: the data section, the recipe's knobs, and how they are put together.

Precedence: recipe defaults < preset < `train:` < sampled values. Knobs counted in steps that come from a
default or a preset scale with the length of the run; those counted in pixels scale with the crop.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from trainable.errors import ConfigError, Fault
from trainable.knob import (
    DEFAULT_CLASS,
    Knob,
    PerClass,
    Probability,
    Section,
    knob,
    knobs_of,
)

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(1, 10))}


def check_name(name: str) -> str:
    """A name that is safe as a folder on every system, or ValueError.

    >>> check_name("salak-thresholds")
    'salak-thresholds'
    """
    safe = NAME_PATTERN.fullmatch(name) and not name.endswith(".") and ".." not in name
    if not safe or name.split(".")[0].lower() in _RESERVED:
        raise ValueError(
            "name must be 1 to 100 letters, digits, '.', '_' or '-', start with a letter or digit, not end with "
            f"'.', and not be a reserved word, but got name={name[:120]!r}; rename it"
        )
    return name


class PointsConfig(Section):
    """Coordinates instead of masks."""

    file: str = "points.csv"
    radius: int = Field(10, ge=1, le=1000)
    class_name: str = Field("particle", alias="class", min_length=1)
    model_config = Section.model_config | {"populate_by_name": True}


class VolumeConfig(Section):
    """Sections that stack into volumes."""

    group_by: str
    order_by: str


class CacheConfig(Section):
    """Where decoded images are kept between runs; never inside a run."""

    dir: str | None = None
    max_gb: float | Literal["auto"] = "auto"


class DataConfig(Section):
    """The data section of a sweep file or configuration."""

    root: str
    layout: Literal["auto", "folders", "voc", "points", "volume"] = "auto"
    classes: str | None = None
    labeled: str | None = None
    unlabeled: str | None = None
    val: str | None = None
    test: str | None = None
    group_by: str | None = None
    val_fraction: float = Field(0.2, gt=0.0, lt=1.0)
    split_seed: int = Field(0, ge=0)
    ignore: tuple[str, ...] = ()
    points: PointsConfig | None = None
    volume: VolumeConfig | None = None
    cache: CacheConfig = CacheConfig()
    allow_leak: bool = False
    hidden_labels: int = Field(20, ge=0)
    """Unlabeled images whose masks, where there are any, show how right the pseudo-labels are; none trains on them."""

    @field_validator("group_by")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        if value is None or value == "none":
            return value
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(
                f"group_by must be a regular expression or 'none', but got group_by={value!r} ({error})"
            ) from error
        return value


class OptimizerConfig(Section):
    """The segmentation network's optimizer."""

    name: Literal["sgd", "adam", "adamw"] = knob("sgd", help="Optimizer.")
    lr: float = knob(2.5e-4, legal=(0.0, 10.0), search=(1e-5, 1e-1), scale="log", help="Base learning rate.")
    head_lr_mult: float = knob(
        10.0, legal=(0.0, 1000.0), search=(1.0, 40.0), scale="log",
        help="Learning rate of everything but the encoder, over lr.",
    )  # fmt: skip
    momentum: float = knob(0.9, legal=(0.0, 1.0), search=(0.8, 0.99), scale="log1m", help="SGD momentum.")
    weight_decay: float = knob(
        5e-4, legal=(0.0, 1.0), search=(1e-6, 1e-1), scale="log", help="Weight decay."
    )
    warmup_steps: int = knob(
        1000, legal=(0, 10**9), search=(0, 5000), unit="steps", in_steps=True, help="Linear learning-rate warm-up."
    )  # fmt: skip
    schedule: Literal["cosine", "poly", "constant"] = knob("cosine", help="Decay after the warm-up.")
    power: float = knob(0.9, legal=(0.0, 10.0), search=(0.5, 2.0), help="Exponent of the poly schedule.")


class SelfTrainingConfig(Section):
    """When and how strongly pseudo-labels act."""

    start_step: int = knob(
        500, legal=(0, 10**9), search=(0, 5000), unit="steps", in_steps=True, acts_from="self_training",
        help="First step with a self-training loss.",
    )  # fmt: skip
    ramp_steps: int = knob(
        0, legal=(0, 10**9), search=(0, 10000), unit="steps", in_steps=True, acts_from="self_training",
        help="Steps over which the self-training weight rises linearly from 0.",
    )  # fmt: skip
    weight: float = knob(
        1.0, legal=(0.0, 100.0), search=(0.1, 4.0), scale="log", acts_from="self_training",
        help="Weight of the self-training loss.",
    )  # fmt: skip


class LossConfig(Section):
    """Weights of the labeled loss's parts, and their shapes."""

    ce: float = knob(0.4, legal=(0.0, 100.0), search=(0.0, 1.0), help="Weight of cross-entropy.")
    dice: float = knob(0.4, legal=(0.0, 100.0), search=(0.0, 1.0), help="Weight of the Dice loss.")
    focal: float = knob(0.2, legal=(0.0, 100.0), search=(0.0, 1.0), help="Weight of the focal loss.")
    focal_gamma: float = knob(
        2.0, legal=(0.0, 10.0), search=(0.0, 5.0), help="Focusing exponent of the focal loss."
    )
    focal_alpha: float = knob(0.25, legal=(0.0, 1.0), search=(0.05, 0.95), help="Scale of the focal loss.")
    class_weights: Literal["none", "balanced", "sqrt", "effective"] = knob(
        "balanced", help="Class weights of cross-entropy, from the labeled pixels."
    )

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if self.ce + self.dice + self.focal <= 0:
            raise ValueError("the weights ce, dice and focal must not all be 0; set at least one above 0")
        return self


class ViewConfig(Section):
    """The weak view, geometry alone."""

    zoom_min: float = knob(
        0.5, legal=(0.1, 10.0), search=(0.4, 1.0), help="Smallest random zoom of the weak view."
    )
    zoom_max: float = knob(
        1.6, legal=(0.1, 10.0), search=(1.0, 2.0), help="Largest random zoom of the weak view."
    )
    flip: bool = knob(True, help="Random horizontal mirror.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.zoom_min > self.zoom_max:
            raise ValueError(
                f"zoom_min must not exceed zoom_max, but got zoom_min={self.zoom_min}, zoom_max={self.zoom_max}"
            )
        return self


class AugmentConfig(ViewConfig):
    """The weak view (geometry) and the strong view (color and mixing on top of it)."""

    jitter_p: float = knob(
        0.8, legal=(0.0, 1.0), search=(0.0, 1.0), acts_from="self_training",
        help="Chance that the strong view's colors are jittered.",
    )  # fmt: skip
    jitter: float = knob(
        0.5, legal=(0.0, 1.0), search=(0.1, 0.8), acts_from="self_training",
        help="Half-range of brightness, contrast and saturation; hue moves half as much.",
    )  # fmt: skip
    gray_p: float = knob(
        0.2, legal=(0.0, 1.0), search=(0.0, 0.5), acts_from="self_training", help="Chance of a gray strong view."
    )  # fmt: skip
    blur_p: float = knob(
        0.5, legal=(0.0, 1.0), search=(0.0, 1.0), acts_from="self_training", help="Chance of a blurred strong view."
    )  # fmt: skip
    cutmix_p: float = knob(
        0.5, legal=(0.0, 1.0), search=(0.0, 1.0), acts_from="self_training",
        help="Chance that a box of another unlabeled image is pasted into the strong view.",
    )  # fmt: skip


_YARDSTICK = "it is the yardstick that makes the trials of a search comparable"


class HealthConfig(Section):
    """Rules on the training signals; 0 turns a rule off."""

    action: Literal["warn", "stop"] = knob(
        "stop", searchable=False, why_not=_YARDSTICK, help="What a broken rule does."
    )
    nonfinite_steps: int = knob(
        3, legal=(1, 10**6), searchable=False, why_not=_YARDSTICK, unit="steps",
        help="Steps in a row with a non-finite loss after which the run ends as DIVERGED.",
    )  # fmt: skip
    st_inactive_evals: int = knob(
        5, legal=(0, 10**6), searchable=False, why_not=_YARDSTICK, unit="evaluations",
        help="Evaluations in a row without one selected pixel after which self-training counts as inactive.",
    )  # fmt: skip
    gap_warn: float = knob(
        0.10, legal=(0.0, 1.0), searchable=False, why_not=_YARDSTICK, help="train - val mIoU above which to warn."
    )  # fmt: skip
    collapse_drop: float = knob(
        0.5, legal=(0.0, 1.0), searchable=False, why_not=_YARDSTICK,
        help="Share of the best value whose loss, for collapse_evals evaluations, counts as a collapse.",
    )  # fmt: skip
    collapse_evals: int = knob(
        3, legal=(0, 10**6), searchable=False, why_not=_YARDSTICK, unit="evaluations",
        help="Evaluations in a row below that level.",
    )  # fmt: skip
    plateau_evals: int = knob(
        10, legal=(0, 10**6), searchable=False, why_not=_YARDSTICK, unit="evaluations",
        help="Evaluations in a row that are no better than one constant answer.",
    )  # fmt: skip


class RecipeConfig(Section):
    """The knobs that every recipe has."""

    steps: int = knob(
        50_000, legal=(1, 10**9), unit="steps", in_steps=True, searchable=False, why_not=_YARDSTICK,
        help="Length of a run.",
    )  # fmt: skip
    batch_size: int = knob(8, legal=(1, 4096), search=(2, 32), scale="log", help="Labeled images per step.")
    crop_size: int = knob(256, legal=(16, 4096), search=(128, 512), unit="pixels", help="Side of a crop.")
    eval_every_steps: int = knob(
        500, legal=(1, 10**9), unit="steps", in_steps=True, searchable=False, why_not=_YARDSTICK,
        help="Steps between evaluations.",
    )  # fmt: skip
    checkpoint_every_steps: int | None = knob(
        None, legal=(1, 10**9), unit="steps", searchable=False, why_not="it changes no result",
        help="Steps between checkpoints; left out: at every evaluation.",
    )  # fmt: skip
    patience: int = knob(
        15, legal=(0, 10**6), search=(5, 60), unit="evaluations",
        help="Evaluations without a better value after which the run stops; 0 = never.",
        caution="more patience never lowers a best-so-far value: search it only against cost (search.budget)",
    )  # fmt: skip
    patience_action: Literal["stop", "warn"] = knob(
        "stop", searchable=False, why_not=_YARDSTICK, help="What patience does."
    )
    architecture: str = knob("deeplabv3plus", help="Network; any architecture that smp offers, or deeplabv2.")
    encoder: str = knob("resnet50", help="Encoder; any encoder that smp offers.")
    encoder_weights: str | None = knob(
        "imagenet", help="imagenet, null (random), or a file of weights for the encoder."
    )
    init_from: str | None = knob(
        None, searchable=False, why_not="it names a file", help="A file of network weights to start from."
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    grad_clip: float = knob(
        10.0, legal=(0.0, 1e6), search=(0.1, 50.0), scale="log", help="Largest gradient norm; 0 = no clipping."
    )  # fmt: skip
    amp: Literal["auto", "bf16", "off"] = knob(
        "auto", searchable=False, why_not="it is a matter of the device",
        help="bf16 autocast; auto: where the device is fast at it.",
    )  # fmt: skip
    exclude_classes: tuple[str, ...] = knob(
        (), searchable=False, why_not=_YARDSTICK, help="Classes left out of the mIoU."
    )
    augment: ViewConfig = ViewConfig()
    health: HealthConfig = HealthConfig()

    @model_validator(mode="after")
    def _legal(self) -> Self:
        problems = list(self.conflicts())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def conflicts(self) -> Iterable[str]:
        """What two knobs together break; a recipe adds its own."""
        if self.optimizer.warmup_steps >= self.steps:
            yield (
                "optimizer.warmup_steps must be below steps, but got "
                f"optimizer.warmup_steps={self.optimizer.warmup_steps}, steps={self.steps}"
            )


class LabeledRecipeConfig(RecipeConfig):
    """The knobs of a softmax network that learns from labeled images, and of its running average."""

    ema_decay: float = knob(
        0.999, legal=(0.0, 1.0), search=(0.9, 0.9999), scale="log1m", horizon=True,
        help="Decay of the averaged network, of parameters and buffers.",
    )  # fmt: skip
    loss: LossConfig = LossConfig()
    scale_min: int = knob(
        256, legal=(16, 8192), search=(192, 320), unit="pixels", in_pixels=True,
        help="Smallest side of the labeled batch on a multi-scale step.",
    )  # fmt: skip
    scale_max: int = knob(
        384, legal=(16, 8192), search=(256, 512), unit="pixels", in_pixels=True,
        help="Largest side of the labeled batch on a multi-scale step.",
    )  # fmt: skip
    scale_every_steps: int = knob(
        10, legal=(0, 10**9), search=(1, 20), unit="steps",
        help="Every how many steps the labeled batch changes size; 0 = never.",
    )  # fmt: skip

    def conflicts(self) -> Iterable[str]:
        yield from super().conflicts()
        if self.scale_min > self.scale_max:
            yield (
                f"scale_min must not exceed scale_max, but got scale_min={self.scale_min}, scale_max={self.scale_max}"
            )


class PixelRecipeConfig(LabeledRecipeConfig):
    """The knobs that every recipe with pixel-level pseudo-labels shares."""

    unlabeled_batch_size: int | None = knob(
        None, legal=(1, 4096), searchable=False, why_not="it follows batch_size",
        help="Unlabeled images per step; left out: batch_size.",
    )  # fmt: skip
    st: SelfTrainingConfig = SelfTrainingConfig()
    threshold: PerClass[Probability] = knob(
        0.95, legal=(0.0, 1.0), search=(0.2, 0.99), unit="probability", acts_from="self_training", each=True,
        help="A pixel of a class becomes a pseudo-label where its probability exceeds this.",
    )  # fmt: skip
    augment: AugmentConfig = AugmentConfig()


class RunConfig(Section):
    """One run: what `train` takes and `export` writes.

    Attributes:
        objective: the metric by which its best model is kept and patience counts; null: the recipe's own.
        direction: `max` or `min`; null: as the metric has it.
    """

    name: str
    recipe: str
    preset: str | None = None
    data: DataConfig
    train: dict[str, Any] = Field(default_factory=dict)
    objective: str | None = Field(None, min_length=1)
    direction: Literal["max", "min"] | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    provenance: dict[str, Any] | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys.

    >>> flatten({"optimizer": {"lr": 0.1}, "steps": 5})
    {'optimizer.lr': 0.1, 'steps': 5}
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings; the inverse of `flatten`.

    >>> unflatten({"optimizer.lr": 0.1, "steps": 5})
    {'optimizer': {'lr': 0.1}, 'steps': 5}
    """
    nested: dict[str, Any] = {}
    for dotted, value in flat.items():
        *parents, last = dotted.split(".")
        level = nested
        for part in parents:
            level = level.setdefault(part, {})
        level[last] = value
    return nested


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, mapping by mapping; a number replaces a mapping whole.

    >>> merge({"threshold": {"default": 0.6}}, {"threshold": {"road": 0.7}})
    {'threshold': {'default': 0.6, 'road': 0.7}}
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value)
        elif isinstance(value, Mapping) and isinstance(below, int | float) and not isinstance(below, bool):
            merged[key] = {DEFAULT_CLASS: below, **value}
        else:
            merged[key] = value
    return merged


def per_class(value: Mapping[str, float], class_names: Iterable[str]) -> tuple[float, ...]:
    """One number per class, in class order.

    Raises:
        KeyError: a class has neither its own number nor a `default`.

    >>> per_class({"default": 0.6, "road": 0.7}, ["water", "road"])
    (0.6, 0.7)
    """
    return tuple(value[c] if c in value else value[DEFAULT_CLASS] for c in class_names)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint with the nearest known name, or the empty string.

    >>> nearest("stepz", ["steps", "patience"])
    "; did you mean 'steps'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


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
        else:
            faults.append(Fault(place, f"{message[0].lower()}{message[1:]}, but got {dotted.split('.')[-1]}={given!r}"))
    return faults


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
    faults, made = _validated(config, nested, base, where, knobs)
    if names:
        faults += _class_faults(nested, knobs, names, where)
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
