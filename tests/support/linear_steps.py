"""One step of a recipe by hand: a network without dropout or batch statistics, views, and numbers by name."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trainable.config import RecipeConfig, resolve
from trainable.data.augment import Views, mix
from trainable.models import Segmenter
from trainable.optimizers import Optimizer
from trainable.recipes.interface import Recipe, StepOut
from trainable.task import Task

CLASSES = ("a", "b", "c")
SIDE = 32
R = TypeVar("R", bound=Recipe[Any])


class Encoder(nn.Module):
    """The image, and two maps of it."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        fine = self.fine(image)
        return [image, fine, self.coarse(fine[..., ::2, ::2])]


class Decoder(nn.Module):
    """Both maps on the fine grid."""

    def forward(self, features: list[Tensor]) -> Tensor:
        _, fine, coarse = features
        return torch.cat([fine, nn.functional.interpolate(coarse, scale_factor=2.0)], 1)


def linear_net() -> Segmenter:
    """A segmentation network whose prediction of a pixel is a linear function of the image."""
    whole = nn.Module()
    whole.encoder, whole.decoder, whole.segmentation_head = Encoder(), Decoder(), nn.Conv2d(14, len(CLASSES), 1)
    return Segmenter(whole)


def labeled_views(seed: int = 0, size: int = 2) -> Views:
    """Random images with random labels, a tenth of them ignored."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(0, len(CLASSES), (size, SIDE, SIDE), generator=draw)
    label[torch.rand(label.shape, generator=draw) < 0.1] = 255
    image = torch.randn(size, 3, SIDE, SIDE, generator=draw)
    return Views(image, label, torch.ones_like(label, dtype=torch.bool), (), (), torch.arange(size))


def unlabeled_views(num_strong: int, seed: int = 1, size: int = 4) -> Views:
    """Random images with padding at one side, and strong views that follow their boxes."""
    draw = torch.Generator().manual_seed(seed)
    image = torch.randn(size, 3, SIDE, SIDE, generator=draw)
    valid = torch.ones(size, SIDE, SIDE, dtype=torch.bool)
    valid[1, :, :5] = False
    label = torch.where(valid, 0, 255)
    strong, boxes = [], []
    for view in range(num_strong):
        box = torch.zeros(size, SIDE, SIDE, dtype=torch.bool)
        box[:2, 3 : 9 + view, 10:21] = True
        noise = 0.3 * torch.randn(image.shape, generator=draw)
        strong.append(mix((image + noise) * valid.unsqueeze(1), box))
        boxes.append(box)
    return Views(image * valid.unsqueeze(1), label, valid, tuple(strong), tuple(boxes), torch.arange(size))


def made(kind: type[R], **train: Any) -> R:
    """A recipe on linear networks, ready to step."""
    fixed = {"encoder_weights": None, "crop_size": SIDE, "steps": 100, "optimizer": {"warmup_steps": 0}} | train
    task = Task(CLASSES, (60, 30, 10))
    cfg: RecipeConfig = resolve(kind.config, train=fixed, class_names=CLASSES)
    recipe = kind(cfg, task)
    recipe.network = linear_net  # type: ignore[attr-defined]
    recipe.use_device_state(recipe.device_state())
    return recipe


def numbers(recipe: Recipe[Any], step: int) -> dict[str, Tensor]:
    """What the loop would hand to a step."""
    return {name: torch.tensor(value(step)) for name, value in recipe.phases()[0].schedules.items()}


def take_step(
    recipe: Recipe[Any], nets: dict[str, nn.Module], batch: dict[str, Views], step: int = 0, lr: float = 0.1
) -> StepOut:
    """Step as the loop does."""
    optimizers = {}
    for name, spec in recipe.phases()[0].optimizers.items():
        optimizers[name] = Optimizer(spec, nets)
        optimizers[name].set_lr(lr)
    torch.manual_seed(step)
    return recipe.step(nets, batch, numbers(recipe, step), optimizers)
