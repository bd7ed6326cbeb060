"""What recipes of pixel-level networks share: networks, streams, learning rates, the labeled loss, rules."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from trainable import ema, health, losses
from trainable.config import LabeledRecipeConfig, PixelRecipeConfig, RecipeConfig, per_class
from trainable.data.streams import Geometry, MultiScale, Photometric, Stream
from trainable.losses.reduction import Normalize
from trainable.models import segmenter
from trainable.optimizers import OptimizerSpec
from trainable.pseudo_labels.target import Target
from trainable.recipes.interface import Recipe
from trainable.recipes.rates import learning_rate
from trainable.recipes.watch import shared_rules
from trainable.task import IGNORE

L = TypeVar("L", bound=LabeledRecipeConfig)
P = TypeVar("P", bound=PixelRecipeConfig)


def optimizer_spec(cfg: RecipeConfig, *nets: str) -> OptimizerSpec:
    """The segmentation networks' optimizer, as `optimizer.*` and `grad_clip` say."""
    opt = cfg.optimizer
    return OptimizerSpec(
        nets=nets, lr=lambda step: learning_rate(cfg, step), name=opt.name, head_lr_mult=opt.head_lr_mult,
        momentum=opt.momentum, weight_decay=opt.weight_decay, clip=cfg.grad_clip,
    )  # fmt: skip


class LabeledRecipe(Recipe[L]):
    """A segmentation network `net`, its running average `ema`, and losses over labeled pixels."""

    @property
    def evaluated(self) -> str:
        return "ema"

    def network(self) -> nn.Module:
        """A new segmentation network."""
        cfg = self.cfg
        return segmenter(
            cfg.architecture, cfg.encoder, cfg.encoder_weights, self.task.num_logits, init_from=cfg.init_from
        )

    def build(self) -> dict[str, nn.Module]:
        net = self.network()
        return {"net": net, "ema": ema.copy_of(net)}

    def geometry(self) -> Geometry:
        """The weak view."""
        augment = self.cfg.augment
        return Geometry(augment.zoom_min, augment.zoom_max, augment.flip)

    def labeled_stream(self) -> Stream:
        """Labeled images in the weak view, at changing sizes where `scale_every_steps` says so."""
        cfg = self.cfg
        scale = MultiScale(cfg.scale_min, cfg.scale_max, cfg.scale_every_steps)
        return Stream("labeled", "labeled", cfg.batch_size, cfg.crop_size, self.geometry(), multiscale=scale)

    def class_weight(self) -> Tensor:
        """Class weights of cross-entropy, float32[C]."""
        return losses.class_weights(torch.tensor(self.task.class_pixels), self.cfg.loss.class_weights)

    def device_state(self) -> dict[str, Tensor]:
        return {"class_weight": self.class_weight()}

    def labeled_loss(
        self, logits: Tensor, label: Tensor, target: Target | None = None, normalize: Normalize = "valid"
    ) -> Tensor:
        """ce * CE + dice * Dice + focal * Focal over valid pixels, as `loss.*` says.

        Args:
            logits: float[B, C, *S]. label: int64[B, *S]. target: pseudo-labels whose weights count.
            normalize: whether CE and Focal are means over the pixels with a label (`valid`) or over all that are not
            padding (`all`); Dice has no such mean.
        """
        cfg = self.cfg.loss
        weight, valid = (None, None) if target is None else (target.weight, target.valid)
        total = logits.new_zeros((), dtype=torch.float32)
        if cfg.ce:
            total = total + cfg.ce * losses.cross_entropy(
                logits, label, class_weight=self.state["class_weight"], pixel_weight=weight, valid=valid,
                ignore_index=IGNORE, normalize=normalize,
            )  # fmt: skip
        if cfg.dice:
            total = total + cfg.dice * losses.dice_loss(
                logits, label, pixel_weight=weight, valid=valid, ignore_index=IGNORE
            )
        if cfg.focal:
            total = total + cfg.focal * losses.focal_loss(
                logits, label, alpha=cfg.focal_alpha, gamma=cfg.focal_gamma, pixel_weight=weight, valid=valid,
                ignore_index=IGNORE, normalize=normalize,
            )  # fmt: skip
        return total

    def rules(self) -> list[health.Rule]:
        return shared_rules(self.cfg, self.task, self.objective)


class PixelRecipe(LabeledRecipe[P]):
    """The same, with unlabeled images and pixel-level pseudo-labels."""

    def unlabeled_stream(self, num_strong: int = 1) -> Stream:
        """Unlabeled images in the weak view and some strong ones, from `st.start_step` on."""
        cfg, augment = self.cfg, self.cfg.augment
        return Stream(
            "unlabeled", "unlabeled", cfg.unlabeled_batch_size or cfg.batch_size, cfg.crop_size, self.geometry(),
            strong=Photometric(
                augment.jitter_p, augment.jitter, augment.gray_p, augment.blur_p, augment.cutmix_p,
                augment.cutmix_boxes,
            ),
            num_strong=num_strong, labels="none", start_step=cfg.st.start_step,
        )  # fmt: skip

    def st_weight(self, step: int) -> float:
        """`st.weight`, after a linear ramp of `st.ramp_steps` from `st.start_step`."""
        st = self.cfg.st
        if step < st.start_step:
            return 0.0
        share = min(1.0, (step - st.start_step + 1) / st.ramp_steps) if st.ramp_steps else 1.0
        return st.weight * share

    def thresholds(self) -> Tensor:
        """The configured threshold of every class, float32[C]."""
        return torch.tensor(per_class(self.cfg.threshold, self.task.class_names), dtype=torch.float32)

    def device_state(self) -> dict[str, Tensor]:
        return {**super().device_state(), "threshold": self.thresholds()}

    def rules(self) -> list[health.Rule]:
        named = ", ".join(f"threshold.{c}={t:g}" for c, t in self._named_thresholds())
        start = self.cfg.st.start_step
        return shared_rules(self.cfg, self.task, self.objective, start_step=start, threshold=named)

    def _named_thresholds(self) -> list[tuple[str, float]]:
        names = self.task.class_names
        return list(zip(names, per_class(self.cfg.threshold, names), strict=True))
