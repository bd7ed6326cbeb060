"""Is the best found better than what was known? The same configurations again, over several seeds, nothing pruned.

A confirmation is a run of its own beside the search (`<run>-confirm`), kept, resumed and read as any other.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from search.cluster import Cluster
from search.control import forget_stop
from search.export import chosen_trial
from search.metric_columns import metric_columns, objectives
from search.opening import Setting, baselines_of, definition
from search.patient_log import PatientLog
from search.preflight import check_seen_everywhere
from search.progress import Progress
from search.records import SCHEMA, RunState, TrialRecord
from search.resume import recorded_config
from search.running import Options, Sitting, SweepResult, exit_code, mend, run_sitting, slots_of, summary
from search.scheduler import Asha, ThresherScheduler
from search.schema import SweepConfig
from search.searcher import ThresherSearcher
from search.single import KIND
from search.status import read_run
from search.store import Store, open_store
from search.store.base import EVENTS
from search.store.identity import host_name
from search.suggestion import Suggestion
from search.sweep import SWEEP_FILE, described, git_revision, refuse_taken, set_aside, versions
from search.watchers import watchers_of
from trainable import strict_yaml
from trainable.config import NAME_PATTERN, RunConfig, flatten, resolve
from trainable.errors import ConfigError, DataError, Fault
from trainable.knob import knobs_of
from trainable.recipes import get_recipe

CONFIRM = "confirm"
FLOOR = "supervised"
SUFFIX = "-confirm"


@dataclass(frozen=True)
class Variant:
    """One configuration to be trained over all seeds.

    Attributes:
        name: `best`, `default`, `preset:<name>`, `supervised (defaults)` or `supervised (best's shared knobs)`; where
            the best is one of the recipe's own, `best = default` or `best = preset:<name>`.
        recipe: what trains it.
        train: all of the recipe's knobs, nested.
    """

    name: str
    recipe: str
    train: dict[str, Any]


def confirm(
    run: str, *, seeds: int = 3, trial: int | None = None, fresh: bool = False, options: Options | None = None
) -> SweepResult:
    """Train the best configuration of a run and what it should beat, over several seeds.

    Goes on where an earlier confirmation of the same trial over the same seeds was interrupted.

    Args:
        run: the search.
        seeds: how many, none of them the search's own.
        trial: take this trial for the best.
        fresh: put an earlier confirmation aside.
        options: how it is run.

    Raises:
        ConfigError, DataError: there is nothing to confirm, another confirmation is in its place, or the data are not
            those of the search.
        LeaseHeldError: somebody runs it.
    """
    if seeds < 1:
        raise ConfigError([Fault("--seeds", f"there must be at least 1 seed, but got seeds={seeds}")])
    options = options or Options()
    _, state = read_run(run)
    config = confirming(state)
    store = open_store(f"{run.rstrip('/')}{SUFFIX}")
    numbers = [config.seed + 1 + index for index in range(seeds)]
    if not fresh:
        if store.list(EVENTS):
            _refuse_another(store.uri, chosen_trial(state, run, trial), numbers)
            return resume_confirm(store.uri, options)
        refuse_taken(store)
    setting = _examined(state, config, options)
    chosen = variants(state, config, run, setting.class_names, trial)
    options.check_weights(config.data.ndim, [variant.train for variant in chosen])
    about = {"of": run if "://" in run else str(Path(run).resolve()), "seeds": numbers,
             "variants": [asdict(variant) for variant in chosen]}  # fmt: skip
    with _machines(store, config, options) as cluster:
        if fresh:
            # Only now, so that a confirmation that cannot begin leaves an earlier one where it is.
            set_aside(store)
        with PatientLog.create(store, **_opened(config, setting, about)) as log:
            forget_stop(store)
            log.store.write_bytes(SWEEP_FILE, strict_yaml.dump(described(log.state.run)).encode())
            return _run(log, config, cluster, options)


def resume_confirm(run: str, options: Options | None = None) -> SweepResult:
    """Go on with a confirmation; one that is done is left as it is.

    Raises:
        DataError: the data are not those it began with.
        LeaseHeldError: somebody runs it.
    """
    options = options or Options()
    store, state = read_run(run)
    config = SweepConfig.model_validate(_plain(recorded_config(state)))
    wanted = len(_about(state)["variants"]) * len(_about(state)["seeds"])
    if state.next_number >= wanted and not state.pending():
        log = PatientLog.open(store)
        return summary(log, exit_code(state, None), None)
    _examined(state, config, options)
    with (
        _machines(store, config, options) as cluster,
        PatientLog.resume(store, host=host_name(), pid=os.getpid()) as log,
    ):
        forget_stop(store)
        mend(log)
        return _run(log, config, cluster, options)


def _refuse_another(run: str, best: TrialRecord, seeds: Sequence[int]) -> None:
    """A confirmation of another trial, or over other seeds, is no answer to what was asked.

    Raises:
        ConfigError: there is such a one; says how to go on.
    """
    about = _about(read_run(run)[1])
    same = about["variants"][0]["train"] == best.config["train"]
    if same and about["seeds"] == list(seeds):
        return
    there = "the same trial" if same else "another trial"
    message = (
        f"it must confirm trial {best.number} over {len(seeds)} seeds, but holds a confirmation of {there} over "
        f"{len(about['seeds'])}; put it aside (--fresh), or ask for that one (--trial, --seeds)"
    )
    raise ConfigError([Fault(run, message)])


def confirming(state: RunState) -> SweepConfig:
    """The search's configuration, as its confirmation runs it: nothing pruned, nothing sampled.

    Raises:
        ConfigError: the run is no search.
    """
    found = recorded_config(state)
    if found.get(KIND) is not None:
        message = f"only a search is confirmed, but this run is a {found[KIND]}; name the search"
        raise ConfigError([Fault(str(state.run.get("name")), message)])
    config = SweepConfig.model_validate(found)
    name = f"{config.name}{SUFFIX}"
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError([Fault(config.name, f"the name with {SUFFIX} must have at most 100 characters")])
    search = config.search.model_copy(update={"asha": None, "max_hours": None, "budget": None})
    return config.model_copy(update={"name": name, "search": search})


def variants(
    state: RunState, config: SweepConfig, run: str, class_names: Sequence[str], trial: int | None
) -> tuple[Variant, ...]:
    """The best configuration, the recipe's own, and labeled images alone as the floor, each once."""
    best = chosen_trial(state, run, trial)
    searched = config.model_copy(update={"search": config.search.model_copy(update={"baselines": True})})
    train, others = dict(best.config["train"]), []
    name = "best"
    for baseline in baselines_of(searched, class_names):
        if dict(baseline.config) == train:
            name = f"best = {baseline.source}"
        else:
            others.append(Variant(baseline.source, config.recipe, dict(baseline.config)))
    return (Variant(name, config.recipe, train), *others, *_floors(config, best, class_names))


