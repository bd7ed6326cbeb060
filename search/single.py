"""One configuration as a run of one trial: the same record and the same files as a search, without Ray."""

from __future__ import annotations

import os
import secrets
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from search.control import EXIT_CODES, Control, StopNow, forget_stop
from search.failure import classify, redacted, tail
from search.metric_columns import metric_columns
from search.patient_log import PatientLog
from search.preflight import check_storage, check_weights
from search.records import SCHEMA, Decision, RunState, TrialRecord
from search.running import exit_code, mend
from search.store import Store, open_store
from search.store.base import EVENTS
from search.store.identity import host_name
from search.sweep import SWEEP_FILE, described, git_revision, refuse_taken, set_aside, versions
from search.tables import TableWriter
from search.trial import LOG_NAME
from search.trial_folder import trial_folder, write_config
from search.verdicts import Ending, of_failure, of_outcome
from trainable import strict_yaml
from trainable.config import RecipeConfig, RunConfig, resolve
from trainable.data.check import inspect
from trainable.data.report import CheckReport
from trainable.errors import ConfigError, DataError, Fault, StoreError
from trainable.loop import train
from trainable.metrics import metric_definition
from trainable.recipes import get_recipe
from trainable.state import Observer, Report

KIND, TRAIN = "kind", "train"
TRIAL = 0
CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class Look:
    """Who looks on.

    Attributes:
        say: takes a line for the user.
        observer: sees the signals between evaluations.
    """

    say: Callable[[str], None] = print
    observer: Observer | None = None


def train_single(
    config: RunConfig, storage: str, *, fresh: bool = False, go_on: bool = False, look: Look | None = None
) -> int:
    """Run one configuration to its end, or until it is told to stop.

    Args:
        config: what to train; paths absolute.
        storage: the folder that the run is made in, or an address such as `s3://bucket/prefix`.
        fresh: a run of that name is renamed first.
        go_on: a run of that name is continued.
        look: who looks on.

    Returns:
        The exit code.

    Raises:
        ConfigError, DataError: the configuration or the data cannot be used, or the name is taken.
        LeaseHeldError: somebody runs it.
    """
    store = open_store(f"{storage.rstrip('/')}/{config.name}")
    if go_on and store.list(EVENTS):
        return resume_single(str(store.path or store.uri), look)
    check_storage(open_store(storage))
    if not fresh:
        refuse_taken(store)
    report = _examined(config)
    made = _resolved(config, report.class_names)
    check_weights(config.data.ndim, [made.model_dump(mode="json")])
    full = config.model_copy(update={"preset": None, "train": made.model_dump(mode="json")})
    if fresh:
        # Only now, so that a configuration that cannot begin leaves the run of its name where it is.
        set_aside(store)
    with PatientLog.create(store, **_opened(config, storage, report, made)) as log:
        store.write_bytes(SWEEP_FILE, strict_yaml.dump(described(log.state.run)).encode())
        plain = full.model_dump(mode="json", by_alias=True)
        log.append("asked", trial=TRIAL, source=TRAIN, params={}, coords={}, config=plain, seed=config.seed, bracket=0)
        return _attempt(log, full, made, look or Look())


def resume_single(run: str, look: Look | None = None) -> int:
    """Go on with a run of one configuration; returns the exit code.

    Raises:
        DataError: the data are not those of the run.
        LeaseHeldError: somebody runs it.
    """
    store, look = open_store(run), look or Look()
    with PatientLog.resume(store, host=host_name(), pid=os.getpid()) as log:
        forget_stop(store)
        mend(log)
        trial = log.state.trials.get(TRIAL)
        if trial is None:
            raise ConfigError([Fault(run, "the run ended before it began; start it again with --fresh")])
        if trial.ended:
            look.say(f"{run}: has ended ({trial.state}); nothing is left to do")
            return _closed(log, None, look)
        config = RunConfig.model_validate(trial.config)
        report = _examined(config)
        if report.data_hash != log.state.run.get("data_hash"):
            message = "the data must be those that the run began with, but images, masks or splits differ; restore them"
            raise DataError([Fault(config.data.root, message)])
        return _attempt(log, config, _resolved(config, report.class_names), look)


def _examined(config: RunConfig) -> CheckReport:
    report = inspect(config.data, Path.cwd(), supervised=not get_recipe(config.recipe).needs_unlabeled)
    report.raise_faults()
    return report


def _resolved(config: RunConfig, names: tuple[str, ...]) -> RecipeConfig:
    kind = get_recipe(config.recipe)
    return resolve(kind.config, preset=kind.preset_values(config.preset), train=config.train, class_names=names)


def _opened(config: RunConfig, storage: str, report: CheckReport, made: RecipeConfig) -> dict[str, Any]:
    kind, names = get_recipe(config.recipe), report.class_names
    excluded = [names.index(name) for name in made.exclude_classes if name in names]
    goal = kind.objective_of(config.objective, config.direction)
    search = {"trials": 1, "objective": goal.metric, "direction": goal.direction}
    return {
        "schema": SCHEMA, "run_id": secrets.token_hex(4), "name": config.name, "generation": 0,
        "config": {**config.model_dump(mode="json", by_alias=True), KIND: TRAIN, "search": search, "storage": storage},
        "versions": versions(), "git_revision": git_revision(), "data_hash": report.data_hash,
        "metrics": metric_columns(names, kind.metrics),
        "metric_definition": metric_definition(
            names, exclude_classes=excluded, positive_class=1 if len(names) == 2 else None
        ),
    }  # fmt: skip


