"""What the recipes with a discriminator share: knobs, networks, phases, and the order of one step.

The discriminator sees an image with either its labels or the network's prediction. The network learns to match the
discriminator's features, and from its own labels of those unlabeled images that the discriminator takes for labeled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from trainable import health, losses
from trainable.config import (
    HealthConfig,
    OptimizerConfig,
    PixelRecipeConfig,
    RecipeConfig,
    SelfTrainingConfig,
)
from trainable.data.streams import Geometry, Stream
from trainable.discriminator import Discriminator, shown, unit_range
from trainable.knob import knob, redeclared
from trainable.models import segmenter
from trainable.optimizers import OptimizerSpec
from trainable.pseudo_labels.images import select_images
from trainable.pseudo_labels.target import Target
from trainable.recipes.interface import Batch, Nets, Opt, Phase, Recipe, Sched, StepOut
from trainable.recipes.rates import factor
from trainable.recipes.watch import shared_rules

_YARDSTICK = "it is the yardstick that makes the trials of a search comparable"


class AdversarialOptimizerConfig(OptimizerConfig):
    """The segmentation network's optimizer."""

    decay_steps: int | None = knob(
        None, legal=(1, 10**9), unit="steps", in_steps=True,
        help="Step at which the decay of the network's rate ends; left out: steps. From there on the rate is 0.",
    )  # fmt: skip
    head_bias_lr_mult: float = knob(
        1.0, legal=(0.0, 1000.0), search=(0.5, 4.0), scale="log",
        help="Learning rate of the biases outside the encoder, over that of the weights there.",
    )  # fmt: skip
    head_bias_decay: bool = knob(True, help="Whether those biases decay.")


class AdversarialSelfTrainingConfig(SelfTrainingConfig):
    """When and how strongly selected images act."""

    start_step: int = redeclared(SelfTrainingConfig, "start_step", 1, search=(0, 4000))
    weight: float = redeclared(SelfTrainingConfig, "weight", 1.0, search=(0.01, 4.0))


class AdversarialHealthConfig(HealthConfig):
    """Rules on the training signals; 0 evaluations turn a rule off."""

    action: Literal["warn", "stop"] = redeclared(HealthConfig, "action", "warn")
    d_loss_low: float = knob(
        0.1, legal=(0.0, 100.0), searchable=False, why_not=_YARDSTICK,
        help="loss/d below which the discriminator has won.",
    )  # fmt: skip
    d_loss_high: float = knob(
        0.7, legal=(0.0, 100.0), searchable=False, why_not=_YARDSTICK,
        help="loss/d above which it has learned nothing; always saying one half scores 0.693.",
    )  # fmt: skip
    d_loss_evals: int = knob(
        1, legal=(0, 10**6), searchable=False, why_not=_YARDSTICK, unit="evaluations",
        help="Evaluations in a row outside that band after which to warn.",
    )  # fmt: skip


class AdversarialConfig(RecipeConfig):
    """The knobs that the recipes with a discriminator share."""

    architecture: str = redeclared(RecipeConfig, "architecture", "deeplabv2")
    encoder: str = redeclared(RecipeConfig, "encoder", "resnet101")
    grad_clip: float = redeclared(
        RecipeConfig, "grad_clip", 0.0,
        help="Largest gradient norm, of the network and of the discriminator; 0 = no clipping.",
    )  # fmt: skip
    unlabeled_batch_size: int | None = redeclared(PixelRecipeConfig, "unlabeled_batch_size", None)
    optimizer: AdversarialOptimizerConfig = AdversarialOptimizerConfig(schedule="poly", warmup_steps=0)
    st: AdversarialSelfTrainingConfig = AdversarialSelfTrainingConfig()
    fm_weight: float = knob(
        0.1, legal=(0.0, 100.0), search=(1e-3, 1.0), scale="log", help="Weight of the feature-matching loss."
    )
    d_threshold: float = knob(
        0.6, legal=(0.0, 1.0), search=(0.0, 0.95), unit="discriminator score", acts_from="self_training",
        help="An unlabeled image is learned from where the discriminator's score of its prediction exceeds this.",
        caution="a score, not a confidence: a new discriminator scores about 0.5, one that has won about 0",
    )  # fmt: skip
    d_lr: float = knob(
        1e-4, legal=(0.0, 1.0), search=(1e-6, 1e-3), scale="log", help="Base learning rate of the discriminator (Adam)."
    )  # fmt: skip
    d_beta1: float = knob(
        0.9, legal=(0.0, 0.9999), search=(0.4, 0.99), scale="log1m", help="Adam's first beta of the discriminator."
    )  # fmt: skip
    d_beta2: float = knob(
        0.99, legal=(0.0, 0.99999), search=(0.9, 0.999), scale="log1m", help="Adam's second beta of the discriminator."
    )  # fmt: skip
    d_dropout: float = knob(
        0.5, legal=(0.0, 0.95), search=(0.0, 0.7), help="Channel dropout of the discriminator, in selection too."
    )
    d_image_norm: Literal["batch_minmax", "per_image_minmax", "legacy"] = knob(
        "batch_minmax",
        help="What scales the discriminator's images to [0, 1]: the batch's range, each image's, or, for labeled ones, "
        "the range of another batch (legacy).",
    )
    d_warmup_steps: int = knob(
        0, legal=(0, 10**9), search=(0, 4000), unit="steps", in_steps=True,
        help="Steps in which the discriminator does not learn; the network already matches its features.",
    )  # fmt: skip
    bn_momentum: float = knob(
        0.1, legal=(0.0, 1.0), search=(0.001, 0.999), scale="log",
        help="Share of the newest batch in batch norm's running statistics; 0.999 keeps little but the last batch.",
    )  # fmt: skip
    aspp_branches: Literal[4, 2] = knob(
        4, searchable=False, why_not="2 reproduces a flaw",
        help="Branches of DeepLabV2's head that count; s4GAN's code leaves its loop after 2.",
    )  # fmt: skip
    freeze_bn_affine: bool = knob(False, help="Whether batch norm's scales and shifts stay as they are.")
    health: AdversarialHealthConfig = AdversarialHealthConfig()

    def conflicts(self) -> Iterable[str]:
        """Those of every recipe, and a decay that ends before the warm-up does."""
        yield from super().conflicts()
        opt = self.optimizer
        if opt.decay_steps is not None and opt.warmup_steps >= opt.decay_steps:
            yield (
                "optimizer.warmup_steps must be below optimizer.decay_steps, but got "
                f"optimizer.warmup_steps={opt.warmup_steps}, optimizer.decay_steps={opt.decay_steps}"
            )


