"""The floor: the labeled images alone, with the same network, losses, schedule and average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from trainable import ema
from trainable.config import LabeledRecipeConfig
from trainable.recipes.interface import Batch, Nets, Opt, Phase, Sched, StepOut
from trainable.recipes.pixel import LabeledRecipe, optimizer_spec


class Supervised(LabeledRecipe[LabeledRecipeConfig]):
    """Labeled images only; what every semi-supervised recipe has to beat."""

    name: ClassVar[str] = "supervised"
    about: ClassVar[str] = "labeled images only: the floor that self-training has to beat"
    source: ClassVar[str] = "plain supervised training"
    slots: ClassVar[dict[str, str]] = {
        "networks": "net, ema (evaluated)", "targets": "none", "loss": "ce + dice + focal",
        "schedule": "cosine + warm-up",
    }  # fmt: skip
    config: ClassVar[type[LabeledRecipeConfig]] = LabeledRecipeConfig
    needs_unlabeled: ClassVar[bool] = False

    def phases(self) -> Sequence[Phase]:
        return [
            Phase(
                name="supervised", steps=self.cfg.steps, streams=(self.labeled_stream(),),
                optimizers={"net": optimizer_spec(self.cfg, "net")},
                schedules={"ema_decay": lambda step: self.cfg.ema_decay},
            )
        ]  # fmt: skip

    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        view = batch["labeled"]
        with self.precision():
            logits = nets["net"](view.image)
        loss = self.labeled_loss(logits, view.label)
        torch.autograd.backward(loss)
        opt["net"].step()
        ema.update(nets["ema"], nets["net"], sched["ema_decay"])
        return StepOut({"loss/total": loss, "loss/sup": loss})
