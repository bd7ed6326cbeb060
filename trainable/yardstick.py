"""What every evaluation of a run measures: always the same images, the same way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainable.config import RunConfig
from trainable.data.dataset import Dataset
from trainable.evaluation import evaluate, hidden_labels, label_accuracy, predictions, train_positions
from trainable.pseudo_labels import Target
from trainable.recipes.interface import Nets, Phase, Recipe
from trainable.state import StopQuestion


class Yardstick:
    """The validation images, a fixed choice of labeled ones, and labels that nobody trains on.

    Args:
        run: the configuration. recipe: made for it. data: opened. device: where to evaluate.
        rank: this worker. world_size: number of workers.
    """

    def __init__(
        self, run: RunConfig, recipe: Recipe[Any], data: Dataset, device: torch.device, rank: int = 0,
        world_size: int = 1,
    ) -> None:  # fmt: skip
        self._recipe, self._data, self._device = recipe, data, device
        self._train = train_positions(data, run.seed)
        self._hidden = hidden_labels(data, run.seed, run.data.hidden_labels) if recipe.needs_unlabeled else {}
        self._exclude = [recipe.task.class_names.index(name) for name in recipe.cfg.exclude_classes]
        self._rank, self._world_size = rank, world_size
        size = 2 * recipe.cfg.batch_size
        # Without gradients the pixels of eight training batches take less memory than one with them. Images that are
        # much larger than a crop must not be predicted as many at a time as crops.
        room = 4 * size * recipe.cfg.crop_size**recipe.task.ndim
        self._how = {"device": device, "stride": recipe.stride, "size": size, "room": room}

    def measure(
        self, nets: Nets, phase: Phase, last: int, should_stop: StopQuestion
    ) -> dict[str, float | None]:
        """The scores of the evaluated model and of the pseudo-labels.

        Args:
            nets: the networks, whose modes are as before afterwards. phase: the present one.
            last: the step of the phase that was trained last. should_stop: asked before each batch.

        Returns:
            `val/*`, `train/miou`, their `gap`, and `st/pl_accuracy` where it is known.

        Raises:
            Interrupted: `should_stop` said so.
        """
        evaluated = nets[self._recipe.evaluated]
        # Module by module: a network may hold parts in another mode, or share them with other networks.
        modes = [(module, module.training) for module in evaluated.modules()]
        evaluated.eval()
        try:
            val = self._split(nets, "val", self._data.positions("val"), should_stop)
            train = self._split(nets, "train", self._train, should_stop)["train/miou"]
            accuracy = self._label_accuracy(nets, phase, last, should_stop)
        finally:
            for module, training in modes:
                module.training = training
        miou = val["val/miou"]
        gap = None if train is None or miou is None else train - miou
        known = {} if accuracy is None else {"st/pl_accuracy": accuracy}
        return {**val, "train/miou": train, "gap": gap, **known}

    def predict(
        self, nets: Nets, should_stop: StopQuestion, split: str
    ) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Position and probabilities float32[C, *S] of every image of a split, at native size.

        Raises:
            Interrupted: `should_stop` said so.
        """
        nets[self._recipe.evaluated].eval()
        for group, found in predictions(
            self._data, self._data.positions(split), lambda image: self._probabilities(nets, image),
            should_stop=should_stop, **self._how,
        ):  # fmt: skip
            yield from zip(group, found.cpu().numpy(), strict=True)

    def _probabilities(self, nets: Nets, image: Tensor) -> Tensor:
        with torch.no_grad():
            return self._recipe.probabilities(nets, image)

    def _split(
        self, nets: Nets, prefix: str, positions: list[int], should_stop: StopQuestion
    ) -> dict[str, float | None]:
        recipe = self._recipe
        return evaluate(
            self._data, positions, lambda image: self._probabilities(nets, image), recipe.task, prefix=prefix,
            exclude=self._exclude, should_stop=should_stop, rank=self._rank, world_size=self._world_size,
            examiner=recipe.examiner(self._data.radius) if prefix == "val" else None, **self._how,
        )  # fmt: skip

    def _label_accuracy(
        self, nets: Nets, phase: Phase, last: int, should_stop: StopQuestion
    ) -> float | None:
        """How right the pseudo-labels are, once the phase uses any."""
        using = any(s.split == "unlabeled" and last >= s.start_step for s in phase.streams)
        if not self._hidden or not using:
            return None
        sched = {name: torch.tensor(schedule(last), device=self._device) for name, schedule in phase.schedules.items()}

        def labels(image: Tensor, valid: Tensor) -> Target | None:
            return self._recipe.pseudo_labels(nets, image, valid, sched)

        return label_accuracy(
            self._data, self._hidden, labels, world_size=self._world_size, should_stop=should_stop, **self._how
        )
