"""s4GAN: feature matching with a discriminator, and self-training on the images that it takes for labeled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from trainable import ema
from trainable.config import RecipeConfig
from trainable.data.streams import Stream
from trainable.knob import redeclared
from trainable.optimizers import OptimizerSpec
from trainable.pseudo_labels.images import fuse_image_labels
from trainable.recipes.adversarial import Adversarial, AdversarialConfig
from trainable.recipes.interface import Batch, Nets, Opt, Preset, Sched, StepOut
from trainable.recipes.mlmt import (
    MlmtConfig,
    PresenceClassifier,
    classifier_loss,
    classifier_optimizer,
    classifier_schedules,
    strong_view,
    teach,
)


class S4ganConfig(AdversarialConfig):
    """Knobs of `s4gan`."""

    steps: int = redeclared(RecipeConfig, "steps", 40_000)
    patience: int = redeclared(RecipeConfig, "patience", 0)
    mlmt: MlmtConfig = MlmtConfig()


AS_PUBLISHED: dict[str, Any] = {
    "architecture": "deeplabv2", "encoder": "resnet101", "optimizer.name": "sgd", "optimizer.lr": 2.5e-4,
    "optimizer.momentum": 0.9, "optimizer.weight_decay": 5e-4, "optimizer.head_lr_mult": 10.0,
    "optimizer.warmup_steps": 0, "optimizer.schedule": "poly", "optimizer.power": 0.9, "grad_clip": 0.0, "d_lr": 1e-4,
    "d_beta1": 0.9, "d_beta2": 0.99, "d_dropout": 0.5, "d_image_norm": "batch_minmax", "d_warmup_steps": 0,
    "fm_weight": 0.1, "st.weight": 1.0, "st.ramp_steps": 0, "freeze_bn_affine": True, "patience": 0,
    "augment.zoom_min": 1.0, "augment.zoom_max": 1.0, "augment.flip": False,
}  # fmt: skip
"""What every system of this family has in common, as its first version was published."""

ALS4GAN: dict[str, Any] = AS_PUBLISHED | {
    "optimizer.schedule": "step_poly", "optimizer.poly_every_steps": 10, "optimizer.head_bias_lr_mult": 2.0,
    "optimizer.head_bias_decay": False, "st.start_step": 1001,
}  # fmt: skip

_V1 = ALS4GAN | {
    "steps": 50_000, "eval_every_steps": 500, "batch_size": 4, "crop_size": 256, "d_threshold": 0.2,
}  # fmt: skip


_PAPER = AS_PUBLISHED | {
    "steps": 40_000, "batch_size": 8, "crop_size": 321, "d_threshold": 0.6, "st.start_step": 1,
}  # fmt: skip


class S4gan(Adversarial[S4ganConfig]):
    """DeepLab against a discriminator; its multi-label branch is an option."""

    name: ClassVar[str] = "s4gan"
    about: ClassVar[str] = "feature matching with a discriminator, whose score also selects images for self-training"
    source: ClassVar[str] = "s4GAN (arXiv 1908.05724); ALS4GAN (arXiv 2202.06484); V1 of the land-cover system"
    slots: ClassVar[Mapping[str, str]] = {
        "networks": "net (evaluated), d (discriminator); with mlmt also classifier, and its average inside net",
        "targets": "image, by the discriminator's score", "threshold": "d_threshold, fixed",
        "loss": "ce + fm_weight fm + st.weight ce of selected images; bce of d", "schedule": "poly",
    }  # fmt: skip
    config: ClassVar[type[S4ganConfig]] = S4ganConfig
    metrics: ClassVar[tuple[str, ...]] = (*Adversarial.metrics, "loss/mlmt", "lr/classifier")
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(_PAPER, "s4GAN on PASCAL VOC: selection from the second step on, score above 0.6"),
        "Cityscapes": Preset(
            _PAPER | {"crop_size": 256, "d_threshold": 0.7, "d_lr": 1e-5},
            "s4GAN on Cityscapes: score above 0.7, a slower discriminator; crops are 256 x 512 there", baseline=False,
        ),
        "legacy_paper": Preset(
            _PAPER | {"aspp_branches": 2, "d_image_norm": "legacy"},
            "s4GAN as its code runs: two of four branches, labeled images scaled by another batch", baseline=False,
        ),
        "als4gan": Preset(
            ALS4GAN | {"steps": 20_000, "batch_size": 10, "crop_size": 320},
            "ALS4GAN: rates 1, 10 and 20, a stepwise poly schedule, selection after 1,000 steps",
        ),
        "v1": Preset(_V1, "V1 of the land-cover system: ALS4GAN on patches of 256, batch 4, score above 0.2"),
        "legacy_iter_max": Preset(
            _V1 | {"optimizer.decay_steps": 20_000},
            "V1 with its rate of 0 from step 20,000 of 50,000 on, and nothing else of how it ran", baseline=False,
        ),
        "legacy_v1": Preset(
            _V1 | {"encoder_weights": None, "bn_momentum": 0.999, "optimizer.decay_steps": 20_000},
            "V1 as it ran: random weights, batch norm of the last batch, a rate of 0 from step 20,000 of 50,000 on",
        ),
    }  # fmt: skip

    def build(self) -> dict[str, nn.Module]:
        """The networks by name; the classifier's average is part of `net`, since `net` is what is kept."""
        nets = super().build()
        if self.cfg.mlmt.enabled:
            classifier = PresenceClassifier(self.cfg.encoder, self.cfg.encoder_weights, self.task.num_classes)
            nets["net"].add_module("presence", ema.copy_of(classifier))
            nets["classifier"] = classifier
        return nets

    def streams(self) -> tuple[Stream, ...]:
        """Those of the family; the classifier also sees a strong view, which must hold what the weak one holds."""
        labeled, unlabeled, real = super().streams()
        if self.cfg.mlmt.enabled:
            unlabeled = replace(unlabeled, strong=strong_view(self.cfg.mlmt), num_strong=1)
        return labeled, unlabeled, real

    def optimizers(self, start: int) -> dict[str, OptimizerSpec]:
        """Those of the family, and the classifier's."""
        made = super().optimizers(start)
        if self.cfg.mlmt.enabled:
            made["classifier"] = classifier_optimizer(self.cfg.mlmt, start, self.cfg.steps)
        return made

    def schedules(self) -> dict[str, Callable[[int], float]]:
        """Those of the family, and the classifier's."""
        return super().schedules() | (classifier_schedules(self.cfg.mlmt) if self.cfg.mlmt.enabled else {})

    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        """A step of the family, then one of the classifier."""
        out = super().step(nets, batch, sched, opt)
        if self.cfg.mlmt.enabled:
            classifier, teacher = nets["classifier"], nets["net"].get_submodule("presence").eval()
            with self.precision():
                loss = classifier_loss(classifier, teacher, batch["labeled"], batch["unlabeled"], sched["mlmt.weight"])
            teach(classifier, teacher, opt["classifier"], loss, sched["mlmt.ema_decay"])
            out.losses["loss/mlmt"] = loss
        return out

    def probabilities(self, nets: Nets, image: Tensor) -> Tensor:
        """Class probabilities; with the classifier, 0 for the classes that it does not see."""
        net, mlmt = nets[self.evaluated], self.cfg.mlmt
        with self.precision():
            logits = net(image).float()
            if mlmt.enabled:
                presence = net.get_submodule("presence")(image).float().sigmoid()
                logits = fuse_image_labels(logits, presence, mlmt.presence_threshold, legacy_zero=mlmt.legacy_zero)
        probabilities: Tensor = logits.softmax(1)
        return probabilities
