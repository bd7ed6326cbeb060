"""Self-training in rounds, on two classes: learn from labels, label everything, learn from that, and again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor, nn

from trainable import figures, health, losses
from trainable.data.augment import Views
from trainable.data.tone import denormalize, known_pixels, renormalize, standardized, toned, toned_by_level
from trainable.data.warp import Warp, warped
from trainable.models import segmenter
from trainable.optimizers import OptimizerSpec
from trainable.pseudo_labels import make_target
from trainable.pseudo_labels.rounds import round_target, two_sided_thresholds
from trainable.recipes.binary import constant_f1, sigmoid_task, tone_of, training_stream
from trainable.recipes.interface import (
    Batch,
    Examiner,
    Nets,
    Opt,
    Phase,
    PhaseContext,
    Preset,
    Recipe,
    Sched,
    StepOut,
)
from trainable.recipes.particles import ParticleExaminer
from trainable.recipes.rates import learning_rate
from trainable.recipes.rounds_config import SelfTrainingRoundsConfig
from trainable.recipes.watch import shared_rules
from trainable.task import IGNORE, Task

FOLDER = "rounds"


class SelfTrainingRounds(Recipe[SelfTrainingRoundsConfig]):
    """A UNet with one logit, taught by coordinates and then, round after round, by what it is sure of.

    At the start of a round the network predicts every training image as it is stored, not augmented. Pixels above
    one threshold become positive, pixels below another negative, marked pixels are positive in any case, and all
    others have no label. The optimizer starts anew in each round; the network goes on.
    """

    name: ClassVar[str] = "self_training_rounds"
    about: ClassVar[str] = "two classes, from coordinates or masks: supervised, then rounds on relaxing pseudo-labels"
    source: ClassVar[str] = "a cryo-EM particle-picking system: UNet, focal + Dice, adaptive thresholds"
    slots: ClassVar[Mapping[str, str]] = {
        "networks": "net (one logit, evaluated)",
        "targets": "per round, by two thresholds on sigmoids; marks overrule",
        "threshold": "two-sided, relaxed per round", "loss": "0.7 focal + 0.3 dice",
        "schedule": "AdamW with warm restarts, then a fresh Adam per round",
    }  # fmt: skip
    config: ClassVar[type[SelfTrainingRoundsConfig]] = SelfTrainingRoundsConfig
    objective: ClassVar[str] = "val/f1"
    metrics: ClassVar[tuple[str, ...]] = (
        "val/particle_precision", "val/particle_recall", "val/particle_f1", "val/auc_binary", "loss/focal", "loss/dice",
        "loss/tversky",
    )  # fmt: skip
    presets: ClassVar[Mapping[str, Preset]] = {
        "cryo": Preset(
            {"steps": 7_030, "batch_size": 128, "eval_every_steps": 370, "rounds.number": 3,
             "optimizer.restart_steps": 370, "loss.pos_weight": 1.0},
            "the documented run in its own length: 100 + 3 x 30 passes over 4,653 images in batches of 128",
        ),
        "cryo_unet": Preset(
            {"steps": 7_030, "batch_size": 128, "eval_every_steps": 370, "optimizer.restart_steps": 370,
             "architecture": "plain_unet", "encoder": "width64", "encoder_weights": None},
            "cryo with its own network: a plain U-Net of four levels, 64 channels at first, from random weights",
            baseline=False,
        ),
        "pos_weight": Preset({"loss.pos_weight": 10.0}, "its option for few particles: positives count tenfold"),
        "faster_decay": Preset(
            {"threshold.decay": 0.03}, "its option of thresholds that relax faster", baseline=False
        ),
        "legacy_labels": Preset(
            {"rounds.legacy_augmented_targets": True, "rounds.legacy_static_ignore": True},
            "its labels as it ran: predicted on augmented images, and ignored where the image had lain before",
            baseline=False,
        ),
    }  # fmt: skip

    def __init__(self, cfg: SelfTrainingRoundsConfig, task: Task) -> None:
        super().__init__(cfg, task)
        augment = cfg.augment
        self._warp = Warp(
            augment.rotate_p, augment.rotate_degrees, augment.elastic_p, augment.elastic_alpha, augment.elastic_sigma,
            augment.flip,
        )  # fmt: skip
        self._tone = tone_of(augment, augment.ice_p)
        self._writing = False

    @classmethod
    def adapt(cls, task: Task) -> Task:
        """One logit for the second of two classes."""
        return sigmoid_task(task, cls.name)

    def network(self) -> nn.Module:
        """A new network."""
        cfg = self.cfg
        return segmenter(cfg.architecture, cfg.encoder, cfg.encoder_weights, 1, init_from=cfg.init_from)

    def build(self) -> dict[str, nn.Module]:
        """The network alone."""
        return {"net": self.network()}

    # -- phases ------------------------------------------------------------------------------------------------

    def lengths(self) -> list[int]:
        """Steps of the supervised beginning and of every round; they add up to `steps`."""
        steps, number = self.cfg.steps, self.cfg.rounds.number
        first = min(max(1, round(steps * self.cfg.rounds.init_share)), steps - number)
        each, more = divmod(steps - first, number)
        return [first] + [each + (k < more) for k in range(number)]

    def phases(self) -> Sequence[Phase]:
        """One for the labels, one for each round."""
        return [self._phase(k, steps) for k, steps in enumerate(self.lengths())]

    def _phase(self, k: int, steps: int) -> Phase:
        cfg, opt = self.cfg, self.cfg.optimizer
        if k:
            name, split, labels = "pseudo", "labeled+unlabeled", "targets"
            spec = OptimizerSpec(("net",), lambda step: cfg.rounds.lr, name="adam", clip=cfg.grad_clip)
        else:
            name, split, labels = "labeled", "labeled", "mask"
            spec = OptimizerSpec(
                ("net",), self.first_rate, name=opt.name, head_lr_mult=opt.head_lr_mult, momentum=opt.momentum,
                weight_decay=opt.weight_decay, clip=cfg.grad_clip,
            )  # fmt: skip
        stream = training_stream(name, split, cfg.batch_size, cfg.crop_size, cfg.augment, labels)
        return Phase(
            name=f"round {k}" if k else "supervised", steps=steps,
            streams=(replace(stream, levels=cfg.augment.standardize),),
            optimizers={"net": spec}, fresh_optimizers=True, evaluate_at_end=True,
        )  # fmt: skip

    def first_rate(self, step: int) -> float:
        """The learning rate at a step of the supervised beginning."""
        return learning_rate(self.cfg, step, max(self.lengths()[0], self.cfg.optimizer.warmup_steps + 1))

    def thresholds(self, k: int) -> tuple[float, float]:
        """The thresholds (positive, negative) of round k, from 1 on."""
        limits = self.cfg.threshold
        return two_sided_thresholds(
            k, positive=limits.positive, negative=limits.negative, decay=limits.decay,
            positive_floor=limits.positive_floor, negative_ceiling=limits.negative_ceiling,
        )  # fmt: skip

    def begin_phase(self, phase: Phase, context: PhaseContext) -> None:
        """Write the round's targets."""
        if context.phase == 0:
            return
        # The rate of a round is its own: what a plateau cut ends with the supervised beginning.
        context.remember.update({"round": float(context.phase), "lr_scale/net": 1.0})
        positive, negative = self.thresholds(context.phase)
        self._writing = True
        try:
            for split in ("labeled", "unlabeled"):
                for position, probabilities in context.predict(split):
                    found = torch.from_numpy(probabilities[1])
                    known = context.labels(position) if split == "labeled" else np.full(found.shape, IGNORE, np.uint8)
                    target = round_target(
                        found, torch.from_numpy(known.astype(np.int64)), positive, negative,
                        keep_negatives=self.cfg.rounds.keep_original_negatives,
                    )  # fmt: skip
                    context.write(position, target.label.to(torch.uint8).numpy())
        finally:
            self._writing = False
        if self.cfg.rounds.reinit:
            context.nets["net"].load_state_dict(self.network().state_dict())

    def end_phase(self, phase: Phase, context: PhaseContext) -> None:
        """Leave weights, metrics and a figure in the round's folder."""
        folder = f"{FOLDER}/round-{context.phase}"
        weights = context.nets["net"].state_dict()
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
        context.save(f"{folder}/weights.safetensors", save(whole))
        kept: dict[str, Any] = {"round": context.phase, "phase": phase.name, "steps": phase.steps, **context.metrics}
        if context.phase:
            kept["threshold.positive"], kept["threshold.negative"] = self.thresholds(context.phase)
        context.save(f"{folder}/metrics.json", json.dumps(kept, indent=1).encode())
        context.save(f"{folder}/panels.png", self._figure(phase, context))

    def _figure(self, phase: Phase, context: PhaseContext) -> bytes:
        """Image, labels and prediction, of a validation image; in a round of a labeled one, with its target."""
        position, probabilities = next(iter(context.predict("labeled" if context.phase else "val")))
        shown: list[tuple[str, npt.NDArray[Any]]] = [
            ("image", context.image(position)),
            ("labels", figures.target_picture(context.labels(position))),
            ("probability", probabilities[1]),
        ]
        if position in context.targets and context.phase:
            shown.append(("pseudo-labels", figures.target_picture(context.targets[position])))
        f1 = context.metrics.get("val/f1")
        return figures.panels(shown, f"{phase.name}: val/f1 {'-' if f1 is None else f'{f1:.4f}'}")

    # -- views -------------------------------------------------------------------------------------------------

    def augmented(self, view: Views) -> Views:
        """A view as it is learned from: turned and bent with its labels, changed in brightness, scaled by its image."""
        moved = warped(view, self._warp)
        image = denormalize(moved.image)
        if view.level is not None:
            return replace(moved, image=toned_by_level(image, moved.valid, self._tone, view.level))
        return replace(moved, image=self._scaled(toned(image, self._tone), moved.valid))

    def _scaled(self, image: Tensor, valid: Tensor) -> Tensor:
        """float[B, 3, *S] in [0, 1] as the network takes it."""
        return standardized(image, valid) if self.cfg.augment.standardize else renormalize(image, valid)

    def probabilities(self, nets: Nets, image: Tensor) -> Tensor:
        """As for every recipe, of the image scaled as the network takes it."""
        valid = known_pixels(image)
        if self._writing and self.cfg.rounds.legacy_augmented_targets:
            image = self.augmented(Views(image, valid.long(), valid, (), (), valid.flatten(1).sum(1))).image
        else:
            image = self._scaled(denormalize(image), valid)
        return super().probabilities(nets, image)

    # -- one step ----------------------------------------------------------------------------------------------

    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        """L = loss.focal * focal + loss.dice * region over the pixels that have a label."""
        given, cfg = batch.get("pseudo") or batch["labeled"], self.cfg.loss
        view = self.augmented(given)
        if self.cfg.rounds.legacy_static_ignore and "pseudo" in batch:
            moved = view.label.masked_fill(view.label == IGNORE, 0)
            view = replace(view, label=torch.where(given.label == IGNORE, given.label, moved))
        with self.precision():
            logits = nets["net"](view.image)
        focal = losses.binary_focal_loss(
            logits, view.label, alpha=cfg.focal_alpha, gamma=cfg.focal_gamma, pos_weight=cfg.pos_weight,
            valid=view.valid, ignore_index=IGNORE,
        )  # fmt: skip
        region = self._region_loss(logits, view)
        total = cfg.focal * focal + cfg.dice * region
        torch.autograd.backward(total)
        opt["net"].step()
        parts = {"loss/total": total, "loss/focal": focal, f"loss/{cfg.region}": region}
        if "pseudo" not in batch:
            return StepOut(parts | {"loss/sup": total})
        target = make_target(view.label.clamp_max(1), view.label != IGNORE, view.valid, 2)
        # Which class a pixel between the thresholds would have had is not kept, so there are no shares per class.
        for per_class in ("st/selected", "st/predicted"):
            del target.stats[per_class]
        return StepOut(parts | {"loss/st": total}, target)

    def _region_loss(self, logits: Tensor, view: Views) -> Tensor:
        cfg = self.cfg.loss
        if cfg.region == "dice":
            return losses.binary_dice_loss(logits, view.label, valid=view.valid, ignore_index=IGNORE)
        return losses.tversky_loss(
            logits, view.label, alpha=cfg.tversky_alpha, beta=cfg.tversky_beta, valid=view.valid, ignore_index=IGNORE
        )

    def after_evaluation(self, record: Mapping[str, float | None], remember: dict[str, float]) -> None:
        """As for every recipe, in the supervised beginning."""
        if not remember.get("round"):
            super().after_evaluation(record, remember)

    # -- watching ----------------------------------------------------------------------------------------------

    def examiner(self, radius: int) -> Examiner | None:
        """Who scores picked particles."""
        picking = self.cfg.picking
        return ParticleExaminer(radius, picking.radius or max(1, radius), picking.threshold)

    def rules(self) -> list[health.Rule]:
        """Those of every recipe; the trivial answer is that every pixel is positive."""
        limits = self.cfg.health
        positive, negative = self.thresholds(1)
        named = f"threshold.positive={positive:g}, threshold.negative={negative:g}"
        made = shared_rules(self.cfg, self.task, self.objective, start_step=self.lengths()[0], threshold=named)
        if limits.plateau_evals:
            made.append(
                health.constant_predictor(self.objective, constant_f1(self.task), limits.plateau_evals, limits.action)
            )
        return made
