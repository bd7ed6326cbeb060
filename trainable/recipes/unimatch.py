"""UniMatch: two strong views and a view with noisy features, all held to the labels of the weak view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainable.data.augment import Views
from trainable.knob import knob
from trainable.models import Segmenter
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
from trainable.recipes.perturbation import channel_dropout
from trainable.recipes.selection import mixed


class UniMatchConfig(FixMatchConfig):
    """Knobs of `unimatch`."""

    fp_dropout: float = knob(
        0.5, legal=(0.0, 0.99), search=(0.0, 0.7), acts_from="self_training",
        help="Chance that a channel of the encoder's features is dropped in the feature view.",
    )  # fmt: skip
    fp_share: float = knob(
        0.5, legal=(0.0, 1.0), search=(0.0, 1.0), acts_from="self_training",
        help="Share of the feature view in the self-training loss; the two strong views halve the rest.",
    )  # fmt: skip


class UniMatch(StrongViewRecipe[UniMatchConfig]):
    """FixMatch with two strong views and a feature view: weights 0.25, 0.25 and 0.5.

    Labels come from the same training-mode pass that the feature view starts from, as in the original, unless the
    average is the teacher. CutMix pastes the next image of the batch, with its label, where the original draws a
    second unlabeled batch for it.
    """

    name: ClassVar[str] = "unimatch"
    about: ClassVar[str] = "two strong views and one with noisy features, held to the labels of the weak view"
    source: ClassVar[str] = "UniMatch (arXiv 2208.09910)"
    slots: ClassVar[Mapping[str, str]] = {
        "networks": "net (evaluated), or its average", "targets": "pixel, the same network on the weak view",
        "threshold": "fixed 0.95, or any mode", "loss": "(ce + st.weight * (ce / 4 + ce / 4 + ce / 2)) / 2",
        "schedule": "poly",
    }  # fmt: skip
    config: ClassVar[type[UniMatchConfig]] = UniMatchConfig
    presets: ClassVar[Mapping[str, Preset]] = {
        "VOC": Preset(VOC, VOC_ABOUT), "Cityscapes": Preset(CITYSCAPES, CITYSCAPES_ABOUT),
    }  # fmt: skip
    num_strong: ClassVar[int] = 2

    def parts(
        self, nets: Nets, labeled: Views, unlabeled: Views, sched: Sched
    ) -> tuple[Tensor, Tensor, Target]:
        """The labeled batch, the weak view with and without noise, and two strong views."""
        net = nets["net"]
        weak = weak_views(self, net, labeled.image, unlabeled.image, self.cfg.fp_dropout)
        if self.cfg.teacher == "ema":
            target = self.labels(nets, unlabeled, sched)
        else:
            target = self.select(mean_probabilities(weak.logits), unlabeled.valid, sched)
        strong = self.heads(net, torch.cat(unlabeled.strong)).mean(0).chunk(2)
        views = [
            self.self_training_loss(logits, mixed(target, box))
            for logits, box in zip(strong, unlabeled.boxes, strict=True)
        ]
        share = self.cfg.fp_share
        features = self.self_training_loss(weak.noisy.mean(0), target)
        consistency = (1 - share) * (views[0] + views[1]) / 2 + share * features
        return self.supervised_loss(weak.heads.mean(0), labeled.label), consistency, target


@dataclass(frozen=True)
class WeakViews:
    """What the labeled batch and the weak view give.

    Attributes:
        heads: of the labeled batch, float[K, B, C, *S]. deepest: its coarsest features, float[B, F, *s].
        weak_deepest: those of the weak view. logits: of its heads. noisy: of the same with dropped features.
    """

    heads: Tensor
    deepest: Tensor
    weak_deepest: Tensor
    logits: Tensor
    noisy: Tensor


def weak_views(recipe: StrongViewRecipe[Any], net: nn.Module, labeled: Tensor, weak: Tensor, p: float) -> WeakViews:
    """The labeled batch and the weak view, this one also with channels of its features dropped.

    Args:
        recipe: says whether both take one pass. net: the network. labeled: images. weak: images. p: chance of a drop.
    """
    assert isinstance(net, Segmenter)
    joint = recipe.cfg.joint_forward and labeled.shape[2:] == weak.shape[2:]
    start = len(labeled) if joint else 0
    with recipe.precision():
        features = net.encode(torch.cat([labeled, weak]) if joint else weak)
        noisy = channel_dropout([f[start:] for f in features], weak, p)
        both = [torch.cat(pair) for pair in zip(features, noisy, strict=True)]
        logits = net.decode(both, weak.shape[2:])
        alone = [f[:start] for f in features] if joint else net.encode(labeled)
        heads = logits[:, :start] if joint else net.decode(alone, labeled.shape[2:])
    stop = start + len(weak)
    return WeakViews(heads, alone[-1], features[-1][start:], logits[:, start:stop], logits[:, stop:])
