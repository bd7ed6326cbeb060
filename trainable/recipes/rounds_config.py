"""The knobs of self-training in rounds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import model_validator

from trainable.config import OptimizerConfig, RecipeConfig
from trainable.knob import Section, knob, redeclared
from trainable.recipes.binary import LabeledAugmentConfig

_FLAW = "it reproduces a flaw"


class RoundsConfig(Section):
    """How many rounds, how long, and what becomes a label in them."""

    number: int = knob(3, legal=(1, 20), search=(1, 5), help="Rounds of self-training.")
    init_share: float = knob(
        0.5263, legal=(0.01, 0.99), search=(0.3, 0.9),
        help="Share of the steps that goes to the supervised beginning; the rounds share the rest.",
    )  # fmt: skip
    lr: float = knob(
        1e-3, legal=(0.0, 10.0), search=(1e-5, 1e-2), scale="log", acts_from="self_training",
        help="Constant learning rate of every round's Adam.",
    )  # fmt: skip
    reinit: bool = knob(False, acts_from="self_training", help="Whether each round starts from a new network.")
    keep_original_negatives: bool = knob(
        False, acts_from="self_training",
        help="Whether what was not marked stays negative whatever the network says of it.",
    )  # fmt: skip
    legacy_augmented_targets: bool = knob(
        False, searchable=False, why_not=_FLAW, acts_from="self_training",
        help="Predict a round's targets on augmented images, and take them for targets of the images as stored.",
    )  # fmt: skip
    legacy_static_ignore: bool = knob(
        False, searchable=False, why_not=_FLAW, acts_from="self_training",
        help="Move what has no label along as negative, and ignore the places where it was before.",
    )  # fmt: skip


class RoundThresholdConfig(Section):
    """Above the one a pixel becomes positive, below the other negative; both relax from round to round."""

    positive: float = knob(
        0.95, legal=(0.5, 0.9999), search=(0.7, 0.99), unit="probability", acts_from="self_training",
        help="Above it a pixel becomes positive in the first round.",
    )  # fmt: skip
    negative: float = knob(
        0.05, legal=(0.0001, 0.5), search=(0.01, 0.3), unit="probability", acts_from="self_training",
        help="Below it a pixel becomes negative in the first round.",
    )  # fmt: skip
    decay: float = knob(
        0.02, legal=(0.0, 0.5), search=(0.0, 0.05), unit="probability", acts_from="self_training",
        help="How far both move towards each other per round.",
    )  # fmt: skip
    positive_floor: float = knob(
        0.80, legal=(0.5, 0.9999), search=(0.5, 0.95), unit="probability", acts_from="self_training",
        help="The least that the positive threshold becomes.",
    )  # fmt: skip
    negative_ceiling: float = knob(
        0.20, legal=(0.0001, 0.499), search=(0.05, 0.49), unit="probability", acts_from="self_training",
        help="The most that the negative threshold becomes.",
    )  # fmt: skip


class RoundLossConfig(Section):
    """The combined loss."""

    focal: float = knob(0.7, legal=(0.0, 100.0), search=(0.0, 1.0), help="Weight of the focal loss.")
    dice: float = knob(0.3, legal=(0.0, 100.0), search=(0.0, 1.0), help="Weight of the loss of the region.")
    region: Literal["dice", "tversky"] = knob(
        "dice", help="The loss of the region: Dice, or Tversky with a price for each kind of error."
    )
    tversky_alpha: float = knob(
        0.3, legal=(0.0, 10.0), search=(0.1, 0.9), help="Tversky's price of a false positive."
    )
    tversky_beta: float = knob(
        0.7, legal=(0.0, 10.0), search=(0.1, 0.9), help="Tversky's price of a false negative."
    )
    focal_alpha: float = knob(0.25, legal=(0.0, 1.0), search=(0.05, 0.95), help="Focal weight of the positive class.")
    focal_gamma: float = knob(2.0, legal=(0.0, 10.0), search=(0.0, 5.0), help="Focusing exponent of the focal loss.")
    pos_weight: float = knob(
        1.0, legal=(0.01, 1000.0), search=(1.0, 50.0), scale="log", help="Factor of positive pixels in the focal loss."
    )

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if self.focal + self.dice <= 0:
            raise ValueError("the weights focal and dice must not both be 0; set at least one above 0")
        return self


class PickingConfig(Section):
    """How particles are picked from a probability map, to be scored against the coordinates."""

    radius: int | None = knob(
        None, legal=(1, 1000), searchable=False, why_not="it follows data.points.radius",
        help="Radius of a particle in pixels; left out: that of the discs.",
    )  # fmt: skip
    threshold: float = knob(
        0.5, legal=(0.0, 1.0), search=(0.1, 0.9), unit="probability", help="A picked particle scores more than this.",
        caution="acts on val/particle_* alone, not on the objective",
    )  # fmt: skip


class RoundAugmentConfig(LabeledAugmentConfig):
    """How images are changed before they are learned from; labels move along."""

    rotate_p: float = knob(0.5, legal=(0.0, 1.0), search=(0.0, 1.0), help="Chance of a rotation.")
    rotate_degrees: float = knob(
        15.0, legal=(0.0, 180.0), search=(5.0, 45.0), unit="degrees", help="Largest rotation, either way."
    )
    elastic_p: float = knob(0.25, legal=(0.0, 1.0), search=(0.0, 1.0), help="Chance of an elastic bend.")
    elastic_alpha: float = knob(
        50.0, legal=(0.0, 10_000.0), search=(10.0, 100.0), unit="pixels",
        help="Largest displacement of the elastic bend before it is smoothed.",
    )  # fmt: skip
    elastic_sigma: float = knob(
        5.0, legal=(0.5, 100.0), search=(3.0, 10.0), unit="pixels", help="Width over which the bend is smoothed."
    )
    ice_p: float = knob(
        0.10, legal=(0.0, 1.0), search=(0.0, 0.5), help="Chance of up to three discs of ice or dirt over the image."
    )
    standardize: bool = knob(
        True, help="Scale every image by its own mean and deviation instead of ImageNet's; also where it is predicted."
    )


class SelfTrainingRoundsConfig(RecipeConfig):
    """Knobs of `self_training_rounds`."""

    steps: int = redeclared(RecipeConfig, "steps", 19_000)
    batch_size: int = redeclared(RecipeConfig, "batch_size", 16, search=(4, 128))
    patience: int = redeclared(RecipeConfig, "patience", 0)
    architecture: str = redeclared(RecipeConfig, "architecture", "unet")
    encoder: str = redeclared(RecipeConfig, "encoder", "resnet34")
    grad_clip: float = redeclared(RecipeConfig, "grad_clip", 0.0)
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", lr=1e-3, weight_decay=1e-4, head_lr_mult=1.0, warmup_steps=0, schedule="warm_restarts"
    )
    loss: RoundLossConfig = RoundLossConfig()
    rounds: RoundsConfig = RoundsConfig()
    threshold: RoundThresholdConfig = RoundThresholdConfig()
    picking: PickingConfig = PickingConfig()
    augment: RoundAugmentConfig = RoundAugmentConfig()

    def conflicts(self) -> Iterable[str]:
        """Those of every recipe, and fewer steps than phases."""
        yield from super().conflicts()
        if self.steps <= self.rounds.number:
            yield f"steps must be above rounds.number, but got steps={self.steps}, rounds.number={self.rounds.number}"
