"""Mean Teacher: the student's probabilities on a strong view follow those of its average on the weak view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch

from trainable import ema, losses, schedules
from trainable.config import AugmentConfig, LossConfig, OptimizerConfig, SelfTrainingConfig
from trainable.data.augment import mix
from trainable.knob import PerClass, Probability, redeclared
from trainable.recipes.interface import Batch, Nets, Opt, Phase, Preset, Sched, StepOut
from trainable.recipes.pixel import optimizer_spec
from trainable.recipes.selection import SelectingConfig, SelectingRecipe, SelectionConfig, mixed


class ConsistencyConfig(SelfTrainingConfig):
    """When and how strongly the consistency acts."""

    ramp_steps: int = redeclared(
        SelfTrainingConfig, "ramp_steps", 10_000,
        help="Steps over which the weight rises along exp(-5 (1 - t)^2) from st.start_step.",
    )  # fmt: skip
    weight: float = redeclared(
        SelfTrainingConfig, "weight", 30.0, search=(1.0, 100.0),
        help="Weight of the squared distance, which is a mean over classes: 100 at 21 classes weighs like 33 at 7.",
    )  # fmt: skip


class MeanTeacherConfig(SelectingConfig):
    """Knobs of `mean_teacher`."""

    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, weight_decay=1e-4, warmup_steps=0, schedule="poly")
    grad_clip: float = redeclared(SelectingConfig, "grad_clip", 0.0)
    loss: LossConfig = LossConfig(ce=1.0, dice=0.0, focal=0.0, class_weights="none")
    st: ConsistencyConfig = ConsistencyConfig(start_step=0)
    ema_decay: float = redeclared(SelectingConfig, "ema_decay", 0.99)
    threshold: PerClass[Probability] = redeclared(SelectingConfig, "threshold", 0.0)
    selection: SelectionConfig = SelectionConfig(normalize="all")
    augment: AugmentConfig = AugmentConfig(zoom_max=2.0, cutmix_p=0.0)
    scale_every_steps: int = redeclared(SelectingConfig, "scale_every_steps", 0)


_VOC = {
    "architecture": "deeplabv3plus", "encoder": "resnet50", "crop_size": 512, "batch_size": 16, "steps": 19_652,
    "eval_every_steps": 578, "patience": 0, "optimizer.name": "sgd", "optimizer.lr": 5e-3,
    "optimizer.head_lr_mult": 1.0, "optimizer.momentum": 0.9, "optimizer.weight_decay": 1e-4,
    "optimizer.schedule": "poly", "optimizer.power": 0.9, "optimizer.warmup_steps": 0, "grad_clip": 0.0,
    "ema_decay": 0.99, "st.weight": 100.0, "st.ramp_steps": 0,
    "threshold": 0.0, "augment.zoom_min": 0.5, "augment.zoom_max": 2.0, "augment.jitter_p": 0.0, "augment.gray_p": 0.0,
    "augment.blur_p": 0.0, "augment.cutmix_p": 0.0,
}  # fmt: skip


class MeanTeacher(SelectingRecipe[MeanTeacherConfig]):
    """The average's probabilities on the weak view are what the student must give on a strong view.

    The squared distance of the two softmaxes is a mean over the C classes and over all pixels that are not padding.
    All pixels count unless a threshold mode says otherwise. The teacher predicts in evaluation mode, and the labeled
    images take no part in the consistency.
    """

    name: ClassVar[str] = "mean_teacher"
    about: ClassVar[str] = "the student's probabilities follow those of its average, by squared distance"
    source: ClassVar[str] = "Mean Teacher (arXiv 1703.01780)"
    slots: ClassVar[Mapping[str, str]] = {
        "networks": "net, ema (teacher, evaluated)", "targets": "probabilities of the average on the weak view",
        "threshold": "none, or any mode", "loss": "ce + st.weight * squared distance of softmaxes", "schedule": "poly",
    }  # fmt: skip
    config: ClassVar[type[MeanTeacherConfig]] = MeanTeacherConfig
    presets: ClassVar[Mapping[str, Preset]] = {
        "VOC": Preset(
            _VOC, "PASCAL VOC with 1/8 of the labels, as the code of CPS (arXiv 2106.01226) runs it: weight 100"
        ),
        "CutMix": Preset(
            {"augment.cutmix_p": 1.0, "augment.jitter_p": 0.0, "augment.gray_p": 0.0, "augment.blur_p": 0.0},
            "CutMix as the only perturbation, after French et al. (arXiv 1906.01916)",
        ),
    }  # fmt: skip

    def ema_decay(self, step: int) -> float:
        """min(1 - 1 / (step + 1), ema_decay): the first step copies the network."""
        return min(1.0 - 1.0 / (step + 1), self.cfg.ema_decay)

    def st_weight(self, step: int) -> float:
        """`st.weight`, after a sigmoid ramp-up of `st.ramp_steps` from `st.start_step`."""
        st = self.cfg.st
        return st.weight * schedules.sigmoid_ramp_up(step, st.ramp_steps, st.start_step)

    def phases(self) -> Sequence[Phase]:
        """One phase; unlabeled images join at `st.start_step`."""
        told: dict[str, Callable[[int], float]] = {"ema_decay": self.ema_decay, "st.weight": self.st_weight}
        return [
            Phase(
                name="consistency", steps=self.cfg.steps, streams=(self.labeled_stream(), self.unlabeled_stream()),
                optimizers={"net": optimizer_spec(self.cfg, "net")}, schedules=told | dict(self.selection_schedules()),
            )
        ]  # fmt: skip

    @property
    def teacher(self) -> str:
        return "ema"

    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        """L = labeled + st.weight * squared distance; then the average moves on."""
        labeled, unlabeled = batch["labeled"], batch.get("unlabeled")
        net = nets["net"]
        if unlabeled is None:
            supervised = self.labeled_loss(self.heads(net, labeled.image).mean(0), labeled.label)
            out = StepOut({"loss/total": supervised, "loss/sup": supervised})
        else:
            probabilities = self.teach(nets[self.teacher], unlabeled.image)
            target = self.select(probabilities, unlabeled.valid, sched)
            heads, student = self.both(net, labeled.image, unlabeled.strong[0])
            supervised = self.labeled_loss(heads.mean(0), labeled.label)
            box = unlabeled.boxes[0]
            there = mixed(target, box)
            distance = losses.softmax_mse(
                student, mix(probabilities, box), pixel_weight=there.weight, valid=there.valid,
                normalize=self.cfg.selection.normalize,
            )  # fmt: skip
            self_training = distance + self.fairness_loss(student, there)
            total = supervised + sched["st.weight"] * self_training
            out = StepOut({"loss/total": total, "loss/sup": supervised, "loss/st": self_training}, target)
        torch.autograd.backward(out.losses["loss/total"])
        opt["net"].step()
        ema.update(nets["ema"], net, sched["ema_decay"])
        return out
