"""V2 of the land-cover system: s4GAN with ten changes for stability, each of which can be switched off alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from torch import nn

from trainable import ema, schedules
from trainable.config import PixelRecipeConfig, RecipeConfig, SelfTrainingConfig
from trainable.knob import knob, redeclared
from trainable.recipes.adversarial import (
    Adversarial,
    AdversarialConfig,
    AdversarialOptimizerConfig,
    AdversarialSelfTrainingConfig,
)
from trainable.recipes.interface import Batch, Nets, Opt, Preset, Sched, StepOut
from trainable.recipes.s4gan import AS_PUBLISHED


class S4ganV2SelfTrainingConfig(AdversarialSelfTrainingConfig):
    """When and how strongly selected images act."""

    start_step: int = redeclared(SelfTrainingConfig, "start_step", 500)
    weight_init: float = knob(
        0.1, legal=(0.0, 100.0), search=(0.0, 1.0), acts_from="self_training",
        help="Where the weight's line starts, at step 0 of the run.",
    )  # fmt: skip
    ramp_steps: int = redeclared(
        SelfTrainingConfig, "ramp_steps", 20_000, search=(0, 50_000),
        help="Steps of the run, from its first, over which the weight rises from st.weight_init to st.weight.",
    )  # fmt: skip


class S4ganV2Config(AdversarialConfig):
    """Knobs of `s4gan_v2`."""

    patience: int = redeclared(RecipeConfig, "patience", 10)
    patience_action: Literal["stop", "warn"] = redeclared(RecipeConfig, "patience_action", "warn")
    grad_clip: float = redeclared(AdversarialConfig, "grad_clip", 10.0)
    optimizer: AdversarialOptimizerConfig = AdversarialOptimizerConfig(schedule="cosine", warmup_steps=1000)
    st: S4ganV2SelfTrainingConfig = S4ganV2SelfTrainingConfig()
    ema_decay: float = redeclared(PixelRecipeConfig, "ema_decay", 0.999)
    ema_buffers: Literal["average", "copy"] = knob(
        "average", help="Running statistics of the averaged network: averaged, too, or the newest network's own."
    )
    d_threshold: float = redeclared(
        AdversarialConfig, "d_threshold", 0.2, search=(0.05, 0.9),
        help="The score that an image must exceed from d_threshold_ramp_steps on.",
    )  # fmt: skip
    d_threshold_init: float = knob(
        0.05, legal=(0.0, 1.0), search=(0.01, 0.5), unit="discriminator score", acts_from="self_training",
        help="The score that an image must exceed at step 0; it moves to d_threshold in a line.",
    )  # fmt: skip
    d_threshold_ramp_steps: int = knob(
        30_000, legal=(0, 10**9), search=(5000, 50_000), unit="steps", in_steps=True, acts_from="self_training",
        help="Steps until the line has reached d_threshold; 0 = d_threshold from the start.",
    )  # fmt: skip
    d_image_norm: Literal["batch_minmax", "per_image_minmax", "legacy"] = redeclared(
        AdversarialConfig, "d_image_norm", "per_image_minmax"
    )
    d_warmup_steps: int = redeclared(AdversarialConfig, "d_warmup_steps", 500)


_V2: dict[str, Any] = AS_PUBLISHED | {
    "steps": 50_000, "eval_every_steps": 500, "batch_size": 8, "crop_size": 256, "grad_clip": 10.0,
    "optimizer.schedule": "cosine", "optimizer.warmup_steps": 1000, "optimizer.head_bias_lr_mult": 2.0,
    "optimizer.head_bias_decay": False, "ema_decay": 0.999, "d_threshold_init": 0.05, "d_threshold": 0.20,
    "d_threshold_ramp_steps": 30_000, "d_warmup_steps": 500, "st.start_step": 500, "st.weight_init": 0.1,
    "st.weight": 1.0, "st.ramp_steps": 20_000, "patience": 10, "patience_action": "warn", "health.gap_warn": 0.10,
    "d_image_norm": "per_image_minmax",
}  # fmt: skip


class S4ganV2(Adversarial[S4ganV2Config]):
    """s4GAN with clipping, warm-ups, ramps, an average that is evaluated, and monitors."""

    name: ClassVar[str] = "s4gan_v2"
    about: ClassVar[str] = "s4gan with gradient clipping, warm-ups, a moving score threshold and weight, and EMA"
    source: ClassVar[str] = "V2 of the land-cover system"
    slots: ClassVar[Mapping[str, str]] = {
        "networks": "net, ema (evaluated), d (discriminator)", "targets": "image, by the discriminator's score",
        "threshold": "d_threshold_init to d_threshold, linear",
        "loss": "ce + fm_weight fm + st.weight (ramped) ce of selected images; bce of d",
        "schedule": "cosine + warm-up",
    }  # fmt: skip
    config: ClassVar[type[S4ganV2Config]] = S4ganV2Config
    presets: ClassVar[Mapping[str, Preset]] = {
        "V2": Preset(_V2, "V2 of the land-cover system: score above 0.05, rising to 0.20 over 60 % of the run"),
        "legacy_cmd": Preset(
            _V2 | {"d_threshold": 0.10, "encoder_weights": None, "bn_momentum": 0.999, "ema_buffers": "copy"},
            "V2 as its own command ran it: rising to 0.10, random weights, batch norm of the last batch",
        ),
    }  # fmt: skip

    @property
    def evaluated(self) -> str:
        """The average."""
        return "ema"

    def build(self) -> dict[str, nn.Module]:
        """The networks by name, and the average of the segmentation network."""
        nets = super().build()
        return nets | {"ema": ema.copy_of(nets["net"])}

    def d_threshold(self, step: int) -> float:
        """A line from `d_threshold_init` to `d_threshold`."""
        cfg = self.cfg
        return schedules.linear_ramp(step, cfg.d_threshold_init, cfg.d_threshold, cfg.d_threshold_ramp_steps)

    def st_weight(self, step: int) -> float:
        """0 before `st.start_step`, then on the line from `st.weight_init` at step 0 to `st.weight`."""
        st = self.cfg.st
        if step < st.start_step:
            return 0.0
        return schedules.linear_ramp(step, st.weight_init, st.weight, st.ramp_steps)

    def schedules(self) -> dict[str, Callable[[int], float]]:
        """Those of the family, and the decay of the average."""
        return super().schedules() | {"ema_decay": lambda step: self.cfg.ema_decay}

    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        """A step of the family; the average follows."""
        out = super().step(nets, batch, sched, opt)
        ema.update(nets["ema"], nets["net"], sched["ema_decay"], buffers=self.cfg.ema_buffers)
        return out
