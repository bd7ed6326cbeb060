"""Going on with a run from its directory alone: after a kill, on another machine, or with more trials."""

from __future__ import annotations

import difflib
import fnmatch
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.cluster import Cluster
from search.config import overridden, rooted, validated
from search.control import forget_stop
from search.notify import notify
from search.opening import Setting, asker_of, assemble, current_space, opened_with, space_of
from search.patient_log import PatientLog
from search.preflight import check_seen_everywhere
from search.progress import Progress
from search.records import RunState, TrialState
from search.running import Options, Sitting, SweepResult, exit_code, mend, run_sitting, slots_of, summary
from search.schema import SweepConfig
from search.store import RunLog, Store, open_store
from search.store.identity import host_name
from search.wandb_key import key_note
from search.watchers import watchers_of
from spaces import SearchSpace
from trainable import strict_yaml
from trainable.config import flatten
from trainable.errors import ConfigError, DataError, Fault

ALLOWED = (
    "resources.*", "search.trials", "search.max_hours", "search.max_concurrent", "tracking.*", "data.root", "space",
)  # fmt: skip
"""What `resume --set` may change; everything else is what makes the trials of a run comparable."""


def resume(
    run: str | Path,
    *,
    add_trials: int = 0,
    sets: Iterable[str] = (),
    retry_failed: bool = False,
    options: Options | None = None,
) -> SweepResult:
    """Goes on with a run to its end, or until it is told to stop.

    Args:
        run: the run directory, or its URI.
        add_trials: trials beyond those asked for so far.
        sets: changes `path.to.key=value`; see `ALLOWED`. A changed `space` opens a new generation.
        retry_failed: start failed trials again.
        options: how it is run.

    Raises:
        ConfigError, DataError: a change is not allowed, or the data are not those of the run.
        LeaseHeldError: somebody runs it.
        StoreError: there is no run, its record is damaged, or the storage failed.
    """
    options = options or Options()
    store, sets = open_store(run), tuple(sets)

    def planned(state: RunState) -> _Plan:
        return _plan(state, options, add_trials, sets)

    before = RunLog.open(store).state
    plan = planned(before)
    store.refuse_if_held()
    with ExitStack() as owning:

        def own() -> tuple[PatientLog, _Plan]:
            """Becomes the owner, and records what was given: from here on nothing of it is refused."""
            log, found = _owned(store, before, plan, planned)
            owning.enter_context(log)
            forget_stop(store)
            mend(log)
            if found.space is not None:
                _new_generation(log, found.config, found.space)
            if retry_failed:
                reopen_failed(log)
            return log, found

        log = None
        if nothing_left(before, plan.total) and not (retry_failed and _failed(before)):
            log, plan = own()
            if nothing_left(log.state, plan.total):
                return _closed_at_once(log, plan.config)
        with options.cluster() as cluster:
            slots_of(plan.config, cluster)
            check_seen_everywhere(
                store, plan.config.data.root, cluster, plan.config.resources.workers_per_trial
            )
            if log is None:
                log, plan = own()
            if nothing_left(log.state, plan.total):
                return _closed_at_once(log, plan.config)
            result = _run(log, plan.config, plan.total, cluster, options)
    notify(plan.config, result)
    return result


@dataclass(frozen=True)
class _Plan:
    """What a run is to become.

    Attributes:
        config: the sweep as it now stands. changed: what of it is changed this time, by dotted name.
        total: trials asked for. space: what is searched from now on; None where that stays.
    """

    config: SweepConfig
    changed: dict[str, Any]
    total: int
    space: SearchSpace | None


def _plan(state: RunState, options: Options, add_trials: int, sets: tuple[str, ...]) -> _Plan:
    """What was asked for, of the run as it stands."""
    config, changed = changed_config(state, sets)
    total = asked_for(state, changed, add_trials)
    setting = options.examine(config)
    _same_data(state, setting, config)
    space = space_of(config, setting) if "space" in changed or state.space_asked else None
    if space is not None:
        asker_of(config, space, opened_with(state))
    return _Plan(config, changed, total, space)


def _owned(
    store: Store, before: RunState, plan: _Plan, planned: Callable[[RunState], _Plan]
) -> tuple[PatientLog, _Plan]:
    """Becomes the owner of a run that was read before.

    Somebody else may have owned it since, added trials and changed settings: then the plan is made anew.
    """
    found = [plan]

    def given(state: RunState) -> dict[str, Any]:
        if state.seq != before.seq:
            found.append(planned(state))
        return {"set": found[-1].changed, "total": found[-1].total}

    log = PatientLog.resume(store, given=given, host=host_name(), pid=os.getpid())
    return log, found[-1]


def _run(log: PatientLog, config: SweepConfig, total: int, cluster: Cluster, options: Options) -> SweepResult:
    with Progress(lambda: log.state, total, options.console) as progress:
        for finding in log.store.findings:
            progress.say(f"record: {finding}")
        note = key_note(config.tracking.wandb)
        if note is not None:
            progress.say(note)
        waiting = log.state.pending()
        progress.say(f"{len(log.state.finished)} of {total} trials have ended; {len(waiting)} go on")
        sitting = Sitting(config, total, assemble, options.fit, watchers_of(log, config))
        return run_sitting(log, sitting, cluster, progress)


