"""UniMatch V2: an averaged teacher, and two strong views that see complementary channels of the features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from trainable.config import OptimizerConfig
from trainable.data.augment import Views
from trainable.knob import knob, redeclared
from trainable.models import Segmenter
from trainable.pseudo_labels import Target
from trainable.recipes.fixmatch import FixMatchConfig, StrongViewRecipe
from trainable.recipes.interface import Nets, Preset, Sched
from trainable.recipes.perturbation import complementary_dropout
from trainable.recipes.selection import mixed


class UniMatchV2Config(FixMatchConfig):
    """Knobs of `unimatch_v2`."""

    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", lr=1e-4, weight_decay=0.01, warmup_steps=0, schedule="poly"
    )
    ema_decay: float = redeclared(FixMatchConfig, "ema_decay", 0.996)
    teacher: Literal["student", "ema"] = redeclared(FixMatchConfig, "teacher", "ema")
    evaluate: Literal["student", "ema"] = redeclared(FixMatchConfig, "evaluate", "ema")
    complementary: bool = knob(
        True, acts_from="self_training", help="Whether the two strong views see complementary channels of the features."
    )  # fmt: skip
    keep_share: float = knob(
        0.5, legal=(0.0, 1.0), search=(0.0, 1.0), acts_from="self_training",
        help="Share of the images whose two views keep all channels.",
    )  # fmt: skip


# Crops are 512 and 800 instead of 518 and 798: patches of 14 pixels are resampled to 16 here.
_VOC = {
    "architecture": "dpt", "encoder": "tu-vit_small_patch14_dinov2.lvd142m", "crop_size": 512, "batch_size": 16,
    "steps": 36_900, "eval_every_steps": 615, "patience": 0, "optimizer.name": "adamw", "optimizer.lr": 5e-6,
    "optimizer.head_lr_mult": 40.0, "optimizer.weight_decay": 0.01, "optimizer.schedule": "poly",
    "optimizer.power": 0.9, "optimizer.warmup_steps": 0, "grad_clip": 0.0, "ema_decay": 0.996, "threshold": 0.95,
    "augment.zoom_min": 0.5, "augment.zoom_max": 2.0,
}  # fmt: skip
_CITYSCAPES = _VOC | {
    "crop_size": 800, "batch_size": 8, "steps": 58_500, "eval_every_steps": 1625, "ohem_threshold": 0.7,
    "ohem_min_kept": 200_000,
}  # fmt: skip


class UniMatchV2(StrongViewRecipe[UniMatchV2Config]):
    """An averaged teacher labels the weak view; two strong views with complementary channels learn it.

    The average takes in the running statistics, and its decay rises as min(1 - 1 / (i + 1), ema_decay). Any
    convolutional network will do; the presets take DINOv2 with DPT, whose decoder here is the one of
    segmentation_models_pytorch, without class tokens, over four equally spaced blocks.
    """

    name: ClassVar[str] = "unimatch_v2"
    about: ClassVar[str] = "an averaged teacher, and two strong views that see complementary channels"
    source: ClassVar[str] = "UniMatch V2 (arXiv 2410.10777)"
    slots: ClassVar[Mapping[str, str]] = {
        "networks": "net, ema (teacher, evaluated)", "targets": "pixel, the average on the weak view",
        "threshold": "fixed 0.95, or any mode", "loss": "(ce + st.weight * (ce + ce) / 2) / 2", "schedule": "poly",
    }  # fmt: skip
    config: ClassVar[type[UniMatchV2Config]] = UniMatchV2Config
    presets: ClassVar[Mapping[str, Preset]] = {
        "VOC": Preset(
            _VOC, "PASCAL VOC with 732 labels: DINOv2-S and DPT, 60 epochs of the 9,850 other images, batch 16 + 16"
        ),
        "Cityscapes": Preset(
            _CITYSCAPES, "Cityscapes with 1/8 of the labels: 180 epochs of the 2,603 other images, hard pixels only"
        ),
    }
    num_strong: ClassVar[int] = 2

    def ema_decay(self, step: int) -> float:
        """min(1 - 1 / (step + 1), ema_decay): the first step copies the network."""
        return min(1.0 - 1.0 / (step + 1), self.cfg.ema_decay)

    def parts(
        self, nets: Nets, labeled: Views, unlabeled: Views, sched: Sched
    ) -> tuple[Tensor, Tensor, Target]:
        """The labeled batch, and two strong views through one encoder pass."""
        target = self.labels(nets, unlabeled, sched)
        supervised = self.supervised_loss(self.heads(nets["net"], labeled.image).mean(0), labeled.label)
        views = [
            self.self_training_loss(logits, mixed(target, box))
            for logits, box in zip(self._strong(nets["net"], unlabeled), unlabeled.boxes, strict=True)
        ]
        return supervised, (views[0] + views[1]) / 2, target

    def _strong(self, net: torch.nn.Module, unlabeled: Views) -> tuple[Tensor, ...]:
        """Mean logits of the first and of the second strong view."""
        assert isinstance(net, Segmenter)
        image = torch.cat(unlabeled.strong)
        with self.precision():
            features = net.encode(image)
            if self.cfg.complementary:
                features = complementary_dropout(features, image, self.cfg.keep_share)
            return net.decode(features, image.shape[2:]).mean(0).chunk(2)
