"""One sitting of a run: from an open log to its closing event. Both `sweep` and `resume` end up here."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from rich.console import Console

from search.cluster import Cluster, connected
from search.control import EXIT_CODES, Control, StopNow
from search.driver import Driver
from search.flags import start_flags
from search.opening import Setting, examine
from search.patient_log import PatientLog
from search.preflight import check_weights
from search.progress import Progress
from search.records import RunState, TrialState, repair
from search.schema import MANY_TRIALS, SweepConfig
from search.slots import Slots, divide
from search.trial import Job, run_trial
from search.tune_hooks import AskHook, DecideHook, StepHook, keep_secrets_home
from trainable.errors import ConfigError, Fault, ThresherError

_START_LIMIT_FACTOR = 4.0


class Watcher(Protocol):
    """Somebody who looks on, such as the writer of tables; the search does not wait for it longer than a call."""

    def update(self, state: RunState) -> object:
        """Called at every step of the search; decides itself whether it is time to act."""

    def close(self, state: RunState) -> None:
        """Called once at the end."""


class Assemble(Protocol):
    """Makes the two that decide, of a run's log."""

    def __call__(
        self, log: PatientLog, config: SweepConfig, total: int, raise_flag: Callable[[int, str], None]
    ) -> tuple[Searcher, TrialScheduler]:
        """The searcher, which suggests and records `asked` and `told`, and the scheduler, which records `evaluated`."""


@dataclass(frozen=True)
class Options:
    """How a sitting is run, which is no part of the sweep itself.

    Attributes:
        address: a Ray cluster; None = the environment's, else this machine alone.
        insecure: join a cluster that asks for no token.
        num_cpus: CPUs of a Ray of our own; None = all.
        num_gpus: GPUs of a Ray of our own; None = all.
        fit: dotted name of the training.
        examine: checks the data.
        check_weights: checks that pretrained weights can be had, given the data's dimensions and full configurations.
        console: where progress is drawn; None = standard output.
    """

    address: str | None = None
    insecure: bool = False
    num_cpus: int | None = None
    num_gpus: int | None = None
    fit: str = "trainable.worker:fit"
    examine: Callable[[SweepConfig], Setting] = examine
    check_weights: Callable[[int, list[dict[str, Any]]], None] = check_weights
    console: Console | None = None

    def cluster(self) -> AbstractContextManager[Cluster]:
        """The Ray that the sitting runs on, connected while the block runs."""
        return connected(self.address, insecure=self.insecure, num_cpus=self.num_cpus, num_gpus=self.num_gpus)


@dataclass(frozen=True)
class Sitting:
    """What a sitting needs beside the log.

    Attributes:
        config: the sweep as it now stands.
        total: trials asked for.
        assemble: makes searcher and scheduler.
        fit: dotted name of the training.
        watchers: who looks on.
    """

    config: SweepConfig
    total: int
    assemble: Assemble
    fit: str
    watchers: tuple[Watcher, ...] = field(default=())


@dataclass(frozen=True)
class SweepResult:
    """How a sitting ended.

    Attributes:
        exit_code: what the command returns.
        reason: why it ended before all trials had; None when they all had.
        run: the run directory.
        states: how many trials are in which state.
        best_trial: number of the best trial. best_value: its objective.
    """

    exit_code: int
    reason: str | None
    run: str
    states: dict[str, int]
    best_trial: int | None = None
    best_value: float | None = None


def run_sitting(log: PatientLog, sitting: Sitting, cluster: Cluster, progress: Progress) -> SweepResult:
    """Runs trials until there are none left or the run is told to end, and closes the log.

    Args:
        log: the run, owned by this process.
        sitting: what to run.
        cluster: where.
        progress: where lines and tables go.

    Raises:
        ThresherError: the run cannot go on; what was recorded is safe.
    """
    config = sitting.config
    slots = slots_of(config, cluster)
    mend(log)
    log.say = progress.say
    log.listeners.append(progress.event)
    # One name per sitting: copies of a run on one cluster never hear each other's flags.
    namespace = f"thresher-{log.state.run['run_id']}-{log.store.epoch}-{secrets.token_hex(4)}"
    flags = start_flags(namespace)
    driver = Driver(log, flags, slots, retries=config.search.retries, total=sitting.total, say=progress.say)
    control = Control(
        log.store, raise_flag=driver.raise_flag, kill=driver.kill, running=driver.running, say=progress.say,
        look=driver.kill_hung, max_hours=config.search.max_hours,
    )  # fmt: skip
    driver.control = control
    log.giving_up = lambda: control.reason is not None
    job = Job(
        run=str(log.store.path or log.store.uri), namespace=namespace, fit=sitting.fit, workers=slots.workers,
        gpus=slots.trial_gpus, threads=slots.threads, worker=slots.worker, limit_s=config.search.hang_s,
        start_limit_s=_START_LIMIT_FACTOR * config.search.hang_s,
    )  # fmt: skip
    with control.signals():
        control.start()
        try:
            _fit(log, sitting, cluster, driver, job, progress)
            result = _closed(log, sitting, control.reason)
        except StopNow:
            progress.say("stopped at once: trials go on from their last checkpoints at resume")
            driver.kill_all()
            result = _closed(log, sitting, control.reason)
        finally:
            control.stop()
            ray.kill(flags)
    return result