def changed_config(state: RunState, sets: tuple[str, ...]) -> tuple[SweepConfig, dict[str, Any]]:
    """The sweep as it now stands, and what is changed this time, by dotted name.

    Raises:
        ConfigError: a change that is not allowed, with the list of those that are; or a value that is not legal.
    """
    recorded = strict_yaml.loads(strict_yaml.dump(recorded_config(state)), "run")
    document = overridden(recorded, sets)
    faults: list[Fault] = []
    names = [text.partition("=")[0].strip() for text in sets]
    for name in names:
        if not any(fnmatch.fnmatchcase(name, pattern) or name.startswith("space.") for pattern in ALLOWED):
            close = difflib.get_close_matches(name, ALLOWED, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            message = f"resume may change only {', '.join(ALLOWED)}, but got {name}{hint}; start a new sweep for more"
            faults.append(Fault(f"--set {name}", message))
    data = rooted(document, Path.cwd(), faults)
    config = validated(SweepConfig, data, document, faults)
    if faults or config is None:
        raise ConfigError(faults)
    after = flatten(config.model_dump(mode="json", by_alias=True))
    changed = {
        key: value
        for key, value in after.items()
        if any(key == name or key.startswith(f"{name}.") for name in names)
    }
    if any(name == "space" or name.startswith("space.") for name in names):
        changed = {key: value for key, value in changed.items() if not key.startswith("space")}
        changed["space"] = config.space
    return config, changed


def recorded_config(state: RunState) -> dict[str, Any]:
    """The configuration that the run was opened with, and what earlier resumes changed on top."""
    config: dict[str, Any] = strict_yaml.loads(strict_yaml.dump(state.run["config"]), "run").data
    for dotted, value in state.settings.items():
        *parents, last = dotted.split(".")
        section = config
        for key in parents:
            section = section.setdefault(key, {})
        section[last] = value
    return config


def asked_for(state: RunState, changed: Mapping[str, Any], add_trials: int) -> int:
    """How many trials the run is to have.

    Raises:
        ConfigError: trials are to be taken away.
    """
    if add_trials < 0:
        raise ConfigError([Fault("--add-trials", f"must be at least 0, but got add_trials={add_trials}")])
    current = state.total if state.total is not None else opened_with(state)
    return int(changed.get("search.trials", current)) + add_trials


def differences(state: RunState, config: SweepConfig) -> tuple[str, ...]:
    """What a sweep file says differently from the run of its name, as `path.to.key=value` for `resume`."""
    old, new = flatten(recorded_config(state)), flatten(config.model_dump(mode="json", by_alias=True))
    keys = [key for key in new if old.get(key) != new[key] and key not in ("storage", "name")]
    space = any(key == "space" or key.startswith("space.") for key in keys)
    found = [key for key in keys if not key.startswith("space")] + (["space"] if space else [])
    whole = {**new, "space": config.space}
    # JSON is YAML on one line.
    return tuple(f"{key}={json.dumps(whole[key])}" for key in found)


def reopen_failed(log: PatientLog) -> list[int]:
    """Makes failed trials wait to go on from their last checkpoints; returns their numbers."""
    failed = _failed(log.state)
    for number in failed:
        trial = log.state.trials[number]
        log.append(
            "started", trial=number, attempt=trial.attempts, node=host_name(), pid=None, device=trial.device
        )
        log.append("paused", trial=number, attempt=trial.attempts, step=trial.step, reason="retry_failed")
    return failed


def _failed(state: RunState) -> list[int]:
    return [trial.number for trial in state.trials.values() if trial.state is TrialState.FAILED]


def nothing_left(state: RunState, total: int) -> bool:
    """Whether every trial that was asked for has ended."""
    return not state.pending() and state.next_number >= total


def _new_generation(log: PatientLog, config: SweepConfig, space: SearchSpace) -> None:
    state = log.state
    if space.space_hash == state.spaces.get(state.generation, {}).get("space_hash"):
        return
    asker = asker_of(config, space, opened_with(state))
    log.append(
        "generation", generation=state.generation + 1, space=space.to_json(), space_hash=space.space_hash,
        incompatible=asker.incompatible(state),
    )  # fmt: skip


def _same_data(state: RunState, setting: Setting, config: SweepConfig) -> None:
    recorded = state.run.get("data_hash")
    if recorded is not None and recorded != setting.data_hash:
        raise DataError(
            [
                Fault(
                    config.data.root,
                    "the data must be those that the run was opened with, but their images, masks or splits differ "
                    f"(data_hash {setting.data_hash[:12]}, and {str(recorded)[:12]} then); restore them, or name the "
                    "right folder by --set data.root=...",
                )
            ]
        )
    names = tuple(current_space(state).get("class_names", setting.class_names))
    if names != setting.class_names:
        message = f"classes must be those of the run, {names}, but got {setting.class_names}; restore the class table"
        raise DataError([Fault("data.classes", message)])


def _closed_at_once(log: PatientLog, config: SweepConfig) -> SweepResult:
    code = exit_code(log.state, None)
    log.append("closed", exit_code=code, reason=None)
    for watcher in watchers_of(log, config):
        watcher.close(log.state)
    return summary(log, code, None)
