"""Everything that a recipe's knobs can change, of a few steps by hand: views, numbers, losses, weights, predictions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.support.linear_steps import linear_net
from trainable.config import resolve
from trainable.data.augment import make_views
from trainable.data.dataset import Dataset
from trainable.data.random import stream_rng
from trainable.evaluation import padded
from trainable.optimizers import Optimizer
from trainable.recipes.interface import Phase, PhaseContext, Recipe

STEPS = (0, 1, 3)
Trace = dict[str, Any]


def made(kind: type[Recipe[Any]], train: dict[str, Any], data: Dataset, *, linear: bool) -> Recipe[Any]:
    """A recipe; with a network whose prediction is linear in the image, where it lets one choose."""
    task = kind.adapt(data.task())
    recipe = kind(resolve(kind.config, train=train, class_names=task.class_names), task)
    if linear and task.ndim == 2 and hasattr(recipe, "network"):
        recipe.network = lambda: _linear(task.num_logits)  # type: ignore[attr-defined]
    return recipe


def _linear(num_logits: int) -> nn.Module:
    net = linear_net()
    net.heads[0] = nn.Conv2d(14, num_logits, 1)
    return net


def built(kind: type[Recipe[Any]], train: dict[str, Any], data: Dataset) -> Trace:
    """The networks as they are built: their modules, what learns of them, and their first weights."""
    torch.manual_seed(0)
    nets = made(kind, train, data, linear=False).build()
    learning = {f"{n}.{name}": p.requires_grad for n, net in nets.items() for name, p in net.named_parameters()}
    momenta = [m.momentum for net in nets.values() for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    return {"modules": {n: repr(net) for n, net in nets.items()}, "learning": learning, "momenta": momenta}


def traced(kind: type[Recipe[Any]], train: dict[str, Any], data: Dataset, *, linear: bool = True) -> Trace:
    """What the first steps of every phase give, and what is predicted after them."""
    recipe = made(kind, train, data, linear=linear)
    torch.manual_seed(0)
    nets = recipe.build()
    recipe.use_device_state(recipe.device_state())
    found: Trace = {}
    for number, phase in enumerate(recipe.phases()):
        targets: dict[int, Any] = {}
        torch.manual_seed(number)
        recipe.begin_phase(phase, _context(nets, number, recipe, data, targets))
        found[f"{number}/targets"] = {i: a.tobytes() for i, a in targets.items()}
        for key, value in _steps(recipe, nets, phase, data, targets):
            found[f"{number}/{key}"] = value
    found["weights"] = {n: [_plain(t) for t in net.state_dict().values()] for n, net in nets.items()}
    found |= _evaluated(recipe, nets, data)
    remember: dict[str, float] = {}
    for value in (1.0, 1.0, 1.0, 1.0):
        recipe.after_evaluation(dict.fromkeys(("val/loss", "val/miou", "val/f1"), value), remember)
        found[f"remembered/{len(found)}"] = dict(remember)
    return found


def _steps(
    recipe: Recipe[Any], nets: dict[str, nn.Module], phase: Phase, data: Dataset, targets: dict[int, Any]
) -> Iterator[tuple[str, Any]]:
    optimizers = {name: Optimizer(spec, nets) for name, spec in phase.optimizers.items()}
    for name, net in nets.items():
        net.train(any(name in spec.nets for spec in phase.optimizers.values()))
    yield "lengths", phase.steps
    samplers = {s.name: (s.start_step, data.sampler(s, 3, targets=targets)) for s in phase.streams}
    for step in (s for s in STEPS if s < phase.steps):
        batch = {name: make_views(sampler.batch(step)) for name, (start, sampler) in samplers.items() if step >= start}
        sched = {name: torch.tensor(schedule(step)) for name, schedule in phase.schedules.items()}
        for name, draw in phase.draws.items():
            sched[name] = torch.from_numpy(draw(stream_rng(3, name, step), step))
        for name, optimizer in optimizers.items():
            optimizer.set_lr(phase.optimizers[name].lr(step))
        torch.manual_seed(1000 + step)
        out = recipe.step(nets, batch, sched, optimizers)
        yield f"{step}/losses", {name: _plain(value) for name, value in out.losses.items()}
    yield "rates", {name: [spec.lr(step) for step in range(phase.steps)] for name, spec in phase.optimizers.items()}


def _context(
    nets: dict[str, nn.Module], number: int, recipe: Recipe[Any], data: Dataset, targets: dict[int, Any]
) -> PhaseContext:
    def predict(split: str) -> Iterator[tuple[int, Any]]:
        for position in data.positions(split):
            shape = data.shapes[position]
            positive = np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
            if number:
                image = padded([data.source.image(position)], recipe.stride)
                with torch.no_grad():
                    positive = positive * 0.9 + 0.1 * recipe.probabilities(nets, image)[0, 1].numpy()
            yield position, np.stack([1 - positive, positive])

    return PhaseContext(
        nets=nets, phase=number, predict=predict, image=data.source.image, labels=data.source.mask, targets=targets,
        write=targets.__setitem__, save=lambda name, content: None, metrics={}, remember={},
    )  # fmt: skip


def _evaluated(recipe: Recipe[Any], nets: dict[str, nn.Module], data: Dataset) -> Trace:
    for net in nets.values():
        net.eval()
    position = data.positions("val")[0]
    with torch.no_grad():
        found = recipe.probabilities(nets, padded([data.source.image(position)], recipe.stride))[0]
    found = found[(slice(None), *(slice(0, n) for n in data.shapes[position]))]
    trace: Trace = {"evaluated": _plain(found)}
    examiner = recipe.examiner(data.radius)
    if examiner is not None:
        # Blobs of every height and size, so that every cut tells.
        rows = np.abs(np.sin(np.arange(found[0].numel()) / 7.0)).reshape(found[0].shape).astype(np.float32)
        seen = 0.5 * found[1].numpy() + 0.5 * rows
        numbers = examiner.see(np.stack([1 - seen, seen]), data.source.mask(position), data.points.get(position))
        trace["examined"] = examiner.scores([numbers])
    return trace


def _plain(value: Tensor) -> Any:
    return value.detach().double().flatten().tolist() if value.numel() < 9 else value.detach().numpy().tobytes()