def no_floor(config: SweepConfig, class_names: Sequence[str]) -> str | None:
    """Why a search has no supervised floor to be held against; None where it has one."""
    kind, objective = get_recipe(FLOOR), config.search.objective
    if config.recipe == FLOOR:
        return "the search itself is supervised"
    if objective not in objectives(class_names, kind.metrics, kind.objective):
        return f"the {FLOOR} recipe does not measure {objective}"
    if config.data.ndim not in kind.ndims:
        return f"the {FLOOR} recipe takes images, not volumes"
    return None


def _floors(config: SweepConfig, best: TrialRecord, class_names: Sequence[str]) -> Iterator[Variant]:
    """Labeled images alone: with the recipe's defaults, and with what the best configuration shares with them.

    Both keep what the search fixes, such as network and length. The first alone would let a better learning rate pass
    for a gain of self-training.
    """
    if no_floor(config, class_names) is not None:
        return
    kind = get_recipe(FLOOR)
    known = tuple(knobs_of(kind.config))
    made = []
    for train in (config.train, flatten(best.config["train"])):
        shared = {k: v for k, v in train.items() if k in known or k.startswith(tuple(f"{knob}." for knob in known))}
        made.append(resolve(kind.config, train=shared, class_names=class_names).model_dump(mode="json"))
    yield Variant(f"{FLOOR} (defaults)", FLOOR, made[0])
    if made[1] != made[0]:
        yield Variant(f"{FLOOR} (best's shared knobs)", FLOOR, made[1])


