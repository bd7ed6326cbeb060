"""The knobs of the surface recipe, but those of its loss."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from trainable.config import OptimizerConfig, RecipeConfig
from trainable.knob import Section, knob, redeclared
from trainable.recipes.binary import LabeledAugmentConfig
from trainable.recipes.surface_parts import SurfaceLossConfig, SurfacePostConfig


class VolumeNetworkConfig(Section):
    """The network for volumes; images take `architecture` and `encoder`."""

    filters: Literal[8, 16, 32, 48] = knob(32, help="Channels of the finest level.")
    depth: int = knob(5, legal=(2, 6), search=(3, 5), help="How often the sides are halved.")
    overlap: float = knob(
        0.25, legal=(0.0, 0.9), searchable=False, why_not="it is part of the evaluation",
        help="Share of a window that neighboring ones have in common when a volume is predicted.",
    )  # fmt: skip


class SurfaceAugmentConfig(LabeledAugmentConfig):
    """Which crops are taken, and how they are changed before they are learned from."""

    blur_p: float = redeclared(LabeledAugmentConfig, "blur_p", 0.0)
    noise_min: float = redeclared(LabeledAugmentConfig, "noise_min", 0.0, search=(0.0, 0.005))
    noise_max: float = redeclared(LabeledAugmentConfig, "noise_max", 0.01, search=(0.005, 0.05))
    rot90_p: float = knob(
        0.5, legal=(0.0, 1.0), search=(0.0, 1.0), help="Chance of one to three quarter turns of the last two axes."
    )
    clip_percent: float = knob(
        0.5, legal=(0.0, 49.0), search=(0.1, 5.0), unit="percent",
        help="What is cut off at both ends of the brightness of a crop, a window or an image before it is stretched to "
        "the whole range; 0 = its extremes.",
    )  # fmt: skip
    balance_tries: int = knob(
        10, legal=(1, 1000), search=(1, 20), help="Random crops, of which the best by foreground share is taken."
    )
    balance_min: float = knob(
        0.3, legal=(0.0, 1.0), search=(0.01, 0.3), help="Least foreground share of a crop that is taken at once."
    )
    balance_max: float = knob(
        0.7, legal=(0.0, 1.0), search=(0.3, 0.9), help="Largest foreground share of a crop that is taken at once."
    )

    @model_validator(mode="after")
    def _balance_ordered(self) -> Self:
        if self.balance_min > self.balance_max:
            raise ValueError(
                f"balance_min must not exceed balance_max, but got balance_min={self.balance_min}, "
                f"balance_max={self.balance_max}"
            )
        return self


class SurfaceConfig(RecipeConfig):
    """Knobs of `surface`."""

    steps: int = redeclared(RecipeConfig, "steps", 30_000)
    batch_size: int = redeclared(RecipeConfig, "batch_size", 4)
    crop_size: int = redeclared(RecipeConfig, "crop_size", 128, search=(64, 192))
    patience: int = redeclared(RecipeConfig, "patience", 50)
    architecture: str = redeclared(RecipeConfig, "architecture", "unet")
    encoder: str = redeclared(RecipeConfig, "encoder", "resnet34")
    grad_clip: float = redeclared(RecipeConfig, "grad_clip", 1.0)
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", lr=1e-2, weight_decay=1e-5, head_lr_mult=1.0, warmup_steps=500, schedule="plateau"
    )
    loss: SurfaceLossConfig = SurfaceLossConfig()
    unlabeled_as: Literal["ignore", "foreground", "background"] = knob(
        "ignore", help="How voxels without a label count in training; evaluation always ignores them.",
        caution="foreground and background teach the network what nobody marked",
    )  # fmt: skip
    volume: VolumeNetworkConfig = VolumeNetworkConfig()
    post: SurfacePostConfig = SurfacePostConfig()
    augment: SurfaceAugmentConfig = SurfaceAugmentConfig()
