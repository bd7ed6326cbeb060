"""DiverseHead: many heads on one network, whose vote labels the images; freezing or dropout keeps them different."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
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
from trainable.knob import knob, redeclared
from trainable.models import Segmenter, load_weights, read_weights, segmenter
from trainable.optimizers import OptimizerSpec
from trainable.pseudo_labels.images import vote_target
from trainable.pseudo_labels.target import Target
from trainable.recipes.interface import Batch, Draw, Nets, Opt, Phase, Preset, Recipe, Sched, StepOut
from trainable.recipes.rates import learning_rate
from trainable.recipes.selection import SelectingConfig
from trainable.recipes.watch import shared_rules


class DiverseOptimizerConfig(OptimizerConfig):
    """The network's optimizer."""

    lr_floor: float = knob(
        1e-6, legal=(0.0, 1.0), search=(1e-7, 1e-4), scale="log",
        help="Rate below which poly and step_poly do not go, of the encoder and of the rest each.",
    )  # fmt: skip


class DiverseSelfTrainingConfig(SelfTrainingConfig):
    """When and how strongly the vote acts."""

    start_step: int = redeclared(SelfTrainingConfig, "start_step", 0, search=(0, 1500))
    ramp_steps: int = redeclared(SelfTrainingConfig, "ramp_steps", 0, search=(0, 7500))
    weight: float = redeclared(
        SelfTrainingConfig, "weight", 7.5, search=(0.5, 30.0),
        help="Weight of the loss of the head that learns the vote.",
    )  # fmt: skip


class DiverseHeadConfig(RecipeConfig):
    """Knobs of `diverse_head`."""

    steps: int = redeclared(RecipeConfig, "steps", 15_000)
    eval_every_steps: int = redeclared(RecipeConfig, "eval_every_steps", 200)
    batch_size: int = redeclared(RecipeConfig, "batch_size", 5)
    patience: int = redeclared(RecipeConfig, "patience", 0)
    grad_clip: float = redeclared(RecipeConfig, "grad_clip", 0.0)
    unlabeled_batch_size: int | None = redeclared(PixelRecipeConfig, "unlabeled_batch_size", None)
    optimizer: DiverseOptimizerConfig = DiverseOptimizerConfig(
        lr=1e-3, weight_decay=1e-4, warmup_steps=0, schedule="poly"
    )
    st: DiverseSelfTrainingConfig = DiverseSelfTrainingConfig()
    num_heads: int = knob(10, legal=(1, 32), search=(2, 10), help="Heads that vote.")
    head_channels: int = knob(256, legal=(1, 4096), search=(32, 256), scale="log", help="Width of a head.")
    head_dropout: float = knob(
        0.0, legal=(0.0, 0.95), search=(0.0, 0.7), help="Dropout inside each head, which keeps the heads different."
    )  # fmt: skip
    vote_mean_weight: float = knob(
        5.0, legal=(0.0, 1000.0), search=(0.0, 10.0), unit="votes", acts_from="self_training",
        help="Votes of the heads' sum, beside one of each head.",
    )  # fmt: skip
    freeze_draws: int = knob(
        5, legal=(0, 1000), search=(1, 9), unit="heads",
        help="Heads drawn per step, with replacement, that do not learn in it; 0 = all learn.",
    )  # fmt: skip
    freeze_start_step: int = knob(
        3500, legal=(0, 10**9), search=(0, 5000), unit="steps", in_steps=True, help="First step with frozen heads."
    )  # fmt: skip
    bn_momentum: float = knob(
        0.1, legal=(0.0, 1.0), search=(0.001, 0.999), scale="log",
        help="Share of the newest batch in the running statistics of the encoder's batch norm.",
    )  # fmt: skip
    joint_forward: bool = redeclared(SelectingConfig, "joint_forward", True)
    health: HealthConfig = HealthConfig()


class Head(nn.Sequential):
    """A 3x3 convolution with batch norm, ReLU and dropout, and a 1x1 convolution to the classes.

    Args:
        in_channels: of the decoder's features. channels: between the convolutions. num_logits: C. dropout: there.
    """

    def __init__(self, in_channels: int, channels: int, num_logits: int, dropout: float) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Dropout(dropout), nn.Conv2d(channels, num_logits, 1),
        )  # fmt: skip