def _examined(state: RunState, config: SweepConfig, options: Options) -> Setting:
    setting = options.examine(config)
    if setting.data_hash != state.run.get("data_hash"):
        message = "the data must be those of the run, but their images, masks or splits differ; restore them"
        raise DataError([Fault(config.data.root, message)])
    return setting


def _opened(config: SweepConfig, setting: Setting, about: Mapping[str, Any]) -> dict[str, Any]:
    total = len(about["variants"]) * len(about["seeds"])
    plain = config.model_dump(mode="json", by_alias=True)
    plain["search"]["trials"] = total
    return {
        "schema": SCHEMA, "run_id": secrets.token_hex(4), "name": config.name, "generation": 0,
        "config": {**plain, KIND: CONFIRM, CONFIRM: dict(about)}, "versions": versions(),
        "git_revision": git_revision(), "data_hash": setting.data_hash,
        "metrics": metric_columns(setting.class_names, get_recipe(config.recipe).metrics),
        "metric_definition": definition(config, setting.class_names),
    }  # fmt: skip


@contextmanager
def _machines(store: Store, config: SweepConfig, options: Options) -> Iterator[Cluster]:
    """The cluster, once it is certain that trials fit and that every node sees the run and the data."""
    with options.cluster() as cluster:
        slots_of(config, cluster)
        check_seen_everywhere(store, config.data.root, cluster, config.resources.workers_per_trial)
        yield cluster


def _run(log: PatientLog, config: SweepConfig, cluster: Cluster, options: Options) -> SweepResult:
    about = _about(log.state)
    total = len(about["variants"]) * len(about["seeds"])
    with Progress(lambda: log.state, total, options.console) as progress:
        sitting = Sitting(config, total, assemble_confirm, options.fit, watchers_of(log, config))
        return run_sitting(log, sitting, cluster, progress)


def _about(state: RunState) -> dict[str, Any]:
    found: dict[str, Any] = state.run["config"][CONFIRM]
    return found


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in (KIND, CONFIRM)}


class _Queue:
    """Hands out every variant with the first seed, then with the second, and so on."""

    def __init__(self, chosen: Sequence[Variant]) -> None:
        self._chosen = tuple(chosen)

    def ask(self, state: RunState, number: int) -> Suggestion:
        """The trial of a number."""
        variant = self._chosen[number % len(self._chosen)]
        return Suggestion(number, variant.name, {}, None, {"name": CONFIRM}, variant.train)


def assemble_confirm(
    log: PatientLog, config: SweepConfig, total: int, raise_flag: Callable[[int, str], None]
) -> tuple[Searcher, TrialScheduler]:
    """The searcher and the scheduler of a confirmation, from its record alone."""
    about = _about(log.state)
    chosen = [Variant(**found) for found in about["variants"]]

    def configure(suggestion: Suggestion) -> dict[str, Any]:
        variant, seed = chosen[suggestion.number % len(chosen)], about["seeds"][suggestion.number // len(chosen)]
        run = RunConfig(
            name=config.name, recipe=variant.recipe, data=config.data, train=variant.train, seed=seed,
            objective=config.search.objective, direction=config.search.direction,
            provenance={"run": config.name, "run_id": log.state.run["run_id"], "trial": suggestion.number},
        )  # fmt: skip
        return run.model_dump(mode="json", by_alias=True)

    searcher = ThresherSearcher(log, _Queue(chosen), total=lambda: total, configure=configure, seed=config.seed)
    steps, every = int(chosen[0].train["steps"]), int(chosen[0].train["eval_every_steps"])
    return searcher, ThresherScheduler(log, Asha(None, steps, 3, 1, config.search.direction, every), raise_flag)


def trials_by_variant(state: RunState) -> dict[str, list[TrialRecord]]:
    """The trials of a confirmation that have ended, by variant, in seed order."""
    found: dict[str, list[TrialRecord]] = {variant["name"]: [] for variant in _about(state)["variants"]}
    for trial in state.trials.values():
        if trial.ended and trial.best_value is not None:
            found[trial.source].append(trial)
    return found
