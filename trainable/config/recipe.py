"""The knobs that recipes share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import model_validator

from trainable.knob import PerClass, Probability, Section, knob


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
    schedule: Literal["cosine", "poly", "step_poly", "warm_restarts", "plateau", "constant"] = knob(
        "cosine", help="Decay after the warm-up; each but cosine and constant has numbers of its own below."
    )
    power: float = knob(0.9, legal=(0.0, 10.0), search=(0.5, 2.0), help="Exponent of poly and step_poly.")
    poly_every_steps: int = knob(10, legal=(1, 10**6), unit="steps", help="step_poly changes at multiples of this.")
    restart_steps: int = knob(
        1000, legal=(1, 10**9), search=(200, 5000), unit="steps", in_steps=True,
        help="Steps of the first cosine of warm_restarts, after which the rate starts anew.",
    )  # fmt: skip
    restart_growth: int = knob(2, legal=(1, 10), search=(1, 3), help="How many times as long each further cosine is.")
    restart_floor: float = knob(
        1e-3, legal=(0.0, 1.0), search=(1e-4, 1e-1), scale="log", help="Lowest rate of a cosine, over lr."
    )
    plateau_factor: float = knob(
        0.5, legal=(0.01, 1.0), search=(0.1, 0.8),
        help="What plateau multiplies the rate by where the watched metric stops improving; 1 = never cut.",
    )  # fmt: skip
    plateau_patience: int = knob(
        5, legal=(0, 10**6), search=(2, 20), unit="evaluations",
        help="Evaluations without an improvement before plateau cuts.",
    )  # fmt: skip


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
        help="Half-range of brightness, contrast and saturation; hue turns by up to half as much of its circle.",
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
    cutmix_boxes: int = knob(
        1, legal=(1, 16), search=(1, 4), acts_from="self_training", unit="boxes",
        help="Boxes that are pasted: one of 2 to 40 % of the image, or several of 25 to 50 % together.",
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
    architecture: str = knob(
        "deeplabv3plus", help="Network; any architecture that smp offers, deeplabv2, or plain_unet."
    )
    encoder: str = knob("resnet50", help="Encoder; any encoder that smp offers, or width64 for plain_unet.")
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