class Keep:
    """Which heads learn in a step: 1, or 0 for those drawn, with replacement, to stay as they are.

    Args:
        num_heads: K. draws: heads per step, some of them more than once. start_step: before it every head learns.

    >>> Keep(3, 0, 0)(np.random.default_rng(0), 7).tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, num_heads: int, draws: int, start_step: int) -> None:
        self.num_heads, self.draws, self.start_step = num_heads, draws, start_step

    def __call__(self, rng: np.random.Generator, step: int) -> npt.NDArray[np.float32]:
        """float32[K], for one step of the phase."""
        keep = np.ones(self.num_heads, np.float32)
        if step >= self.start_step:
            keep[rng.integers(self.num_heads, size=self.draws)] = 0.0
        return keep


_AS_PUBLISHED: dict[str, Any] = {
    "architecture": "deeplabv3plus", "encoder": "resnet50", "steps": 15_000, "eval_every_steps": 200, "batch_size": 5,
    "patience": 0, "grad_clip": 0.0, "optimizer.name": "sgd", "optimizer.lr": 1e-3, "optimizer.head_lr_mult": 10.0,
    "optimizer.momentum": 0.9, "optimizer.weight_decay": 1e-4, "optimizer.warmup_steps": 0,
    "optimizer.schedule": "poly", "optimizer.power": 0.9, "optimizer.lr_floor": 1e-6,
    "bn_momentum": 0.01, "num_heads": 10, "head_channels": 256, "vote_mean_weight": 5.0,
    "st.start_step": 0, "st.ramp_steps": 0, "joint_forward": False,
}  # fmt: skip


class DiverseHead(Recipe[DiverseHeadConfig]):
    """One network with many heads: each learns the labels, and one at a time what all of them vote for."""

    name: ClassVar[str] = "diverse_head"
    about: ClassVar[str] = "ten heads vote on every pixel; a random one learns the vote; freezing keeps them different"
    source: ClassVar[str] = "DiverseHead of DiverseNet (arXiv 2311.13716)"
    slots: ClassVar[Mapping[str, str]] = {
        "networks": "net (heads summed, evaluated)",
        "targets": "pixel, all of them, of labeled images too: the vote of the heads", "threshold": "none",
        "loss": "sum of the heads' ce + st.weight ce of one head", "schedule": "poly with a floor",
    }  # fmt: skip
    config: ClassVar[type[DiverseHeadConfig]] = DiverseHeadConfig
    presets: ClassVar[Mapping[str, Preset]] = {
        "DF": Preset(
            _AS_PUBLISHED | {
                "freeze_draws": 5, "freeze_start_step": 3500, "head_dropout": 0.0, "st.weight": 7.5,
            },
            "dynamic freezing: five draws of ten heads stay as they are in each step after 3,500",
        ),
        "DT": Preset(
            _AS_PUBLISHED | {"freeze_draws": 0, "head_dropout": 0.5, "st.weight": 15.0},
            "dropout in every head instead of freezing",
        ),
    }  # fmt: skip

    def build(self) -> dict[str, nn.Module]:
        """The network: heads of their own on the decoder of an architecture."""
        cfg = self.cfg
        net = segmenter(cfg.architecture, cfg.encoder, cfg.encoder_weights, self.task.num_logits)
        for module in net.encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = cfg.bn_momentum
        channels = _features(net)
        net.heads = nn.ModuleList(
            [Head(channels, cfg.head_channels, self.task.num_logits, cfg.head_dropout) for _ in range(cfg.num_heads)]
        )
        net.head_dropout = nn.ModuleList([nn.Identity() for _ in range(cfg.num_heads)])
        if cfg.init_from is not None:
            load_weights(net, read_weights(cfg.init_from), cfg.init_from)
        return {"net": net}

    def phases(self) -> Sequence[Phase]:
        """One phase."""
        cfg, opt = self.cfg, self.cfg.optimizer
        weak = Geometry(cfg.augment.zoom_min, cfg.augment.zoom_max, cfg.augment.flip)
        number = cfg.unlabeled_batch_size or cfg.batch_size
        streams = (
            Stream("labeled", "labeled", cfg.batch_size, cfg.crop_size, weak),
            Stream("unlabeled", "unlabeled", number, cfg.crop_size, weak, labels="none", start_step=cfg.st.start_step),
        )
        net = OptimizerSpec(
            ("net",), lambda step: learning_rate(cfg, step), name=opt.name, head_lr_mult=opt.head_lr_mult,
            lr_floor=min(opt.lr_floor, opt.lr) if opt.schedule in ("poly", "step_poly") else 0.0, momentum=opt.momentum,
            weight_decay=opt.weight_decay, clip=cfg.grad_clip,
        )  # fmt: skip
        keep = Keep(cfg.num_heads, cfg.freeze_draws, cfg.freeze_start_step)

        def head(rng: np.random.Generator, step: int) -> npt.NDArray[np.float32]:
            return np.array([rng.integers(cfg.num_heads)], np.float32)

        draws: dict[str, Draw] = {"keep": keep, "head": head}
        return [Phase("diverse", cfg.steps, streams, {"net": net}, {"st.weight": self.st_weight}, draws)]

    def st_weight(self, step: int) -> float:
        """`st.weight`, after a linear ramp of `st.ramp_steps` from `st.start_step`."""
        st = self.cfg.st
        if step < st.start_step:
            return 0.0
        return st.weight * (min(1.0, (step - st.start_step + 1) / st.ramp_steps) if st.ramp_steps else 1.0)

    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        """Every head on the labels, one head on the vote, and an update of the heads that are not frozen."""
        net = nets["net"]
        assert isinstance(net, Segmenter)
        labeled, unlabeled = batch["labeled"], batch.get("unlabeled")
        views = [labeled] if unlabeled is None else [labeled, unlabeled]
        images = [view.image for view in views]
        with self.precision():
            passes = [torch.cat(images)] if self.cfg.joint_forward else images
            heads = torch.cat([net.head_logits(image) for image in passes], 1).float()
        number, own = len(heads), heads[:, : len(labeled.image)]
        # A mean over all heads' pixels, times their number, is the sum of their means: they count the same pixels.
        label = labeled.label.repeat(number, 1, 1)
        supervised = number * losses.cross_entropy(own.flatten(0, 1), label)
        found, target = {"loss/sup": supervised}, None
        total = supervised
        if unlabeled is not None:
            target = vote_target(heads, self.cfg.vote_mean_weight, torch.cat([view.valid for view in views]))
            found["loss/st"] = losses.cross_entropy(heads.index_select(0, sched["head"].long())[0], target.label)
            total = total + sched["st.weight"] * found["loss/st"]
        torch.autograd.backward(total)
        # Before the norm is clipped: what a frozen head would have learned is no part of it.
        frozen = zip(net.heads, sched["keep"], strict=True) if self.cfg.freeze_draws else ()
        held = [(list(head.parameters()), keep) for head, keep in frozen]
        for parameters, keep in held:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], keep)
        opt["net"].step(held)
        return StepOut({"loss/total": total, **found}, target)

    def probabilities(self, nets: Nets, image: Tensor) -> Tensor:
        """Softmax of the sum of the heads' logits."""
        net = nets["net"]
        assert isinstance(net, Segmenter)
        with self.precision():
            heads = net.head_logits(image)
        return heads.float().sum(0).softmax(1)

    @torch.no_grad()
    def pseudo_labels(self, nets: Nets, image: Tensor, valid: Tensor, sched: Sched) -> Target:
        """The vote of the heads, in evaluation mode."""
        net = nets["net"]
        assert isinstance(net, Segmenter)
        training = net.training
        net.eval()
        with self.precision():
            heads = net.head_logits(image).float()
        net.train(training)
        return vote_target(heads, self.cfg.vote_mean_weight, valid)

    def rules(self) -> list[health.Rule]:
        """The shared rules; every pixel is selected, so none of them watches selection."""
        return shared_rules(self.cfg, self.task, self.objective)


def _features(net: Segmenter) -> int:
    """Channels of the decoder's features; those of DeepLabV3+ are taken before its last block, as in the original."""
    block = getattr(net.decoder, "block2", None)
    if block is not None:
        net.decoder.block2 = nn.Identity()
        first = block[0]
    else:
        first = net.heads[0]
    convolutions = [module for module in first.modules() if isinstance(module, nn.Conv2d)]
    return convolutions[0].in_channels
