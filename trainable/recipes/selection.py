"""Pixel-level recipes that choose their pseudo-labels by a threshold mode; any mode in any of these recipes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainable import health, losses, schedules
from trainable.config import PixelRecipeConfig, per_class
from trainable.data.augment import mix
from trainable.knob import Section, knob
from trainable.losses.reduction import Normalize
from trainable.models import Segmenter
from trainable.pseudo_labels import (
    MODES,
    Numbers,
    Target,
    confidence_weighted,
    image_weighted,
    mean_probabilities,
    without_classes,
)
from trainable.recipes.interface import Nets, Sched
from trainable.recipes.pixel import PixelRecipe

ThresholdMode = Literal[
    "fixed", "per_class", "linear_ramp", "freematch", "flexmatch", "softmatch", "softmatch_per_class", "class_ratio",
    "corr_global", "entropy_pct",
]  # fmt: skip


class SelectionConfig(Section):
    """What the threshold modes may be told beside the thresholds; each mode reads its own part."""

    normalize: Normalize = knob(
        "valid", acts_from="self_training",
        help="Mean of the self-training loss over the selected pixels (valid), or over all but padding (all).",
    )  # fmt: skip
    momentum: float = knob(
        0.999, legal=(0.0, 1.0), search=(0.9, 0.9999), scale="log1m", acts_from="self_training",
        help="Share of its statistics that a mode that learns keeps in a step.",
    )  # fmt: skip
    ramp_start: float = knob(
        0.05, legal=(0.0, 0.9999), search=(0.01, 0.5), unit="probability", acts_from="self_training",
        help="Threshold at the first step of linear_ramp; `threshold` is its end.",
    )  # fmt: skip
    ramp_share: float = knob(
        0.6, legal=(0.0, 1.0), search=(0.1, 1.0), acts_from="self_training",
        help="Share of the run that linear_ramp takes.",
    )  # fmt: skip
    keep_ratio: float = knob(
        0.5, legal=(0.0, 1.0), search=(0.1, 0.9), acts_from="self_training",
        help="Share of each class's predictions that class_ratio keeps.",
    )  # fmt: skip
    drop_share: float = knob(
        0.2, legal=(0.0, 1.0), search=(0.05, 0.5), acts_from="self_training",
        help="Share of the pixels that entropy_pct drops at the first step; it falls linearly to 0.",
    )  # fmt: skip
    follow: Literal["mean", "quantile"] = knob(
        "mean", acts_from="self_training", help="What of the confidences freematch follows."
    )
    quantile: float = knob(
        0.8, legal=(0.001, 1.0), search=(0.5, 0.95), acts_from="self_training",
        help="The quantile that freematch follows where it follows one.",
    )  # fmt: skip
    num_sigmas: float = knob(
        2.0, legal=(0.1, 100.0), search=(1.0, 4.0), acts_from="self_training",
        help="Standard deviations of confidence that the width of softmatch's weight spans.",
    )  # fmt: skip
    fairness: float = knob(
        0.01, legal=(0.0, 10.0), search=(0.001, 0.1), scale="log", acts_from="self_training",
        help="Weight of freematch's fairness loss, a part of loss/st; 0 = none.",
    )  # fmt: skip
    weighting: Literal["none", "confidence", "image"] = knob(
        "none", acts_from="self_training",
        help="What chosen pixels count: all alike, by their confidence, or by how sure their image is.",
    )  # fmt: skip
    weight_gamma: float = knob(
        2.0, legal=(0.0, 100.0), search=(0.5, 4.0), acts_from="self_training",
        help="Power of the confidence where that weighs.",
    )  # fmt: skip
    weight_level: float = knob(
        0.97, legal=(0.0, 1.0), search=(0.8, 0.99), unit="probability", acts_from="self_training",
        help="An image weighs as much as its share of pixels that are at least so sure.",
    )  # fmt: skip
    exclude_classes: tuple[str, ...] = knob(
        (), acts_from="self_training", searchable=False, why_not="it names classes",
        help="Classes whose predictions never become pseudo-labels, whatever their threshold.",
    )  # fmt: skip


class SelectingConfig(PixelRecipeConfig):
    """The knobs that every recipe with a threshold mode shares."""

    threshold_mode: ThresholdMode = knob(
        "fixed", acts_from="self_training",
        help="How pixels are chosen. fixed, per_class, linear_ramp: above `threshold` (fixed: its mean over classes);"
             " freematch, flexmatch: `threshold` is the most; the others do without it.",
    )  # fmt: skip
    selection: SelectionConfig = SelectionConfig()
    joint_forward: bool = knob(
        True, searchable=False, why_not="it is a matter of speed", acts_from="self_training",
        help="One forward pass for the labeled and the unlabeled batch, so that they share batch statistics.",
    )  # fmt: skip


S = TypeVar("S", bound=SelectingConfig)


class SelectingRecipe(PixelRecipe[S]):
    """A pixel-level recipe whose pseudo-labels pass a threshold mode.

    Attributes:
        labelers: whoever gives pseudo-labels; each has a mode's state of its own.
    """

    metrics: ClassVar[tuple[str, ...]] = ("st/weight", "st/entropy_limit")
    labelers: ClassVar[tuple[str, ...]] = ("labels",)

    # -- the mode's state -------------------------------------------------------------------------------------

    def device_state(self) -> dict[str, Tensor]:
        """Class weights, thresholds, and what the mode has learned."""
        mode = MODES[self.cfg.threshold_mode]
        made = super().device_state()
        for labeler in self.labelers:
            state = mode.init(self.task.num_classes, "cpu")
            made |= {f"selection/{labeler}/{name}": tensor for name, tensor in state.items()}
        if excluded := self.cfg.selection.exclude_classes:
            made["excluded"] = torch.tensor([name in excluded for name in self.task.class_names])
        return made

    def use_device_state(self, state: dict[str, Tensor]) -> None:
        """Take the tensors, and sort out those of each labeler's mode."""
        super().use_device_state(state)
        self._modes: dict[str, dict[str, Tensor]] = {}
        for labeler in self.labelers:
            prefix = f"selection/{labeler}/"
            self._modes[labeler] = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}

    def thresholds(self) -> Tensor:
        """The configured threshold of every class, float32[C]; one for all in the mode `fixed`."""
        given = per_class(self.cfg.threshold, self.task.class_names)
        if self.cfg.threshold_mode == "fixed":
            given = (one_threshold(given),) * len(given)
        return torch.tensor(given, dtype=torch.float32)

    def selection_schedules(self) -> Mapping[str, Callable[[int], float]]:
        """What the modes need by step: how far linear_ramp has come, and what entropy_pct drops."""
        cfg, steps = self.cfg.selection, self.cfg.steps
        ramp = cfg.ramp_share * steps if self.cfg.threshold_mode == "linear_ramp" else 0.0
        return {
            "selection.ramp": lambda step: schedules.linear_ramp(step, 0.0, 1.0, ramp),
            "selection.drop_share": lambda step: cfg.drop_share * max(0.0, 1.0 - step / steps),
        }

    # -- targets and losses -----------------------------------------------------------------------------------

    def select(self, probabilities: Tensor, valid: Tensor, sched: Sched, labeler: str = "labels") -> Target:
        """Pseudo-labels from probabilities, as `threshold_mode` says; moves the mode's state on.

        Args:
            probabilities: float[B, C, *S]. valid: bool[B, *S]. sched: with `selection_schedules`.
            labeler: whose probabilities they are.
        """
        cfg = self.cfg.selection
        start = cfg.ramp_start
        limits = self.state["threshold"]
        if self.cfg.threshold_mode == "linear_ramp":
            limits = start + (limits - start) * sched["selection.ramp"]
        numbers = Numbers(
            threshold=limits, momentum=cfg.momentum, keep_ratio=cfg.keep_ratio,
            drop_share=sched["selection.drop_share"], num_sigmas=cfg.num_sigmas,
            quantile=cfg.quantile if cfg.follow == "quantile" else 0.0,
        )  # fmt: skip
        mode = MODES[self.cfg.threshold_mode]
        target = mode.select(self._modes[labeler], probabilities, valid, numbers, sum_over_workers)
        if cfg.exclude_classes:
            target = without_classes(target, self.state["excluded"])
        if cfg.weighting == "confidence":
            return confidence_weighted(target, probabilities, cfg.weight_gamma)
        return image_weighted(target, probabilities, cfg.weight_level) if cfg.weighting == "image" else target

    @torch.no_grad()
    def pseudo_labels(self, nets: Nets, image: Tensor, valid: Tensor, sched: Sched) -> Target:
        labeler = self.teacher if self.teacher in self.labelers else self.labelers[0]
        kept = {key: tensor.clone() for key, tensor in self._modes[labeler].items()}
        target = self.select(self.teach(nets[self.teacher], image), valid, sched, labeler)
        for key, tensor in kept.items():
            self._modes[labeler][key].copy_(tensor)
        return target

    @property
    def teacher(self) -> str:
        """Name of the network that labels the unlabeled images."""
        return "net"

    def self_training_loss(self, logits: Tensor, target: Target, labeler: str = "labels") -> Tensor:
        """The labeled loss on pseudo-labels, and freematch's fairness loss where that is the mode."""
        loss = self.labeled_loss(logits, target.label, target, self.cfg.selection.normalize)
        return loss + self.fairness_loss(logits, target, labeler)

    def fairness_loss(self, logits: Tensor, target: Target, labeler: str = "labels") -> Tensor | float:
        """`selection.fairness` times freematch's fairness loss; 0 in any other mode."""
        if self.cfg.threshold_mode != "freematch" or not self.cfg.selection.fairness:
            return 0.0
        state = self._modes[labeler]
        return self.cfg.selection.fairness * losses.fairness_loss(
            logits, target.weight > 0, state["probability"], state["histogram"]
        )

    # -- forward passes ---------------------------------------------------------------------------------------

    def heads(self, net: nn.Module, image: Tensor) -> Tensor:
        """Logits of every head, float[K, B, C, *S]."""
        assert isinstance(net, Segmenter)
        with self.precision():
            return net.head_logits(image)

    def both(self, net: nn.Module, labeled: Tensor, unlabeled: Tensor) -> tuple[Tensor, Tensor]:
        """Head logits of the labeled batch and mean logits of the unlabeled one, in one pass where they fit."""
        if self.cfg.joint_forward and labeled.shape[2:] == unlabeled.shape[2:]:
            heads = self.heads(net, torch.cat([labeled, unlabeled]))
            return heads[:, : len(labeled)], heads[:, len(labeled) :].mean(0)
        return self.heads(net, labeled), self.heads(net, unlabeled).mean(0)

    @torch.no_grad()
    def teach(self, net: nn.Module, image: Tensor) -> Tensor:
        """Mean of the heads' probabilities in evaluation mode, float32[B, C, *S]."""
        training = net.training
        net.eval()
        probabilities = mean_probabilities(self.heads(net, image))
        net.train(training)
        return probabilities

    def rules(self) -> list[health.Rule]:
        """The shared rules, and a threshold that every pixel passes."""
        floor = 1.0 / self.task.num_classes
        given = self.cfg.threshold_mode in ("fixed", "per_class", "linear_ramp")
        passed = [f"threshold.{c}={t:g}" for c, t in self._named_thresholds() if given and 0 < t <= floor]
        if not passed:
            return super().rules()
        text = f"the likeliest class of a pixel has at least {floor:.3f}, so every pixel passes {', '.join(passed)}"
        return [*super().rules(), health.Rule("vacuous_threshold", lambda record, memory: text, "warn")]

    def _named_thresholds(self) -> list[tuple[str, float]]:
        return list(zip(self.task.class_names, self.thresholds().tolist(), strict=True))


def one_threshold(given: tuple[float, ...]) -> float:
    """The mean of the classes' thresholds, those of 0 left out: a 0 takes a class out of the choice.

    Args:
        given: in [0, 1), one per class.

    Returns:
        The mean; 0 where all are 0.

    >>> one_threshold((0.0, 0.5, 0.7)), one_threshold((0.95, 0.95)), one_threshold((0.0,))
    (0.6, 0.95, 0.0)
    """
    counted = [t for t in given if t > 0]
    if not counted:
        return 0.0
    return min(max(math.fsum(counted) / len(counted), min(counted)), max(counted))


def mixed(target: Target, box: Tensor) -> Target:
    """A target whose pixels follow CutMix: inside the boxes they are the next image's.

    The counts stay those of the labels before mixing.

    Args:
        target: of the weak view. box: bool[B, *S], inside of them.
    """
    return Target(mix(target.label, box), mix(target.weight, box), mix(target.valid, box), target.stats)


def sum_over_workers(statistics: Tensor) -> Tensor:
    """The sum over all workers; a single worker's own statistics as they are."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return statistics
    total = statistics.clone()
    dist.all_reduce(total)
    return total
