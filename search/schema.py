"""The sweep file's sections: types, ranges and defaults."""

from __future__ import annotations

import math
import shlex
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from trainable.config import DataConfig, check_name
from trainable.knob import Section

MANY_TRIALS = 100_000
"""How many trials a search by budget may take."""

Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]


def _auto_or_whole(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"it must be `auto` or a whole number of at least 1, but got {value!r}")


def _auto_or_share(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == "auto" or (number and math.isfinite(value) and value >= 0):
        return value
    raise ValueError(f"it must be `auto` or a number of at least 0, but got {value!r}")


def _space(value: Any) -> Any:
    if isinstance(value, str | dict) and value:
        return value
    raise ValueError(
        "space must be a named space (see `thresher spaces`) or a mapping of knobs to {low, high, log} or a list of "
        f"choices, but got space={value!r}"
    )


AutoWhole = Annotated[int | Literal["auto"], BeforeValidator(_auto_or_whole)]
AutoShare = Annotated[float | Literal["auto"], BeforeValidator(_auto_or_share)]


class AshaConfig(Section):
    """When a trial that lags behind is pruned (asynchronous successive halving).

    Attributes:
        grace_steps: the first rung, in training steps; `auto` waits for self-training to act (decided per sweep).
        reduction_factor: one trial in this many goes on past a rung, and rungs lie this factor apart.
        brackets: rung ladders that start later each; trials are dealt to them by the sweep's seed.
    """

    grace_steps: AutoWhole = "auto"
    reduction_factor: Whole = Field(3, ge=2, le=64)
    brackets: Whole = Field(1, ge=1, le=8)


class BudgetConfig(Section):
    """What a search may cost, in place of a number of trials."""

    gpu_hours: Number = Field(gt=0.0)


class KeepConfig(Section):
    """Which checkpoints stay on disk.

    Attributes:
        best: of how many leading trials the best checkpoint is kept.
        last: `until_end` drops a trial's resume checkpoint when the trial ended; `always` keeps it.
    """

    best: Whole = Field(10, ge=1)
    last: Literal["until_end", "always"] = "until_end"


class SearchConfig(Section):
    """How the space is searched.

    Attributes:
        trials: how many trials the search takes, baselines included.
        sampler: who suggests: `tpe` learns from the trials that ended, `random` does not.
        objective: the metric that ranks, keeps each trial's best model and counts its patience; its best value so
            far counts. Left out: the recipe's own.
        direction: `max` or `min`; left out: as the metric has it.
        max_hours: hours after which the search pauses its trials and ends.
        max_concurrent: trials at a time; `auto` = what the cluster can reach.
        asha: pruning; null switches it off.
        baselines: the recipe's defaults and documented configurations come first.
        keep: which checkpoints stay.
        budget: GPU hours in place of `trials`.
        retries: how often a crashed trial starts again from its last checkpoint.
        hang_s: seconds without a training step after which a trial is ended and counts as crashed.
    """

    trials: Whole = Field(64, ge=1, le=MANY_TRIALS)
    sampler: Literal["tpe", "random"] = "tpe"
    objective: str = Field("val/miou", min_length=1)
    direction: Literal["max", "min"] = "max"
    max_hours: Number | None = Field(None, gt=0.0)
    max_concurrent: AutoWhole = "auto"
    asha: AshaConfig | None = AshaConfig()
    baselines: Flag = True
    keep: KeepConfig = KeepConfig()
    budget: BudgetConfig | None = None
    retries: Whole = Field(2, ge=0, le=100)
    hang_s: Number = Field(1800.0, ge=1.0)

    @model_validator(mode="before")
    @classmethod
    def _trials_or_budget(cls, given: Any) -> Any:
        """A budget alone decides when the search ends."""
        if isinstance(given, dict) and given.get("budget") is not None and given.get("trials") is None:
            return {**given, "trials": MANY_TRIALS}
        return given


class ResourcesConfig(Section):
    """What one trial gets.

    Attributes:
        gpus_per_trial: `auto` = one where there are any, else none; a fraction shares a GPU.
        workers_per_trial: processes that train one trial together.
        cpus_per_worker: `auto` = the node's cores over its trials.
    """

    gpus_per_trial: AutoShare = "auto"
    workers_per_trial: Whole = Field(1, ge=1, le=1024)
    cpus_per_worker: AutoShare = "auto"


class WandbConfig(Section):
    """Where curves are drawn; the key comes from the environment or netrc, never from a file here."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = Field("thresher", min_length=1, max_length=128)
    entity: str | None = None


class TrackingConfig(Section):
    """Who watches; nothing here can delay or fail a trial."""

    wandb: WandbConfig = WandbConfig()


class NotifyConfig(Section):
    """A command that is run when the search ends; a failure of it is only logged."""

    command: tuple[str, ...] = Field(min_length=1)

    @field_validator("command", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        try:
            words = tuple(shlex.split(value)) if isinstance(value, str) else value
        except ValueError as error:
            raise ValueError(f"command must be words as a shell reads them, but got {value!r} ({error})") from error
        if not words:
            raise ValueError(f"command must name a program, but got command={value!r}; name one, or remove notify")
        return words


class SweepConfig(Section):
    """A sweep file, checked: paths absolute, every default written out.

    Attributes:
        name: the run's folder below `storage`.
        recipe: which training system.
        preset: a documented configuration of the recipe to start from.
        data: the data section; `root` is absolute after loading.
        train: fixed knobs, flat by dotted name after loading.
        space: a named space, or knobs with their ranges.
        search: how it is searched.
        resources: what one trial gets.
        storage: folder or URI that runs are kept under.
        tracking: wandb.
        notify: what is run at the end.
        seed: of the sampler and of every trial.
    """

    name: str
    recipe: str
    preset: str | None = None
    data: DataConfig
    train: dict[str, Any] = Field(default_factory=dict)
    space: Annotated[str | dict[str, Any], BeforeValidator(_space)]
    search: SearchConfig = SearchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    storage: str = Field("./runs", min_length=1)
    tracking: TrackingConfig = TrackingConfig()
    notify: NotifyConfig | None = None
    seed: Whole = Field(0, ge=0, lt=2**31)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value)

    @property
    def run(self) -> str:
        """The run directory, a path or a URI."""
        return f"{self.storage.rstrip('/')}/{self.name}"
