"""A recipe that uses all of the interface: two networks, two optimizers, two phases, targets, remembered numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trainable import losses
from trainable.config import RecipeConfig
from trainable.data.streams import Stream
from trainable.optimizers import OptimizerSpec
from trainable.pseudo_labels import make_target
from trainable.recipes.interface import Batch, Nets, Opt, Phase, PhaseContext, Recipe, Sched, StepOut


class TwoPhase(Recipe[RecipeConfig]):
    """A pixel classifier and a critic; the second phase trains on targets that the first one's network wrote."""

    name: ClassVar[str] = "two_phase"
    about: ClassVar[str] = "exercises the interface"
    source: ClassVar[str] = "the tests"
    config: ClassVar[type[RecipeConfig]] = RecipeConfig
    objective: ClassVar[str] = "loss/critic"
    direction: ClassVar[Literal["max", "min"]] = "min"

    def build(self) -> dict[str, nn.Module]:
        classes = self.task.num_classes
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.2), nn.Conv2d(8, classes, 1)
        )
        return {"net": net, "critic": nn.Sequential(nn.Conv2d(classes, 1, 1))}

    def phases(self) -> Sequence[Phase]:
        first = self.cfg.steps // 2
        optimizers = {
            "net": OptimizerSpec(("net",), lr=lambda step: 0.05, name="sgd", clip=1.0),
            "critic": OptimizerSpec(("critic",), lr=lambda step: 0.01, name="adam", betas=(0.5, 0.99)),
        }
        size, batch = self.cfg.crop_size, self.cfg.batch_size
        labeled = Stream("labeled", "labeled", batch, size)
        targets = Stream("labeled", "labeled+unlabeled", batch, size, labels="targets")
        return [
            Phase("first", first, (labeled,), optimizers, {"weight": lambda step: 0.1 * step}),
            Phase(
                "second", self.cfg.steps - first, (targets,), optimizers, {"weight": lambda step: 1.0},
                fresh_optimizers=True, evaluate_at_end=True,
            ),
        ]  # fmt: skip

    def begin_phase(self, phase: Phase, context: PhaseContext) -> None:
        began = f"began/{phase.name}"
        context.remember[began] = context.remember.get(began, 0.0) + 1
        if phase.name == "second":
            for position, probabilities in context.predict("labeled+unlabeled"):
                confident = probabilities.max(0) > 0.4
                context.write(position, np.where(confident, probabilities.argmax(0), 255).astype(np.uint8))

    def device_state(self) -> dict[str, Tensor]:
        return {"calls": torch.zeros(())}

    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        view, classes = batch["labeled"], self.task.num_classes
        logits = nets["net"](view.image)
        supervised = losses.cross_entropy(logits, view.label)
        fooling = nets["critic"](logits).mean()
        total = supervised + sched["weight"] * 0.01 * fooling
        total.backward()
        opt["critic"].zero_grad()
        opt["net"].step()
        critic = (nets["critic"](logits.detach()) ** 2).mean()
        critic.backward()
        opt["critic"].step()
        self.state["calls"].add_(1)
        target = make_target(view.label.clamp_max(classes - 1), view.label != 255, view.valid, classes)
        return StepOut({"loss/total": total, "loss/sup": supervised, "loss/critic": critic}, target)

    def after_evaluation(self, record: Mapping[str, float | None], remember: dict[str, float]) -> None:
        remember["lr_scale/net"] = remember.get("lr_scale/net", 1.0) * 0.9
