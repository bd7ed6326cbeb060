"""Thin surfaces in images or volumes: a composite loss, class weights, and the scores of a surface challenge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from trainable import health, losses
from trainable.data.augment import Views
from trainable.data.balance import Balance
from trainable.data.tone import denormalize, known_pixels, renormalize, stretched, toned
from trainable.data.warp import quarter_turned
from trainable.errors import ConfigError, Fault
from trainable.metrics.objective import Direction
from trainable.models import segmenter
from trainable.models_3d import fitted_window, sliding_window, volume_segmenter
from trainable.recipes.binary import sigmoid_task, tone_of, training_stream
from trainable.recipes.interface import Batch, Examiner, Nets, Opt, Phase, Preset, Recipe, Sched, StepOut
from trainable.recipes.pixel import optimizer_spec
from trainable.recipes.surface_config import SurfaceConfig
from trainable.recipes.surface_parts import PARTS, SCORES, SurfaceExaminer, composite_loss
from trainable.recipes.watch import shared_rules
from trainable.task import IGNORE, Task

_VOXELS = 1 << 15
"""Voxels in the windows of one forward pass, at least: below it a processor spends its time between the layers."""


class Surface(Recipe[SurfaceConfig]):
    """A network with one logit for thin structures, in images or in volumes.

    The objective is val/f1 and not val/loss, because trials with other weights have other losses. Both are reported,
    and beside val/loss that of the best constant answer: a curve that stays there has learned nothing.
    """

    name: ClassVar[str] = "surface"
    about: ClassVar[str] = "thin surfaces in images or volumes, by a loss of region, border, center line and connection"
    source: ClassVar[str] = "a scroll surface detection system: Dice + focal + boundary + clDice + connectivity"
    slots: ClassVar[Mapping[str, str]] = {
        "networks": "net (one logit, evaluated); in 3D a UNet in sliding windows",
        "targets": "labels alone",
        "threshold": "none", "loss": ".3 dice + .4 focal + .15 boundary + .1 cldice + .05 connectivity",
        "schedule": "warm-up, then cut at each plateau of val/loss",
    }  # fmt: skip
    config: ClassVar[type[SurfaceConfig]] = SurfaceConfig
    objective: ClassVar[str] = "val/f1"
    plateau: ClassVar[tuple[str, Direction] | None] = ("val/loss", "min")
    needs_unlabeled: ClassVar[bool] = False
    ndims: ClassVar[tuple[int, ...]] = (2, 3)
    metrics: ClassVar[tuple[str, ...]] = (
        "val/loss", "val/loss_constant", *(f"val/{name}" for name in SCORES), *(f"loss/{part}" for part in PARTS),
    )  # fmt: skip
    presets: ClassVar[Mapping[str, Preset]] = {
        "text": Preset(
            {"optimizer.lr": 1e-2, "loss.focal_alpha": 0.34, "loss.focal_balanced": True,
             "loss.background_weight": 1.94, "loss.foreground_weight": 0.52, "optimizer.plateau_factor": 0.5},
            "what the note on the fix says; alpha and the class weights together favor the background 7.2 to 1",
        ),
        "as_committed": Preset(
            {"optimizer.lr": 5e-3, "optimizer.warmup_steps": 0, "loss.focal_alpha": 0.25, "loss.focal_balanced": False},
            "what its code did: the note's warm-up, alpha and class weights were read by nobody",
        ),
        "seed_labels": Preset(
            {"unlabeled_as": "foreground"}, "its labels: voxels that nobody had labeled were taught as surface",
            baseline=False,
        ),
    }  # fmt: skip

    def __init__(self, cfg: SurfaceConfig, task: Task) -> None:
        super().__init__(cfg, task)
        self._watcher: SurfaceExaminer | None = None
        self._tone = tone_of(cfg.augment)

    @classmethod
    def adapt(cls, task: Task) -> Task:
        """One logit for the second of two classes."""
        return sigmoid_task(task, cls.name)

    def network(self) -> nn.Module:
        """A new network, for images or for volumes."""
        cfg = self.cfg
        if self.task.ndim == 2:
            return segmenter(cfg.architecture, cfg.encoder, cfg.encoder_weights, 1, init_from=cfg.init_from)
        stride = 2**cfg.volume.depth
        if cfg.crop_size % stride or cfg.crop_size < 2 * stride:
            raise ConfigError(
                [Fault("train.crop_size", "crop_size must be a multiple of 2^volume.depth, and at least twice that, "
                       f"but got crop_size={cfg.crop_size}, volume.depth={cfg.volume.depth}; change one of them")]
            )  # fmt: skip
        return volume_segmenter(1, filters=cfg.volume.filters, depth=cfg.volume.depth, init_from=cfg.init_from)

    def build(self) -> dict[str, nn.Module]:
        """The network alone."""
        return {"net": self.network()}

    def phases(self) -> Sequence[Phase]:
        """One phase, on the labels."""
        cfg = self.cfg
        stream = training_stream("labeled", "labeled", cfg.batch_size, cfg.crop_size, cfg.augment)
        return [
            Phase(
                name="supervised", steps=cfg.steps,
                streams=(replace(stream, balance=self._balance(), depth_multiple=2**cfg.volume.depth),),
                optimizers={"net": optimizer_spec(cfg, "net")},
            )
        ]  # fmt: skip

    def _balance(self) -> Balance | None:
        """How crops are chosen, by the labels as they are taught."""
        augment, unlabeled = self.cfg.augment, self.cfg.unlabeled_as
        if augment.balance_tries == 1:
            return None
        return Balance(
            augment.balance_tries, augment.balance_min, augment.balance_max,
            positive=(1, IGNORE) if unlabeled == "foreground" else (1,),
            negative=(0, IGNORE) if unlabeled == "background" else (0,),
        )  # fmt: skip

    def augmented(self, view: Views) -> Views:
        """A view as it is learned from: turned with its labels, stretched, changed in brightness."""
        augment = self.cfg.augment
        moved = quarter_turned(view, augment.rot90_p, flip=augment.flip)
        image = toned(stretched(denormalize(moved.image), moved.valid, augment.clip_percent), self._tone)
        return replace(moved, image=renormalize(image, moved.valid))

    def stretched(self, image: Tensor) -> Tensor:
        """A normalized image as the network takes it; what is exactly 0 is padding."""
        valid = known_pixels(image)
        return renormalize(stretched(denormalize(image), valid, self.cfg.augment.clip_percent), valid)

    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        """The composite loss over the voxels that have a label."""
        view = self.augmented(batch["labeled"])
        with self.precision():
            logits = nets["net"](view.image)
        truth, known = view.label == 1, (view.label != IGNORE) & view.valid
        if self.cfg.unlabeled_as != "ignore":
            if self.cfg.unlabeled_as == "foreground":
                truth = truth | ((view.label == IGNORE) & view.valid)
            known = view.valid
        probability = logits.float().sigmoid()
        total, parts = composite_loss(probability, truth.float().unsqueeze(1), known.unsqueeze(1), self.cfg.loss)
        torch.autograd.backward(total)
        opt["net"].step()
        named = {f"loss/{name}": value for name, value in parts.items()}
        return StepOut({"loss/total": total, "loss/sup": total, **named})

    # -- evaluation --------------------------------------------------------------------------------------------

    @property
    def stride(self) -> int:
        """Windows fit a volume of any size, so it is not padded."""
        return super().stride if self.task.ndim == 2 else 1

    def probabilities(self, nets: Nets, image: Tensor) -> Tensor:
        """As for every recipe; a volume is predicted window by window."""
        if self.task.ndim == 2:
            return super().probabilities(nets, self.stretched(image))

        def predict(window: Tensor) -> Tensor:
            with self.precision():
                logits: Tensor = nets[self.evaluated](self.stretched(window))
            return logits.float().sigmoid()

        side, batch = self.cfg.crop_size, self.cfg.batch_size
        window = fitted_window(image.shape[2], side, 2**self.cfg.volume.depth)
        # Twice a training batch takes less memory than one with its gradients does, and tiny windows little of any.
        windows = max(2 * batch * side**3, _VOXELS) // math.prod(window)
        positive = sliding_window(image, window, predict, batch_size=windows, overlap=self.cfg.volume.overlap)
        return torch.cat([1 - positive, positive], 1)

    def examiner(self, radius: int) -> Examiner | None:
        """Who scores surfaces; the constant answers are measured once, as they do not change."""
        known = self._watcher.constants if self._watcher is not None else None
        self._watcher = SurfaceExaminer(self.cfg.loss, self.cfg.post, known)
        return self._watcher

    def rules(self) -> list[health.Rule]:
        """Those of every recipe, a loss at the constant answer's, and two corrections of one imbalance."""
        made = shared_rules(self.cfg, self.task, self.objective)
        limits, loss = self.cfg.health, self.cfg.loss
        if limits.plateau_evals:
            made.append(health.no_better_than("val/loss", "val/loss_constant", limits.plateau_evals, limits.action))
        twice = loss.focal_balanced and loss.focal_alpha != 0.5 and loss.background_weight != loss.foreground_weight
        if loss.focal and twice:
            pair = losses.focal_pair(loss.focal_alpha, loss.background_weight, loss.foreground_weight)
            text = f"focal_alpha and the class weights both act: background {pair[0]:.2f} to foreground {pair[1]:.2f}"
            made.append(health.Rule("double_weighting", lambda record, memory: text, "warn"))
        return made
