"""One step of a recipe by hand: networks, optimizers, views and numbers without the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainable.config import resolve
from trainable.data.augment import Views
from trainable.optimizers import Optimizer
from trainable.recipes import get_recipe
from trainable.recipes.interface import Recipe, StepOut
from trainable.task import Task

NAMES = ("a", "b", "c")


def views(seed: int, batch: int = 2, side: int = 32, classes: int = 3) -> Views:
    """Noise with random labels; a column of padding and some ignored pixels in each image."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, 3, side, side, generator=generator)
    label = torch.randint(0, classes, (batch, side, side), generator=generator)
    label[:, 0] = 255
    valid = torch.ones(batch, side, side, dtype=torch.bool)
    valid[..., -1] = False
    label[..., -1] = 255
    strong = torch.randn(batch, 3, side, side, generator=generator)
    return Views(image * valid.unsqueeze(1), label, valid, (strong,), (valid & ~valid,), torch.arange(batch))


@dataclass
class Bench:
    """A recipe with everything that a step needs.

    Attributes:
        recipe: made for three classes. nets: in training mode, averages not. opt: with their rates of `step`.
    """

    recipe: Recipe[Any]
    nets: dict[str, nn.Module]
    opt: dict[str, Optimizer]
    phase: int = 0

    def sched(self, step: int, **numbers: float | list[float]) -> dict[str, Tensor]:
        """The phase's numbers at one of its steps, some of them replaced."""
        phase = self.recipe.phases()[self.phase]
        found = {name: torch.tensor(schedule(step)) for name, schedule in phase.schedules.items()}
        for name, draw in phase.draws.items():
            found[name] = torch.from_numpy(draw(np.random.default_rng(step), step))
        for name, optimizer in self.opt.items():
            optimizer.set_lr(phase.optimizers[name].lr(step))
        return found | {name: torch.tensor(value) for name, value in numbers.items()}

    def step(
        self, batch: dict[str, Views], step: int, seed: int = 0, **numbers: float | list[float]
    ) -> StepOut:
        """One step."""
        sched = self.sched(step, **numbers)
        torch.manual_seed(seed)
        return self.recipe.step(self.nets, batch, sched, self.opt)


def bench(recipe: str, train: dict[str, Any], phase: int = 0) -> Bench:
    """A recipe on tiny networks."""
    kind = get_recipe(recipe)
    task = Task(NAMES, (10, 20, 30))
    tiny = {"architecture": "deeplabv2", "encoder": "tu-test_resnet", "encoder_weights": None, "amp": "off"}
    made = kind(resolve(kind.config, train=tiny | train, class_names=NAMES), task)
    torch.manual_seed(7)
    nets = made.build()
    made.use_device_state(made.device_state())
    specs = made.phases()[phase].optimizers
    for name, net in nets.items():
        net.train(any(name in spec.nets for spec in specs.values()))
    return Bench(made, nets, {name: Optimizer(spec, nets) for name, spec in specs.items()}, phase)
