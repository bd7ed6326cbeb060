"""CorrMatch: UniMatch with logits that spread along the correlation of features, and one threshold that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainable.data.augment import Views
from trainable.knob import knob, redeclared
from trainable.models import STRIDE, Segmenter
from trainable.pseudo_labels import Target, grow, mean_probabilities
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
    grow_regions: int = knob(
        128, legal=(0, 4096), search=(0, 256), unit="places", acts_from="self_training",
        help="Places per image, drawn at random, whose like may take a label as a whole; 0 = labels do not grow.",
    )  # fmt: skip


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
            height, width = logits.shape[2:]
            padded = _padded(logits.shape[2:], stride)
            rim = (0, padded[1] - width, 0, padded[0] - height)
            whole = F.pad(logits.detach().float(), rim, mode="replicate")
            coarse = F.interpolate(whole, features.shape[2:], mode="bilinear", align_corners=False)
            spread = coarse.flatten(2) @ _alike(query, key).transpose(1, 2)
            at_places = spread.view(*coarse.shape[:2], *features.shape[2:])
            return F.interpolate(at_places, padded, mode="bilinear", align_corners=False)[..., :height, :width]

    @torch.no_grad()
    def regions(self, features: Tensor, places: Tensor, size: Sequence[int], stride: int = 1) -> Tensor:
        """What is like some places: where a_ij, brought to the image's size, is above the middle of its range.

        Args:
            features: float[B, F, h, w], as above. places: int64[M], i, in [0, h w). size: of the image.
            stride: to multiples of what the encoder pads.

        Returns:
            bool[B, M, *size].
        """
        query, key = self.query(features).flatten(2), self.key(features).flatten(2)
        with torch.autocast(features.device.type, enabled=False):
            alike = _alike(query.index_select(2, places), key)
            alike = alike.view(*alike.shape[:2], *features.shape[2:])
            return torch.stack([_above_middle(maps, size, _padded(size, stride)) for maps in alike])


def _alike(query: Tensor, key: Tensor) -> Tensor:
    """softmax_j(q_i k_j / sqrt(channels)), float32[B, I, J]; query: float[B, D, I], key: float[B, D, J]."""
    alike: Tensor = (query.float().transpose(1, 2) @ key.float()) / query.shape[1] ** 0.5
    return alike.softmax(2)


def _padded(size: Sequence[int], stride: int) -> list[int]:
    return [side + -side % stride for side in size]


def _above_middle(maps: Tensor, size: Sequence[int], padded: Sequence[int]) -> Tensor:
    """Where each map of one image is above the middle of its range; nowhere on a flat one. float[M, h, w]."""
    large = F.interpolate(maps.unsqueeze(0), list(padded), mode="bilinear", align_corners=False)[0]
    large = large[:, : size[0], : size[1]]
    middle: Tensor = (large.amin((1, 2), keepdim=True) + large.amax((1, 2), keepdim=True)) / 2
    return large > middle


class CorrMatch(StrongViewRecipe[CorrMatchConfig]):
    """UniMatch's four views, the fourth being the strong views' logits spread along feature correlations.

    L = ((1 - corr_share) labeled + corr_share spread labeled + st.weight (strong + strong + feature + spread) / 4) / 2.
    The labels of the strong views grow: what is like a place takes one class as a whole where nearly all of it is sure
    of that, outside of the pasted box. The original has a soft loss in the second strong view's place, and spreads the
    weak view, too; here a place's weights sum to 1.
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
        "Cityscapes": Preset(
            CITYSCAPES | {"threshold_mode": "fixed", "grow_regions": 0}, f"{CITYSCAPES_ABOUT}, as unimatch"
        ),
    }
    metrics: ClassVar[tuple[str, ...]] = (*StrongViewRecipe.metrics, "st/pixels_grown")
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
        there, target = self.grown(nets, weak.weak_deepest, target, unlabeled.boxes)
        losses = [
            self.self_training_loss(logits, labels)
            for views in (strong, spread)
            for logits, labels in zip(views.chunk(2), there, strict=True)
        ]
        feature = self.self_training_loss(weak.noisy.mean(0), target)
        consistency = (losses[0] + losses[1] + feature + (losses[2] + losses[3]) / 2) / 4
        return self.both_supervised(nets, weak.heads.mean(0), weak.deepest, labeled.label), consistency, target

    def grown(
        self, nets: Nets, deepest: Tensor, target: Target, boxes: Sequence[Tensor]
    ) -> tuple[list[Target], Target]:
        """The labels of each strong view, grown outside of its box, and those of the weak view with what was counted.

        Args:
            nets: the networks. deepest: the weak view's coarsest features. target: its labels. boxes: of the views.
        """
        there, limits = [mixed(target, box) for box in boxes], target.stats.get("threshold")
        if not self.cfg.grow_regions or limits is None:
            return there, target
        number = deepest.shape[2] * deepest.shape[3]
        places = torch.randint(number, (self.cfg.grow_regions,), device=deepest.device)
        correlation = nets["correlation"]
        assert isinstance(correlation, Correlation)
        with self.precision():
            alike = correlation.regions(deepest, places, target.label.shape[1:], STRIDE)
        there = [grow(labels, alike & ~box.unsqueeze(1), limits) for labels, box in zip(there, boxes, strict=True)]
        counted = {"st/pixels_grown": torch.stack([labels.stats["st/pixels_grown"] for labels in there]).sum()}
        return there, replace(target, stats=target.stats | counted)

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
