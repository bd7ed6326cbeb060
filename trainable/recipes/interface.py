"""What a recipe is: networks, phases, one step, and rules, over the one loop.

A recipe holds no training code beyond its step: the loop cuts batches, writes learning rates and schedules to the
device, counts, evaluates, checkpoints and stops. Whatever changes from step to step comes in as a 0-dim tensor on
the device, and nothing in a step may wait for the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainable.config import RecipeConfig, nearest
from trainable.data.augment import Views
from trainable.data.points import Points
from trainable.data.streams import Stream
from trainable.errors import ConfigError, Fault
from trainable.health import Rule
from trainable.metrics.objective import Direction, Objective, direction_of
from trainable.models import STRIDE
from trainable.optimizers import Optimizer, OptimizerSpec
from trainable.pseudo_labels.target import Target
from trainable.recipes.rates import follow_plateau
from trainable.task import Task

C = TypeVar("C", bound=RecipeConfig)
Nets = Mapping[str, nn.Module]
Batch = Mapping[str, Views]
Sched = Mapping[str, Tensor]
Opt = Mapping[str, Optimizer]
Draw = Callable[[np.random.Generator, int], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class StepOut:
    """What a step tells the loop.

    Attributes:
        losses: 0-dim tensors by metric name; `loss/total` is watched for NaN. Recorded as means since the last
            evaluation.
        target: the pseudo-labels, whose counts are recorded as sums; None where there are none.
    """

    losses: dict[str, Tensor]
    target: Target | None = None


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with its own streams, optimizers and schedules.

    Attributes:
        name: for people and logs.
        steps: its length.
        streams: what a batch holds.
        optimizers: by name.
        schedules: numbers by step of the phase; each reaches `step` as a 0-dim tensor under its name.
        draws: random numbers that every worker shares: (generator, step of the phase) to an array of one shape; each
            reaches `step` as a tensor under its name. The generator depends on the run's seed, the name and the step.
        fresh_optimizers: start with new optimizer state instead of the last phase's.
        evaluate_at_end: evaluate at the end of the phase, too.
    """

    name: str
    steps: int
    streams: tuple[Stream, ...]
    optimizers: Mapping[str, OptimizerSpec]
    schedules: Mapping[str, Callable[[int], float]] = field(default_factory=dict)
    draws: Mapping[str, Draw] = field(default_factory=dict)
    fresh_optimizers: bool = False
    evaluate_at_end: bool = False


@dataclass(frozen=True)
class PhaseContext:
    """What a recipe may use at the start and at the end of a phase.

    Attributes:
        nets: the networks.
        phase: number of the phase.
        predict: (split) to (position, probabilities float32[C, *S]) of every image of a split, at native size.
        image: position to the image uint8[*S, 3].
        labels: position to the labels uint8[*S] of an image that is not unlabeled.
        targets: position to the labels that the phase trains on; empty where it trains on the data's own.
        write: position, labels uint8[*S] to the phase's target store.
        save: name in the run's folder, bytes: a figure or metrics of a round, written whole; at the end only.
        metrics: the last evaluation's record.
        remember: host numbers of the recipe; they are checkpointed.
    """

    nets: Nets
    phase: int
    predict: Callable[[str], Iterator[tuple[int, npt.NDArray[np.float32]]]]
    image: Callable[[int], npt.NDArray[np.uint8]]
    labels: Callable[[int], npt.NDArray[np.uint8]]
    targets: Mapping[int, npt.NDArray[np.uint8]]
    write: Callable[[int, npt.NDArray[np.uint8]], None]
    save: Callable[[str, bytes], None]
    metrics: Mapping[str, float | None]
    remember: dict[str, float]


@dataclass(frozen=True)
class Preset:
    """A documented configuration.

    Attributes:
        values: knobs by dotted name; per-class values go by class name.
        about: where it comes from.
        baseline: whether a search starts with it; False where it isolates one trait or reproduces a flaw.
    """

    values: Mapping[str, Any]
    about: str
    baseline: bool = True


class Examiner(Protocol):
    """Looks at validation images, each by itself, on the host, and gives scores beside those of every recipe.

    Workers share the images, so that no one examiner sees all of them.
    """

    def see(
        self, probabilities: npt.NDArray[np.float32], label: npt.NDArray[np.uint8], points: Points | None
    ) -> Sequence[float | None]:
        """The numbers of one image, as many for each; None stands where there is none.

        Args:
            probabilities: float32[C, *S]. label: uint8[*S], 255 where ignored. points: where there are any.
        """

    def scores(self, seen: Sequence[Sequence[float | None]]) -> dict[str, float | None]:
        """Metrics by name, from the numbers of all images."""


