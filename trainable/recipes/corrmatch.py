"""CorrMatch: UniMatch with logits that spread along the correlation of features, and one threshold that follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainable.data.augment import Views
from trainable.knob import knob, redeclared
from trainable.models import STRIDE, Segmenter
from trainable.pseudo_labels import Target, mean_probabilities
from trainable.recipes.fixmatch import (
    CITYSCAPES,
    CITYSCAPES_ABOUT,
    VOC,
    VOC_ABOUT,
    FixMatchConfig,
    StrongViewRecipe,
)
from trainable.recipes.interface import Nets, Preset, Sched
from trainable.recipes.selection import ThresholdMode, mixed
from trainable.recipes.unimatch import UniMatchConfig, weak_views


class CorrMatchConfig(FixMatchConfig):
    """Knobs of `corrmatch`."""

    threshold_mode: ThresholdMode = redeclared(FixMatchConfig, "threshold_mode", "corr_global")
    fp_dropout: float = redeclared(UniMatchConfig, "fp_dropout", 0.5)
    corr_share: float = knob(
        0.5, legal=(0.0, 1.0), search=(0.1, 0.9), help="Share of the spread logits in the labeled loss."
    )
    corr_channels: int = knob(
        64, legal=(1, 4096), search=(16, 256), scale="log", help="Channels in which places are compared."
    )


class Correlation(nn.Module):
    """Spreads logits from every place to the places whose features are like its own.

    Args:
        features: channels of the encoder's coarsest features. channels: in which places are compared.
    """

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(features, channels, 1)
        self.key = nn.Conv2d(features, channels, 1)

    def forward(self, features: Tensor, logits: Tensor, stride: int = 1) -> Tensor:
        """z'_i = sum_j a_ij z_j with a_i = softmax_j(q_i k_j / sqrt(channels)) over the places of the features.

        The logits themselves get no gradient from here, so that only the comparison learns.

        Args:
            features: float[B, F, h, w], over the image padded at its far ends to a multiple of the stride.
            logits: z, float[B, C, H, W], over the image. stride: to multiples of what the encoder pads.

        Returns:
            float32[B, C, H, W].
        """
        query, key = self.query(features).flatten(2), self.key(features).flatten(2)
        with torch.autocast(logits.device.type, enabled=False):
            like = (query.float().transpose(1, 2) @ key.float()) / query.shape[1] ** 0.5
            height, width = logits.shape[2:]
            padded = [side + -side % stride for side in (height, width)]
            rim = (0, padded[1] - width, 0, padded[0] - height)
            whole = F.pad(logits.detach().float(), rim, mode="replicate")
            coarse = F.interpolate(whole, features.shape[2:], mode="bilinear", align_corners=False)
            spread = coarse.flatten(2) @ like.softmax(2).transpose(1, 2)
            at_places = spread.view(*coarse.shape[:2], *features.shape[2:])
            return F.interpolate(at_places, padded, mode="bilinear", align_corners=False)[..., :height, :width]


class CorrMatch(StrongViewRecipe[CorrMatchConfig]):
    """UniMatch's four views, the fourth being the strong views' logits spread along feature correlations.

    L = ((1 - corr_share) labeled + corr_share spread labeled + st.weight (strong + strong + feature + spread) / 4) / 2.
    The original also lets labels grow along its correlation maps; here those are only learned. A place's weights
    sum to 1.
    """

    name: ClassVar[str] = "corrmatch"
    about: ClassVar[str] = "unimatch with logits spread along feature correlations, and one threshold that follows"
    source: ClassVar[str] = "CorrMatch (arXiv 2306.04300)"
    slots: ClassVar[Mapping[str, str]] = {
        "networks": "net (evaluated), or its average; correlation",
        "targets": "pixel, the same network on the weak view",
        "threshold": "one, that follows the classes' largest confidences, or any mode",
        "loss": "(ce / 2 + ce / 2 + st.weight * (ce / 4 + ce / 4 + ce / 4 + ce / 4)) / 2", "schedule": "poly",
    }  # fmt: skip
    config: ClassVar[type[CorrMatchConfig]] = CorrMatchConfig
    presets: ClassVar[Mapping[str, Preset]] = {
        "VOC": Preset(VOC, f"{VOC_ABOUT}, as unimatch"),
        "Cityscapes": Preset(CITYSCAPES | {"threshold_mode": "fixed"}, f"{CITYSCAPES_ABOUT}, as unimatch"),
    }
    num_strong: ClassVar[int] = 2
    learners: ClassVar[tuple[str, ...]] = ("net", "correlation")

    def build(self) -> dict[str, nn.Module]:
        """Those of the family, and what spreads logits."""
        nets = super().build()
        net = nets["net"]
        assert isinstance(net, Segmenter)
        with torch.no_grad():
            features = net.eval().encode(torch.zeros(1, 3, 64, 64))[-1].shape[1]
        return {**nets, "correlation": Correlation(features, self.cfg.corr_channels)}

    def parts(
        self, nets: Nets, labeled: Views, unlabeled: Views, sched: Sched
    ) -> tuple[Tensor, Tensor, Target]:
        """The labeled batch, the weak view with and without noise, two strong views, and what is spread of them."""
        net = nets["net"]
        assert isinstance(net, Segmenter)
        weak = weak_views(self, net, labeled.image, unlabeled.image, self.cfg.fp_dropout)
        if self.cfg.teacher == "ema":
            target = self.labels(nets, unlabeled, sched)
        else:
            target = self.select(mean_probabilities(weak.logits), unlabeled.valid, sched)
        image = torch.cat(unlabeled.strong)
        with self.precision():
            features = net.encode(image)
            strong = net.decode(features, image.shape[2:]).mean(0)
        spread = self.spread(nets, features[-1], strong)
        losses = [
            self.self_training_loss(logits, mixed(target, box))
            for views in (strong, spread)
            for logits, box in zip(views.chunk(2), unlabeled.boxes, strict=True)
        ]
        feature = self.self_training_loss(weak.noisy.mean(0), target)
        consistency = (losses[0] + losses[1] + feature + (losses[2] + losses[3]) / 2) / 4
        return self.both_supervised(nets, weak.heads.mean(0), weak.deepest, labeled.label), consistency, target

    def supervised_part(self, nets: Nets, labeled: Views) -> Tensor:
        """The labeled loss of the logits and of what is spread of them."""
        net = nets["net"]
        assert isinstance(net, Segmenter)
        with self.precision():
            features = net.encode(labeled.image)
            logits = net.decode(features, labeled.image.shape[2:]).mean(0)
        return self.both_supervised(nets, logits, features[-1], labeled.label)

    def both_supervised(self, nets: Nets, logits: Tensor, deepest: Tensor, label: Tensor) -> Tensor:
        """(1 - corr_share) * the loss of the logits + corr_share * that of what is spread of them."""
        share = self.cfg.corr_share
        plain = self.supervised_loss(logits, label)
        return (1 - share) * plain + share * self.supervised_loss(self.spread(nets, deepest, logits), label)

    def spread(self, nets: Nets, deepest: Tensor, logits: Tensor) -> Tensor:
        """Logits spread along the correlation of the coarsest features, float32[B, C, *S]."""
        with self.precision():
            spread: Tensor = nets["correlation"](deepest, logits, STRIDE)
        return spread