def mend(log: PatientLog) -> None:
    """Writes the events that a crash ate."""
    for event_type, payload in repair(log.state):
        log.append(event_type, **payload)


def slots_of(config: SweepConfig, cluster: Cluster) -> Slots:
    """What a trial of this sweep gets on this cluster.

    Raises:
        ConfigError: not even one trial fits; or what is to end the search would never come.
    """
    resources = config.resources
    slots = divide(
        cluster.nodes, gpus_per_trial=resources.gpus_per_trial, workers_per_trial=resources.workers_per_trial,
        cpus_per_worker=resources.cpus_per_worker, max_concurrent=config.search.max_concurrent,
    )  # fmt: skip
    search = config.search
    endless = search.budget is not None and search.trials >= MANY_TRIALS and search.max_hours is None
    if endless and not slots.trial_gpus:
        message = "a budget counts GPU hours, but trials have no GPU here, so the search would never end"
        raise ConfigError([Fault("search.budget", f"{message}; set search.trials or search.max_hours, too")])
    return slots


def _fit(
    log: PatientLog, sitting: Sitting, cluster: Cluster, driver: Driver, job: Job, progress: Progress
) -> None:
    """The Tuner: fresh each time, told nothing but what the next attempt is."""
    data = sitting.config.data.model_dump(mode="json", by_alias=True)
    searcher, scheduler = sitting.assemble(log, sitting.config, sitting.total, driver.raise_flag)

    seen = -1

    def each_step() -> None:
        nonlocal seen
        progress.tick()
        if log.state.seq != seen:
            seen = log.state.seq
            driver.check()
            for watcher in sitting.watchers:
                watcher.update(log.state)

    keep_secrets_home()
    tuner = tune.Tuner(
        tune.with_resources(run_trial, tune.PlacementGroupFactory([driver.slots.bundle])),
        param_space={"job": asdict(job)},
        tune_config=tune.TuneConfig(
            num_samples=-1,
            max_concurrent_trials=driver.slots.concurrent,
            search_alg=AskHook(searcher, driver, data),
            scheduler=DecideHook(scheduler, driver),
            reuse_actors=False,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(cluster.temp / "tune"),
            verbose=0,
            callbacks=[StepHook(driver, each_step)],
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    try:
        tuner.fit()
    except Exception as error:
        # Tune wraps what a hook raised in text of its own.
        kept = driver.error or error
        if isinstance(kept, ThresherError) or kept is not error:
            raise kept from None
        raise
    driver.raise_kept()
    driver.check()


def _closed(log: PatientLog, sitting: Sitting, reason: str | None) -> SweepResult:
    code = exit_code(log.state, reason)
    log.append("closed", exit_code=code, reason=reason)
    for watcher in sitting.watchers:
        watcher.close(log.state)
    return summary(log, code, reason)


def exit_code(state: RunState, reason: str | None) -> int:
    """0 done, 1 nothing usable, 3 usable but trials failed or a failing rung ended it, 130 and 143 by signal."""
    if reason in EXIT_CODES:
        return EXIT_CODES[reason]
    failed = any(trial.state is TrialState.FAILED for trial in state.trials.values())
    if state.best() is None and (failed or reason is None):
        return 1
    return 3 if failed else 0


def summary(log: PatientLog, code: int, reason: str | None) -> SweepResult:
    """The result as it stands in the log."""
    states: dict[str, int] = {}
    for trial in log.state.trials.values():
        states[str(trial.state)] = states.get(str(trial.state), 0) + 1
    best = log.state.best()
    return SweepResult(
        code, reason, log.store.uri, states, None if best is None else best.number,
        None if best is None else best.best_value,
    )  # fmt: skip
