"""Cross pseudo supervision: two networks from different starts label the unlabeled images for each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from trainable.config import AugmentConfig, LossConfig, OptimizerConfig, SelfTrainingConfig
from trainable.knob import PerClass, Probability, knob, redeclared
from trainable.recipes.interface import Batch, Nets, Opt, Phase, Preset, Sched, StepOut
from trainable.recipes.pixel import optimizer_spec
from trainable.recipes.selection import SelectingConfig, SelectingRecipe, mixed


class CPSConfig(SelectingConfig):
    """Knobs of `cps`."""

    optimizer: OptimizerConfig = OptimizerConfig(
        lr=2.5e-3, head_lr_mult=1.0, weight_decay=1e-4, warmup_steps=0, schedule="poly"
    )
    grad_clip: float = redeclared(SelectingConfig, "grad_clip", 0.0)
    loss: LossConfig = LossConfig(ce=1.0, dice=0.0, focal=0.0, class_weights="none")
    st: SelfTrainingConfig = SelfTrainingConfig(start_step=0)
    threshold: PerClass[Probability] = redeclared(SelectingConfig, "threshold", 0.0)
    augment: AugmentConfig = AugmentConfig(
        zoom_max=2.0, jitter_p=0.0, gray_p=0.0, blur_p=0.0, cutmix_p=1.0, cutmix_boxes=3
    )
    scale_every_steps: int = redeclared(SelectingConfig, "scale_every_steps", 0)
    ema_decay: float = redeclared(
        SelectingConfig, "ema_decay", 0.0, search=None, searchable=False, why_not="nothing here is averaged",
        help="Without effect: nothing here is averaged.",
    )  # fmt: skip
    evaluate: Literal["first", "mean"] = knob(
        "first", searchable=False, why_not="it changes what is measured",
        help="Evaluate and export the first network, or the mean of both networks' probabilities.",
    )  # fmt: skip


class Pair(nn.Module):
    """Two networks as one, whose prediction is the logarithm of the mean of their probabilities."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, image: Tensor) -> Tensor:
        """Log-probabilities, float32[B, C, *S]."""
        mean: Tensor = (self.first(image).float().softmax(1) + self.second(image).float().softmax(1)) / 2
        return mean.clamp_min(1e-12).log()


_VOC = {
    "architecture": "deeplabv3plus", "encoder": "resnet50", "crop_size": 512, "batch_size": 16, "steps": 19_652,
    "eval_every_steps": 578, "patience": 0, "optimizer.name": "sgd", "optimizer.lr": 5e-3,
    "optimizer.head_lr_mult": 1.0, "optimizer.momentum": 0.9, "optimizer.weight_decay": 1e-4,
    "optimizer.schedule": "poly", "optimizer.power": 0.9, "optimizer.warmup_steps": 0, "grad_clip": 0.0,
    "st.weight": 1.0, "threshold": 0.0, "augment.zoom_min": 0.5,
    "augment.zoom_max": 2.0, "augment.cutmix_p": 1.0, "augment.cutmix_boxes": 3,
}  # fmt: skip
_CITYSCAPES = _VOC | {
    "crop_size": 800, "steps": 22_194, "eval_every_steps": 810, "optimizer.lr": 4e-2, "st.weight": 5.0,
}  # fmt: skip


class CPS(SelectingRecipe[CPSConfig]):
    """Each network learns the other's labels of the unlabeled images, after CutMix, without a threshold.

    Both networks start from the same encoder weights where those are pretrained, and differ in everything else. They
    label in evaluation mode. CutMix pastes three boxes of the next image. Counts and thresholds are those of the labels
    that the first network learns.
    """

    name: ClassVar[str] = "cps"
    about: ClassVar[str] = "two networks from different starts label the unlabeled images for each other"
    source: ClassVar[str] = "Cross Pseudo Supervision (arXiv 2106.01226)"
    slots: ClassVar[Mapping[str, str]] = {
        "networks": "net (evaluated), second; or the mean of both", "targets": "pixel, the other network's labels",
        "threshold": "none, or any mode", "loss": "ce of both + st.weight * ce of both", "schedule": "poly",
    }  # fmt: skip
    config: ClassVar[type[CPSConfig]] = CPSConfig
    metrics: ClassVar[tuple[str, ...]] = (*SelectingRecipe.metrics, "lr/second")
    presets: ClassVar[Mapping[str, Preset]] = {
        "VOC": Preset(_VOC, "PASCAL VOC with 1/8 of the labels: 34 epochs of the 9,260 other images, batch 16 + 16"),
        "Cityscapes": Preset(
            _CITYSCAPES, "Cityscapes with 1/8 of the labels: 137 epochs of the 2,604 other images, weight 5"
        ),
    }  # fmt: skip
    labelers: ClassVar[tuple[str, ...]] = ("net", "second")
    scheduled: ClassVar[tuple[str, ...]] = ("net", "second")

    @property
    def evaluated(self) -> str:
        """The first network, or both."""
        return "net" if self.cfg.evaluate == "first" else "pair"

    @property
    def teacher(self) -> str:
        """Whose labels the first network learns."""
        return "second"

    def build(self) -> dict[str, nn.Module]:
        """Two networks, and both as one where they are evaluated so."""
        net, second = self.network(), self.network()
        # The loop sets modes in this order, so what both share must come before them.
        pair = {} if self.cfg.evaluate == "first" else {"pair": Pair(net, second)}
        return {**pair, "net": net, "second": second}

    def phases(self) -> Sequence[Phase]:
        """One phase with an optimizer for each network."""
        told: dict[str, Callable[[int], float]] = {"st.weight": self.st_weight, **self.selection_schedules()}
        return [
            Phase(
                name="cross_supervision", steps=self.cfg.steps,
                streams=(self.labeled_stream(), self.unlabeled_stream()),
                optimizers={name: optimizer_spec(self.cfg, name) for name in ("net", "second")}, schedules=told,
            )
        ]  # fmt: skip

    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        """L = labeled of both + st.weight * (the first on the second's labels + the second on the first's)."""
        labeled, unlabeled = batch["labeled"], batch.get("unlabeled")
        both = (nets["net"], nets["second"])
        if unlabeled is None:
            parts = [self.labeled_loss(self.heads(net, labeled.image).mean(0), labeled.label) for net in both]
            supervised = parts[0] + parts[1]
            out = StepOut({"loss/total": supervised, "loss/sup": supervised})
        else:
            by_second, by_first = (
                self.select(self.teach(nets[name], unlabeled.image), unlabeled.valid, sched, name)
                for name in ("second", "net")
            )
            supervised = self_training = labeled.image.new_zeros(())
            for net, target, labeler in ((both[0], by_second, "second"), (both[1], by_first, "net")):
                heads, student = self.both(net, labeled.image, unlabeled.strong[0])
                supervised = supervised + self.labeled_loss(heads.mean(0), labeled.label)
                there = mixed(target, unlabeled.boxes[0])
                self_training = self_training + self.self_training_loss(student, there, labeler)
            total = supervised + sched["st.weight"] * self_training
            out = StepOut({"loss/total": total, "loss/sup": supervised, "loss/st": self_training}, by_second)
        torch.autograd.backward(out.losses["loss/total"])
        for name in ("net", "second"):
            opt[name].step()
        return out
