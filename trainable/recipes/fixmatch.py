"""FixMatch on pixels: label a weak view, learn a strong view of the same image where the label is sure.

What UniMatch and UniMatch V2 share with it stands here too.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from trainable import ema, losses
from trainable.config import AugmentConfig, LossConfig, OptimizerConfig, SelfTrainingConfig
from trainable.data.augment import Views
from trainable.knob import knob, redeclared
from trainable.pseudo_labels import Target
from trainable.recipes.interface import Batch, Nets, Opt, Phase, Preset, Sched, StepOut
from trainable.recipes.pixel import optimizer_spec
from trainable.recipes.selection import SelectingConfig, SelectingRecipe, SelectionConfig, mixed
from trainable.task import IGNORE


class FixMatchConfig(SelectingConfig):
    """Knobs of `fixmatch`."""

    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, weight_decay=1e-4, warmup_steps=0, schedule="poly")
    grad_clip: float = redeclared(SelectingConfig, "grad_clip", 0.0)
    loss: LossConfig = LossConfig(ce=1.0, dice=0.0, focal=0.0, class_weights="none")
    st: SelfTrainingConfig = SelfTrainingConfig(start_step=0)
    selection: SelectionConfig = SelectionConfig(normalize="all")
    augment: AugmentConfig = AugmentConfig(zoom_max=2.0)
    scale_every_steps: int = redeclared(SelectingConfig, "scale_every_steps", 0)
    teacher: Literal["student", "ema"] = knob(
        "student", acts_from="self_training", help="Which network labels the unlabeled images."
    )
    evaluate: Literal["student", "ema"] = knob(
        "student", searchable=False, why_not="it changes what is measured",
        help="Which network is evaluated and exported.",
    )  # fmt: skip
    ohem_threshold: float = knob(
        0.0, legal=(0.0, 1.0), search=(0.5, 0.9), unit="probability",
        help="Only labeled pixels whose true class has at most this probability count; 0 = all count.",
    )  # fmt: skip
    ohem_min_kept: int = knob(
        200_000, legal=(0, 10**9), searchable=False, why_not="it follows the size of a batch", unit="pixels",
        help="Labeled pixels of a batch that count at least, where ohem_threshold is on.",
    )  # fmt: skip

    def conflicts(self) -> Iterable[str]:
        """What two knobs together break."""
        yield from super().conflicts()
        loss = self.loss
        if self.ohem_threshold and (loss.dice or loss.focal or loss.class_weights != "none"):
            yield (
                "ohem_threshold must be 0 unless the labeled loss is plain cross-entropy, but got "
                f"ohem_threshold={self.ohem_threshold}, loss.dice={loss.dice}, loss.focal={loss.focal}, "
                f"loss.class_weights={loss.class_weights}"
            )


F = TypeVar("F", bound=FixMatchConfig)


class StrongViewRecipe(SelectingRecipe[F]):
    """Half labeled loss, half consistency of strong views with the labels of the weak one.

    Attributes:
        num_strong: strong views of every unlabeled image. learners: networks that the optimizer updates.
    """

    num_strong: ClassVar[int] = 1
    learners: ClassVar[tuple[str, ...]] = ("net",)

    @property
    def evaluated(self) -> str:
        """The student, or its average."""
        return "ema" if self.cfg.evaluate == "ema" else "net"

    @property
    def teacher(self) -> str:
        return "ema" if self.cfg.teacher == "ema" else "net"

    def build(self) -> dict[str, nn.Module]:
        """The network, and its average where something uses it."""
        net = self.network()
        if "ema" not in (self.cfg.evaluate, self.cfg.teacher):
            return {"net": net}
        return {"net": net, "ema": ema.copy_of(net)}

    def ema_decay(self, step: int) -> float:
        """Decay of the average at a step."""
        return self.cfg.ema_decay

    def schedules(self) -> Mapping[str, Callable[[int], float]]:
        """What a step is told by number."""
        return {"ema_decay": self.ema_decay, "st.weight": self.st_weight, **self.selection_schedules()}

    def phases(self) -> Sequence[Phase]:
        """One phase; unlabeled images join at `st.start_step`."""
        return [
            Phase(
                name="self_training", steps=self.cfg.steps,
                streams=(self.labeled_stream(), self.unlabeled_stream(self.num_strong)),
                optimizers={"net": optimizer_spec(self.cfg, *self.learners)}, schedules=self.schedules(),
            )
        ]  # fmt: skip

    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        """L = (labeled + st.weight * consistency) / 2; before self-training the consistency is 0."""
        labeled, unlabeled = batch["labeled"], batch.get("unlabeled")
        if unlabeled is None:
            supervised = self.supervised_part(nets, labeled)
            out = StepOut({"loss/total": supervised / 2, "loss/sup": supervised})
        else:
            supervised, consistency, target = self.parts(nets, labeled, unlabeled, sched)
            total = (supervised + sched["st.weight"] * consistency) / 2
            out = StepOut({"loss/total": total, "loss/sup": supervised, "loss/st": consistency}, target)
        torch.autograd.backward(out.losses["loss/total"])
        opt["net"].step()
        if "ema" in nets:
            ema.update(nets["ema"], nets["net"], sched["ema_decay"])
        return out

    @abstractmethod
    def parts(
        self, nets: Nets, labeled: Views, unlabeled: Views, sched: Sched
    ) -> tuple[Tensor, Tensor, Target]:
        """Labeled loss, consistency loss, and the pseudo-labels of the weak view."""

    def supervised_part(self, nets: Nets, labeled: Views) -> Tensor:
        """The labeled loss where there is no unlabeled batch."""
        return self.supervised_loss(self.heads(nets["net"], labeled.image).mean(0), labeled.label)

    def supervised_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """The labeled loss, of hard pixels alone where `ohem_threshold` is on."""
        if not self.cfg.ohem_threshold:
            return self.labeled_loss(logits, label)
        return self.cfg.loss.ce * losses.ohem_cross_entropy(
            logits, label, threshold=self.cfg.ohem_threshold, min_kept=self.cfg.ohem_min_kept, ignore_index=IGNORE
        )

    def labels(self, nets: Nets, unlabeled: Views, sched: Sched) -> Target:
        """Pseudo-labels of the weak view, by the teacher in evaluation mode."""
        return self.select(self.teach(nets[self.teacher], unlabeled.image), unlabeled.valid, sched)


# What the codes of FixMatch and UniMatch train PASCAL VOC and Cityscapes with, one worker's steps.
VOC = {
    "architecture": "deeplabv3plus", "encoder": "resnet101", "crop_size": 321, "batch_size": 8, "steps": 98_480,
    "eval_every_steps": 1231, "patience": 0, "optimizer.name": "sgd", "optimizer.lr": 1e-3,
    "optimizer.head_lr_mult": 10.0, "optimizer.momentum": 0.9, "optimizer.weight_decay": 1e-4,
    "optimizer.schedule": "poly", "optimizer.power": 0.9, "optimizer.warmup_steps": 0, "grad_clip": 0.0,
    "threshold": 0.95, "augment.zoom_min": 0.5, "augment.zoom_max": 2.0,
}  # fmt: skip
CITYSCAPES = VOC | {
    "encoder": "resnet50", "crop_size": 801, "steps": 78_000, "eval_every_steps": 1625, "optimizer.lr": 5e-3,
    "optimizer.head_lr_mult": 1.0, "threshold": 0.0, "ohem_threshold": 0.7, "ohem_min_kept": 200_000,
}  # fmt: skip
VOC_ABOUT = "PASCAL VOC with 732 labels: 80 epochs of the 9,850 other images, crop 321, batch 8 + 8"
CITYSCAPES_ABOUT = (
    "Cityscapes with 1/8 of the labels: 240 epochs of the 2,603 other images, crop 801, hard pixels only, no threshold"
)


class FixMatch(StrongViewRecipe[FixMatchConfig]):
    """The network labels a weak view of an image for a strong view of it.

    A pixel is kept where its probability exceeds the threshold, strictly; FixMatch also keeps the equal one. Labels
    are given in evaluation mode, so that dropout and batch statistics do not blur them.
    """

    name: ClassVar[str] = "fixmatch"
    about: ClassVar[str] = "weak-to-strong consistency: sure labels of the weak view, learned on a strong one"
    source: ClassVar[str] = "FixMatch (arXiv 2001.07685), on pixels as in UniMatch (arXiv 2208.09910)"
    slots: ClassVar[Mapping[str, str]] = {
        "networks": "net (evaluated), or its average", "targets": "pixel, the same network on the weak view",
        "threshold": "fixed 0.95, or any mode", "loss": "(ce + st.weight * ce over all pixels) / 2", "schedule": "poly",
    }  # fmt: skip
    config: ClassVar[type[FixMatchConfig]] = FixMatchConfig
    presets: ClassVar[Mapping[str, Preset]] = {
        "VOC": Preset(VOC, VOC_ABOUT), "Cityscapes": Preset(CITYSCAPES, CITYSCAPES_ABOUT),
    }  # fmt: skip

    def parts(
        self, nets: Nets, labeled: Views, unlabeled: Views, sched: Sched
    ) -> tuple[Tensor, Tensor, Target]:
        """The labeled batch and one strong view."""
        target = self.labels(nets, unlabeled, sched)
        heads, student = self.both(nets["net"], labeled.image, unlabeled.strong[0])
        supervised = self.supervised_loss(heads.mean(0), labeled.label)
        return supervised, self.self_training_loss(student, mixed(target, unlabeled.boxes[0])), target