A = TypeVar("A", bound=AdversarialConfig)


class Adversarial(Recipe[A]):
    """A segmentation network `net` and a discriminator `d`."""

    metrics: ClassVar[tuple[str, ...]] = ("d_score/fake", "d_score/real", "d_threshold", "lr/d")
    scheduled: ClassVar[tuple[str, ...]] = ("net", "d")

    def network(self) -> nn.Module:
        """A new segmentation network."""
        cfg = self.cfg
        net = segmenter(
            cfg.architecture, cfg.encoder, cfg.encoder_weights, self.task.num_logits,
            atrous_branches=cfg.aspp_branches, init_from=cfg.init_from,
        )  # fmt: skip
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = cfg.bn_momentum
                for parameter in module.parameters():
                    parameter.requires_grad_(not cfg.freeze_bn_affine)
        return net

    def build(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return {"net": self.network(), "d": Discriminator(self.task.num_classes, self.cfg.d_dropout)}

    def streams(self) -> tuple[Stream, ...]:
        """Labeled images for the network, unlabeled ones, and labeled ones for the discriminator."""
        cfg, augment = self.cfg, self.cfg.augment
        weak = Geometry(augment.zoom_min, augment.zoom_max, augment.flip)
        number = cfg.unlabeled_batch_size or cfg.batch_size
        return (
            Stream("labeled", "labeled", cfg.batch_size, cfg.crop_size, weak),
            Stream("unlabeled", "unlabeled", number, cfg.crop_size, weak, labels="none"),
            Stream("real", "labeled", cfg.batch_size, cfg.crop_size, weak),
        )

    def optimizers(self, start: int) -> dict[str, OptimizerSpec]:
        """The optimizers of a phase that begins at step `start` of the run."""
        cfg, opt = self.cfg, self.cfg.optimizer
        horizon = opt.decay_steps or cfg.steps
        # The original changes the discriminator's rate at every step, also where it steps the network's.
        smooth = opt.model_copy(update={"schedule": "poly"}) if opt.schedule == "step_poly" else opt
        net = OptimizerSpec(
            ("net",), lambda step: opt.lr * factor(opt, start + step, horizon), name=opt.name,
            head_lr_mult=opt.head_lr_mult, head_bias_lr_mult=opt.head_bias_lr_mult, momentum=opt.momentum,
            head_bias_decay=opt.head_bias_decay, weight_decay=opt.weight_decay, clip=cfg.grad_clip,
        )  # fmt: skip
        d = OptimizerSpec(
            ("d",), lambda step: cfg.d_lr * factor(smooth, start + step, cfg.steps), name="adam",
            betas=(cfg.d_beta1, cfg.d_beta2), clip=cfg.grad_clip,
        )  # fmt: skip
        return {"net": net, "d": d}

    def schedules(self) -> dict[str, Callable[[int], float]]:
        """Numbers by step of the run."""
        return {"st.weight": self.st_weight, "d_threshold": self.d_threshold}

    def st_weight(self, step: int) -> float:
        """`st.weight`, after a linear ramp of `st.ramp_steps` from `st.start_step`."""
        st = self.cfg.st
        if step < st.start_step:
            return 0.0
        return st.weight * (min(1.0, (step - st.start_step + 1) / st.ramp_steps) if st.ramp_steps else 1.0)

    def d_threshold(self, step: int) -> float:
        """The score that an image must exceed."""
        return self.cfg.d_threshold

    def phases(self) -> Sequence[Phase]:
        """The discriminator's warm-up, where there is one, and the rest."""
        # The optimizer of the discriminator starts with the second phase: its averages know nothing of the first.
        warmup = min(self.cfg.d_warmup_steps, self.cfg.steps)
        made = [self._phase("discriminator_warmup", 0, warmup), self._phase("adversarial", warmup, self.cfg.steps)]
        return [phase for phase in made if phase.steps]

    def _phase(self, name: str, start: int, end: int) -> Phase:
        def later(schedule: Callable[[int], float]) -> Callable[[int], float]:
            return lambda step: schedule(start + step)

        optimizers = self.optimizers(start)
        if name == "discriminator_warmup":
            del optimizers["d"]
        moved = {key: later(schedule) for key, schedule in self.schedules().items()}
        return Phase(name, end - start, self.streams(), optimizers, moved)

    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        """The network's losses against a frozen discriminator, then the discriminator's, then both updates."""
        net, d = nets["net"], nets["d"]
        labeled, unlabeled, real = batch["labeled"], batch["unlabeled"], batch["real"]
        norm, classes = self.cfg.d_image_norm, self.task.num_classes
        # Its dropout acts while it does not learn, too; and what the network is told must not change it.
        d.train().requires_grad_(False)
        with self.precision():
            supervised = losses.cross_entropy(net(labeled.image), labeled.label)
            logits = net(unlabeled.image).float()
            fake = shown(logits.softmax(1), unit_range(unlabeled.image, _own(norm)), unlabeled.valid)
            score, features = d(fake)
            truth = losses.one_hot(real.label, classes)
            pair = shown(truth, unit_range(real.image, norm, labeled.image), real.valid)
            real_score, real_features = d(pair)
        live = unlabeled.valid & (sched["st.weight"] > 0)
        target = select_images(score, logits, sched["d_threshold"], live)
        self_training = losses.cross_entropy(logits, target.label)
        matching = losses.feature_matching(real_features, features)
        total = supervised + self.cfg.fm_weight * matching + sched["st.weight"] * self_training
        torch.autograd.backward(total)
        found = {
            "loss/total": total, "loss/sup": supervised, "loss/fm": matching, "loss/st": self_training,
            "d_score/fake": score.mean(), "d_score/real": real_score.mean(), "d_threshold": sched["d_threshold"],
        }  # fmt: skip
        d.requires_grad_(True)
        if "d" in opt:
            found["loss/d"] = self._teach(d, fake.detach(), pair)
        opt["net"].step()
        if "d" in opt:
            opt["d"].step()
        return StepOut(found, target)

    def _teach(self, d: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        """The discriminator's loss and its gradients, with a dropout of its own."""
        with self.precision():
            fake_score, real_score = d(fake)[0], d(real)[0]
        loss = losses.discriminator_loss(real_score, fake_score)
        torch.autograd.backward(loss)
        return loss

    @torch.no_grad()
    def pseudo_labels(self, nets: Nets, image: Tensor, valid: Tensor, sched: Sched) -> Target:
        """Every pixel of the images that the discriminator takes for labeled; both networks in evaluation mode."""
        parts = nets["net"], nets["d"]
        modes = [part.training for part in parts]
        net, d = (part.eval() for part in parts)
        with self.precision():
            logits = net(image).float()
            score, _ = d(shown(logits.softmax(1), unit_range(image, _own(self.cfg.d_image_norm)), valid))
        for part, training in zip(parts, modes, strict=True):
            part.train(training)
        return select_images(score, logits, sched["d_threshold"], valid & (sched["st.weight"] > 0))

    def rules(self) -> list[health.Rule]:
        """The shared rules, and the band of the discriminator's loss."""
        cfg = self.cfg.health
        named = f"d_threshold={self.cfg.d_threshold:g}"
        made = shared_rules(
            self.cfg, self.task, self.objective, start_step=self.cfg.st.start_step, threshold=named
        )
        if cfg.d_loss_evals:
            made.append(health.band("d_loss", "loss/d", cfg.d_loss_low, cfg.d_loss_high, cfg.d_loss_evals, "warn"))
        return made


def _own(norm: Literal["batch_minmax", "per_image_minmax", "legacy"]) -> Literal["batch_minmax", "per_image_minmax"]:
    """How predictions' images are scaled: `legacy` is wrong for labeled ones alone."""
    return "per_image_minmax" if norm == "per_image_minmax" else "batch_minmax"