class Recipe(ABC, Generic[C]):
    """One training system.

    Args:
        cfg: its knobs, checked.
        task: what is segmented.

    Attributes:
        name: as users write it. about: one sentence. source: paper or origin.
        slots: what it plugs into the loop, for `thresher recipes`.
        config: the class of its knobs. presets: documented configurations.
        objective: the metric that a run goes by where nobody names another. direction: `max` or `min`.
        needs_unlabeled: whether unlabeled images must be there.
        ndims: 2 where it takes images, 3 where it takes volumes.
        metrics: names of what its evaluations report beside what every recipe's do.
        scheduled: the optimizers whose rates `optimizer.schedule` decides.
        plateau: the metric that the schedule `plateau` watches, and its direction; None for the objective.
        precision: context for forward passes; the loop sets it to autocast where AMP is on.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    source: ClassVar[str]
    slots: ClassVar[Mapping[str, str]] = {}
    config: ClassVar[type[RecipeConfig]]
    presets: ClassVar[Mapping[str, Preset]] = {}
    objective: ClassVar[str] = "val/miou"
    direction: ClassVar[Direction] = "max"
    needs_unlabeled: ClassVar[bool] = True
    ndims: ClassVar[tuple[int, ...]] = (2,)
    metrics: ClassVar[tuple[str, ...]] = ()
    scheduled: ClassVar[tuple[str, ...]] = ("net",)
    plateau: ClassVar[tuple[str, Direction] | None] = None

    def __init__(self, cfg: C, task: Task) -> None:
        self.cfg = cfg
        self.task = task
        self.precision: Callable[[], AbstractContextManager[Any]] = nullcontext

    @classmethod
    def adapt(cls, task: Task) -> Task:
        """The task as this recipe sees it, for example with a sigmoid instead of a softmax."""
        return task

    @classmethod
    def preset_values(cls, name: str | None) -> Mapping[str, Any]:
        """The knobs of a documented configuration; none for None.

        Raises:
            ConfigError: there is no such preset.
        """
        if name is None:
            return {}
        if name not in cls.presets:
            known = ", ".join(cls.presets) or "none"
            raise ConfigError(
                [
                    Fault(
                        "preset",
                        f"must be a preset of {cls.name} ({known}), but got {name!r}{nearest(name, cls.presets)}",
                    )
                ]
            )
        return cls.presets[name].values

    @classmethod
    def objective_of(cls, metric: str | None, direction: Direction | None) -> Objective:
        """What the best model of a run is: as the run says, else the recipe's own.

        Raises:
            ConfigError: the direction is not the metric's.
        """
        metric = metric or cls.objective
        own = cls.direction if metric == cls.objective else direction_of(metric)
        if direction not in (None, own):
            better = "less" if own == "min" else "more"
            message = f"direction must be {own} for {metric}, of which {better} is better, but got {direction=}"
            raise ConfigError([Fault("direction", f"{message}; leave it out")])
        return Objective(metric, own)

    @abstractmethod
    def build(self) -> dict[str, nn.Module]:
        """The networks by name, on the CPU; averaged ones included."""

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The phases; their steps add up to `cfg.steps`."""

    @abstractmethod
    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        """One training step, with its own backward passes and optimizer steps."""

    @property
    def evaluated(self) -> str:
        """Name of the network that is evaluated and exported."""
        return "net"

    def probabilities(self, nets: Nets, image: Tensor) -> Tensor:
        """Class probabilities of the evaluated model, float32[B, C, *S]; image: float[B, 3, *S], normalized."""
        with self.precision():
            logits: Tensor = nets[self.evaluated](image).float()
        if self.task.activation == "sigmoid":
            positive = logits.sigmoid()
            return torch.cat([1 - positive, positive], 1)
        return logits.softmax(1)

    def pseudo_labels(self, nets: Nets, image: Tensor, valid: Tensor, sched: Sched) -> Target | None:
        """What the recipe labels unlabeled images with at this step; None where it labels none.

        To measure how right they are: it changes nothing.

        Args:
            nets: the networks. image: float[B, 3, *S], normalized. valid: bool[B, *S], false on padding.
            sched: this step's numbers.
        """
        return None

    @property
    def stride(self) -> int:
        """To multiples of what an image is padded before `probabilities`."""
        return STRIDE

    def examiner(self, radius: int) -> Examiner | None:
        """Who scores the next evaluation's validation images further; radius: of the discs around points, or 0."""
        return None

    def device_state(self) -> dict[str, Tensor]:
        """Tensors that the step changes in place and that a resume needs; moved to the device by the loop."""
        return {}

    def use_device_state(self, state: dict[str, Tensor]) -> None:
        """Take the tensors of `device_state`, now on the device and, after a resume, with their old values."""
        self.state = state

    def begin_phase(self, phase: Phase, context: PhaseContext) -> None:
        """Prepare a phase, for example write its targets; called once per phase, also after a resume only once."""

    def end_phase(self, phase: Phase, context: PhaseContext) -> None:
        """Leave something behind, after the evaluation at a phase's end.

        Called by one worker, and again where a resumed run gets there again; it must change nothing of the run.
        """

    def after_evaluation(self, record: Mapping[str, float | None], remember: dict[str, float]) -> None:
        """Look at an evaluation; `remember["lr_scale/<optimizer>"]` scales that optimizer's rate from now on.

        Where `optimizer.schedule` is `plateau`, it cuts the rates when the recipe's metric stops improving.
        """
        metric, direction = self.plateau or (self.objective, self.direction)
        follow_plateau(self.cfg, record.get(metric), direction, self.scheduled, remember)

    def rules(self) -> list[Rule]:
        """Health rules."""
        return []
