"""Self-training with a confidence threshold per class (V3.0 and V3.1 of the land-cover system).

The network is DeepLabV3+ with three heads. Pseudo-labels are the mean of the heads' probabilities where that exceeds
the threshold of the predicted class; the loss is the labeled one, over the selected pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from trainable import ema
from trainable.knob import DEFAULT_CLASS, PerClass, Probability, knob, redeclared
from trainable.models import DEEPLABV3PLUS, segmenter
from trainable.recipes.interface import Batch, Nets, Opt, Phase, Preset, Sched, StepOut
from trainable.recipes.pixel import optimizer_spec
from trainable.recipes.selection import SelectingConfig, SelectingRecipe, ThresholdMode, mixed


class PerClassConfig(SelectingConfig):
    """Knobs of `per_class`."""

    threshold: PerClass[Probability] = redeclared(SelectingConfig, "threshold", 0.6)
    threshold_mode: ThresholdMode = redeclared(SelectingConfig, "threshold_mode", "per_class")
    teacher: Literal["student", "ema"] = knob(
        "ema", acts_from="self_training", help="Which network labels the unlabeled images, in evaluation mode."
    )
    strong_view: bool = knob(
        True, acts_from="self_training", help="Train on a strong view; off: on the same weak view that was labeled."
    )  # fmt: skip
    num_heads: int = knob(3, legal=(1, 32), search=(1, 10), help="Heads whose predictions are averaged.")
    head_dropout: float = knob(0.10, legal=(0.0, 0.9), search=(0.0, 0.5), help="Dropout of the first head.")
    head_dropout_step: float = knob(
        0.05, legal=(0.0, 0.3), search=(0.0, 0.1), help="How much more dropout each further head has."
    )
    output_stride: Literal[16, 8] = knob(
        16, searchable=False, why_not="it goes with one architecture alone",
        help="Pixels per feature of DeepLabV3+'s encoder; 8 sees finer, and costs several times as much.",
    )  # fmt: skip
    deep_supervision: float = knob(
        0.0, legal=(0.0, 10.0), search=(0.0, 1.0), help="Weight of each head's own labeled loss."
    )
    ema_buffers: Literal["average", "copy"] = knob(
        "average", help="Running statistics of the averaged network: averaged like its weights, or the student's."
    )

    def conflicts(self) -> list[str]:
        """What two knobs together break."""
        found = list(super().conflicts())
        last = self.head_dropout + self.head_dropout_step * (self.num_heads - 1)
        if last >= 1:
            found.append(
                "head_dropout + head_dropout_step * (num_heads - 1) must be below 1, but got "
                f"head_dropout={self.head_dropout}, head_dropout_step={self.head_dropout_step}, "
                f"num_heads={self.num_heads}"
            )
        if self.output_stride != 16 and self.architecture.lower() != DEEPLABV3PLUS:
            found.append(
                f"output_stride must be 16 unless the architecture is {DEEPLABV3PLUS}, but got "
                f"output_stride={self.output_stride}, architecture={self.architecture!r}"
            )
        return found


_AS_DOCUMENTED = {
    "architecture": "deeplabv3plus", "encoder": "resnet50", "crop_size": 256, "batch_size": 8, "eval_every_steps": 500,
    "optimizer.name": "sgd", "optimizer.momentum": 0.9, "optimizer.weight_decay": 5e-4, "optimizer.head_lr_mult": 10.0,
    "optimizer.schedule": "cosine", "grad_clip": 10.0, "ema_decay": 0.9995, "st.start_step": 500, "st.ramp_steps": 0,
    "loss.ce": 0.4, "loss.dice": 0.4, "loss.focal": 0.2, "loss.focal_gamma": 2.0, "loss.focal_alpha": 0.25,
    "loss.class_weights": "balanced", "num_heads": 3, "head_dropout": 0.10, "head_dropout_step": 0.05,
    "teacher": "student", "strong_view": False, "joint_forward": False, "scale_every_steps": 10,
    "augment.zoom_min": 0.5, "augment.zoom_max": 1.6, "augment.flip": True,
}  # fmt: skip

_V30_THRESHOLD = {
    "background": 0.0, "Badan Air": 0.60, "Bangunan": 0.65, "Jalan": 0.70, "Pohon Berinang": 0.65,
    "Snake Fruit": 0.55, "Tanah Terbuka": 0.60, DEFAULT_CLASS: 0.625,
}  # fmt: skip
_V31_THRESHOLD = {
    "background": 0.0, "Badan Air": 0.50, "Bangunan": 0.55, "Jalan": 0.60, "Pohon Berinang": 0.55,
    "Snake Fruit": 0.45, "Tanah Terbuka": 0.50, DEFAULT_CLASS: 0.525,
}  # fmt: skip
_V30 = _AS_DOCUMENTED | {
    "steps": 50_000, "optimizer.lr": 2.5e-4, "optimizer.warmup_steps": 1000, "patience": 15, "st.weight": 1.0,
    "scale_min": 256, "scale_max": 384, "threshold": _V30_THRESHOLD,
}  # fmt: skip
_V31 = _AS_DOCUMENTED | {
    "steps": 75_000, "optimizer.lr": 3e-4, "optimizer.warmup_steps": 1500, "patience": 40, "st.weight": 1.5,
    "scale_min": 256, "scale_max": 320, "threshold": _V31_THRESHOLD,
}  # fmt: skip


class PerClassThresholds(SelectingRecipe[PerClassConfig]):
    """DeepLabV3+ with several heads, self-trained on pixels above their class's threshold."""

    name: ClassVar[str] = "per_class"
    about: ClassVar[str] = "self-training with a confidence threshold per class, several heads, and EMA"
    source: ClassVar[str] = "the land-cover system V3.0 and V3.1; FixMatch (arXiv 2001.07685) for the strong view"
    slots: ClassVar[Mapping[str, str]] = {
        "networks": "net (heads averaged), ema (evaluated)", "targets": "pixel, mean of the heads' probabilities",
        "threshold": "per class", "loss": "ce + dice + focal, labeled and selected", "schedule": "cosine + warm-up",
    }  # fmt: skip
    config: ClassVar[type[PerClassConfig]] = PerClassConfig
    presets: ClassVar[Mapping[str, Preset]] = {
        "V3.0": Preset(_V30, "V3.0 of the land-cover system: thresholds 0.55 to 0.70, stopped after 15 evaluations"),
        "V3.1": Preset(_V31, "V3.1: thresholds 0.10 lower, patience 40, self-training weight 1.5, longer"),
        "legacy_V3.1": Preset(
            _V31 | {"ema_buffers": "copy"},
            "V3.1 with averaged weights on the student's own running statistics, as it was run",
            baseline=False,
        ),
        "V3.1_background": Preset(
            _V31 | {"threshold": _V31_THRESHOLD | {"background": 0.525}},
            "V3.1 with the background held to the mean threshold of the other classes instead of 0.0",
            baseline=False,
        ),
        "V3.1_one_threshold": Preset(
            _V31 | {"threshold_mode": "fixed"},
            "V3.1 with one threshold, the mean 0.525, for every class",
            baseline=False,
        ),
    }

    def network(self) -> nn.Module:
        """A segmentation network with `num_heads` heads."""
        cfg = self.cfg
        return segmenter(
            cfg.architecture, cfg.encoder, cfg.encoder_weights, self.task.num_logits, num_heads=cfg.num_heads,
            head_dropout=cfg.head_dropout, head_dropout_step=cfg.head_dropout_step, output_stride=cfg.output_stride,
            init_from=cfg.init_from,
        )  # fmt: skip

    def phases(self) -> Sequence[Phase]:
        """One phase; unlabeled images join at `st.start_step`."""
        return [
            Phase(
                name="self_training", steps=self.cfg.steps,
                streams=(self.labeled_stream(), self.unlabeled_stream(1 if self.cfg.strong_view else 0)),
                optimizers={"net": optimizer_spec(self.cfg, "net")},
                schedules={
                    "ema_decay": lambda step: self.cfg.ema_decay, "st.weight": self.st_weight,
                    **self.selection_schedules(),
                },
            )
        ]  # fmt: skip

    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        """Label the weak view, train on labels and pseudo-labels, move the average on."""
        labeled, unlabeled = batch["labeled"], batch.get("unlabeled")
        if unlabeled is None:
            supervised = self._supervised(self.heads(nets["net"], labeled.image), labeled.label)
            out = StepOut({"loss/total": supervised, "loss/sup": supervised})
        else:
            probabilities = self.teach(nets[self.teacher], unlabeled.image)
            target = self.select(probabilities, unlabeled.valid, sched)
            view = unlabeled.image
            if unlabeled.strong:
                view, target = unlabeled.strong[0], mixed(target, unlabeled.boxes[0])
            heads, student = self.both(nets["net"], labeled.image, view)
            supervised = self._supervised(heads, labeled.label)
            self_training = self.self_training_loss(student, target)
            total = supervised + sched["st.weight"] * self_training
            out = StepOut({"loss/total": total, "loss/sup": supervised, "loss/st": self_training}, target)
        torch.autograd.backward(out.losses["loss/total"])
        opt["net"].step()
        ema.update(nets["ema"], nets["net"], sched["ema_decay"], buffers=self.cfg.ema_buffers)
        return out

    @property
    def teacher(self) -> str:
        return "ema" if self.cfg.teacher == "ema" else "net"

    def _supervised(self, heads: Tensor, label: Tensor) -> Tensor:
        """The loss of the mean logits, and of every head where deep supervision is on."""
        loss = self.labeled_loss(heads.mean(0), label)
        for logits in heads if self.cfg.deep_supervision else ():
            loss = loss + self.cfg.deep_supervision * self.labeled_loss(logits, label)
        return loss