def _attempt(log: PatientLog, config: RunConfig, made: RecipeConfig, look: Look) -> int:
    """One start of the trial, recorded as it goes; returns the exit code."""
    tables = TableWriter(log.store)
    log.say = look.say
    control = Control(
        log.store, raise_flag=lambda trial, reason: None, running=lambda: {TRIAL}, say=look.say,
        kill=lambda trial: os._exit(EXIT_CODES.get(control.reason or "", int(control.reason != "stop"))),
    )  # fmt: skip
    log.giving_up = lambda: control.reason is not None
    with control.signals():
        control.start()
        try:
            ending = _in_its_folder(log, config, made, control, look, tables)
            log.append(ending.event, **ending.payload)
            mend(log)
            code = _closed(log, control.reason, look)
        except StopNow:
            look.say("stopped at once; the run goes on from its last checkpoint at resume")
            return EXIT_CODES.get(control.reason or "interrupt", 130)
        finally:
            control.stop()
    tables.close(log.state)
    return code


def _in_its_folder(
    log: PatientLog, config: RunConfig, made: RecipeConfig, control: Control, look: Look, tables: TableWriter
) -> Ending:
    """Trains in the trial's folder, which is whole in the run when this returns."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    attempt = log.state.trials[TRIAL].attempts + 1
    name = f"thresher-{log.state.run['run_id']}-{log.store.epoch}-{os.getpid()}"
    with trial_folder(log.store, TRIAL, name, lambda: _still_ours(log.store)) as (directory, push):
        log.append("started", trial=TRIAL, attempt=attempt, node=host_name(), pid=os.getpid(), device=_named(device))
        write_config(directory / CONFIG_FILE, log.state.trials[TRIAL].config)
        return _fit(log, config, made, directory, device, attempt, control, look, tables, push)


def _still_ours(store: Store) -> bool:
    try:
        store.check_owner()
    except StoreError:
        return False
    return True


def _fit(
    log: PatientLog, config: RunConfig, made: RecipeConfig, directory: Path, device: torch.device, attempt: int,
    control: Control, look: Look, tables: TableWriter, push: Callable[[], None],
) -> Ending:  # fmt: skip
    """Train; whatever comes back or is raised becomes an ending."""

    def record(report: Report) -> None:
        push()
        decision = Decision("complete" if report.step >= made.steps else "continue")
        log.append(
            "evaluated", trial=TRIAL, attempt=attempt, step=report.step, time_s=report.time_s,
            objective=report.objective, record=report.record, decision=decision.to_json(), health=report.health,
            peak_memory_mb=report.peak_memory_mb,
        )  # fmt: skip
        _note(directory, f"step {report.step}: {log.state.objective} {report.objective}")
        tables.update(log.state)

    def should_stop() -> str | None:
        return control.asked_of(TRIAL) or control.reason

    gpus = 1.0 if device.type == "cuda" else 0.0
    try:
        outcome = train(
            config, directory, device=device, report=record, should_stop=should_stop, observer=look.observer
        )
    except Exception as error:  # Whatever the training raises is a result: the trial's end and its reason.
        _note(directory, traceback.format_exc())
        look.say(redacted("".join(traceback.format_exception_only(error)).strip()))
        trial = log.state.trials[TRIAL]
        failure = classify(error, step=trial.step, on_gpu=bool(gpus))
        failure = replace(failure, message=redacted(failure.message))
        return of_failure(
            trial, attempt, failure, redacted(tail((directory / LOG_NAME).read_bytes())), retries=0,
            asked=control.asked_of(TRIAL), run_reason=control.reason, gpus=gpus,
        )  # fmt: skip
    found = {**asdict(outcome), "gpu_seconds": gpus * outcome.time_s}
    return of_outcome(
        log.state.trials[TRIAL], attempt, found, asked=control.asked_of(TRIAL), run_reason=control.reason
    )


def _note(directory: Path, text: str) -> None:
    with (directory / LOG_NAME).open("a", encoding="utf-8") as file:
        file.write(redacted(text).rstrip("\n") + "\n")


def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _closed(log: PatientLog, reason: str | None, look: Look) -> int:
    code = exit_code(log.state, reason)
    log.append("closed", exit_code=code, reason=reason)
    look.say(_words(log.state, log.state.trials[TRIAL]))
    return code


def _words(state: RunState, trial: TrialRecord) -> str:
    value = "no value" if trial.best_value is None else f"{trial.best_value:.4f} at step {trial.best_step}"
    why = f" ({trial.stop_reason or trial.pause_reason})" if trial.stop_reason or trial.pause_reason else ""
    return f"{trial.state}{why} at step {trial.step}: best {state.objective} {value}"
