"""From a sweep's configuration to the parts that decide: its classes, its space, the searcher and the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from search.asker import Asker
from search.known import startup_trials
from search.patient_log import PatientLog
from search.records import RunState
from search.scheduler import Asha, ThresherScheduler, grace_steps
from search.schema import SweepConfig
from search.searcher import ThresherSearcher
from search.suggestion import Baseline, Suggestion, baselines
from spaces import SearchSpace
from trainable.config import RunConfig, flatten, resolve
from trainable.data.check import inspect
from trainable.errors import ConfigError, Fault
from trainable.metrics import metric_definition
from trainable.recipes import get_recipe


@dataclass(frozen=True)
class Setting:
    """What a run's data say.

    Attributes:
        class_names: in the order of their numbers.
        class_freq: share of each among the labeled pixels.
        data_hash: of the images, masks and splits.
        warnings: what should be known.
    """

    class_names: tuple[str, ...]
    class_freq: tuple[float, ...]
    data_hash: str
    warnings: tuple[str, ...] = ()


def examine(config: SweepConfig) -> Setting:
    """Checks a sweep's data.

    Raises:
        DataError: every fault, with file names.
    """
    supervised = not get_recipe(config.recipe).needs_unlabeled
    report = inspect(config.data, Path.cwd(), supervised=supervised)
    report.raise_faults()
    labeled = report.splits["labeled"]
    return Setting(
        report.class_names, tuple(labeled.share(name) for name in report.class_names), report.data_hash,
        tuple(str(warning) for warning in report.warnings),
    )  # fmt: skip


def definition(config: SweepConfig, class_names: Sequence[str]) -> dict[str, Any]:
    """What the scores of this run mean."""
    train = flatten(base_of(config, class_names))
    excluded = [class_names.index(name) for name in train.get("exclude_classes") or () if name in class_names]
    return metric_definition(
        class_names, exclude_classes=excluded, positive_class=1 if len(class_names) == 2 else None
    )


def base_of(config: SweepConfig, class_names: Sequence[str]) -> dict[str, Any]:
    """The full configuration that sampled values are put on, nested."""
    kind = get_recipe(config.recipe)
    preset = kind.preset_values(config.preset)
    return resolve(kind.config, preset=preset, train=config.train, class_names=class_names).model_dump(
        mode="json"
    )


def space_of(config: SweepConfig, setting: Setting) -> SearchSpace:
    """What the sweep searches.

    Raises:
        ConfigError: every fault of the space.
    """
    kind = get_recipe(config.recipe)
    return SearchSpace.from_spec(
        config.space, kind.config, setting.class_names, setting.class_freq, config.train,
        kind.preset_values(config.preset),
    )  # fmt: skip


def baselines_of(config: SweepConfig, class_names: Sequence[str]) -> tuple[Baseline, ...]:
    """The trials that come first."""
    if not config.search.baselines:
        return ()
    kind = get_recipe(config.recipe)
    documented = {name: preset.values for name, preset in kind.presets.items() if preset.baseline}
    base = base_of(config, class_names)
    return baselines(kind.config, documented, train=config.train, base=base, class_names=class_names)


def asker_of(config: SweepConfig, space: SearchSpace, opened_with: int) -> Asker:
    """What suggests new trials.

    Args:
        config: the sweep.
        space: what is searched now.
        opened_with: how many trials the search was opened with.
    """
    return Asker(
        space, seed=config.seed, base=base_of(config, space.class_names),
        baselines=baselines_of(config, space.class_names), direction=config.search.direction,
        sampler=config.search.sampler, startup=startup_trials(opened_with),
    )  # fmt: skip


def asha_of(config: SweepConfig, class_names: Sequence[str]) -> Asha:
    """What prunes; nothing where the sweep says so."""
    train = flatten(base_of(config, class_names))
    steps, every = int(train["steps"]), int(train["eval_every_steps"])
    asha = config.search.asha
    if asha is None:
        return Asha(None, steps, 3, 1, config.search.direction, every)
    auto = asha.grace_steps == "auto"
    grace = grace_steps(train, asha.reduction_factor) if auto else int(asha.grace_steps)
    return Asha(grace, steps, asha.reduction_factor, asha.brackets, config.search.direction, every)


def configure(
    config: SweepConfig, class_names: Sequence[str], run_id: str
) -> Callable[[Suggestion], dict[str, Any]]:
    """Makes of a suggestion the full configuration that `thresher train` would run."""
    kind = get_recipe(config.recipe)
    preset = kind.preset_values(config.preset)

    def full(suggestion: Suggestion) -> dict[str, Any]:
        train = suggestion.config
        if train is None:
            made = resolve(
                kind.config,
                preset=preset,
                train=config.train,
                sampled=suggestion.params,
                class_names=class_names,
            )
            train = made.model_dump(mode="json")
        run = RunConfig(
            name=config.name, recipe=config.recipe, data=config.data, train=dict(train), seed=config.seed,
            objective=config.search.objective, direction=config.search.direction,
            provenance={"run": config.name, "run_id": run_id, "trial": suggestion.number},
        )  # fmt: skip
        return run.model_dump(mode="json", by_alias=True)

    return full


def within_budget(config: SweepConfig) -> Callable[[RunState], bool]:
    """Whether another trial may start, where the search is paid by GPU hours instead of by trials."""
    budget = config.search.budget

    def may_start(state: RunState) -> bool:
        spent = sum(trial.gpu_seconds or 0.0 for trial in state.trials.values())
        return budget is None or spent < 3600 * budget.gpu_hours

    return may_start


def assemble(
    log: PatientLog, config: SweepConfig, total: int, raise_flag: Callable[[int, str], None]
) -> tuple[Searcher, TrialScheduler]:
    """The searcher and the scheduler of a run, from its record and its configuration alone."""
    state = log.state
    space = SearchSpace.from_json(current_space(state))
    asha = asha_of(config, space.class_names)
    searcher = ThresherSearcher(
        log, asker_of(config, space, opened_with(state)), total=lambda: total,
        configure=configure(config, space.class_names, state.run["run_id"]),
        bracket=lambda number: asha.bracket(config.seed, number), seed=config.seed, may_start=within_budget(config),
    )  # fmt: skip
    return searcher, ThresherScheduler(log, asha, raise_flag)


def current_space(state: RunState) -> Mapping[str, Any]:
    """The search space of the run's generation, as JSON.

    Raises:
        ConfigError: the run was opened without one.
    """
    found = state.spaces.get(state.generation, {}).get("space")
    if not isinstance(found, Mapping):
        raise ConfigError([Fault("space", "the run's record must hold its search space, but has none")])
    return found


def opened_with(state: RunState) -> int:
    """How many trials the search was opened with; a search that is extended keeps its start."""
    return int(state.run["config"]["search"]["trials"])
