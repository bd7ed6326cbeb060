"""The configuration of a trial as a file that `train` runs unchanged, and that says where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from search.records import RunState, TrialRecord
from search.status import read_run
from trainable import strict_yaml
from trainable.config import RunConfig, faults_of
from trainable.errors import ConfigError, Fault

BEST = "best.yaml"
NAME_LENGTH = 100


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file, or its address.
        config: what it holds.
        trial: whose configuration it is.
    """

    path: str
    config: RunConfig
    trial: TrialRecord


def export(run: str, trial: int | None = None, output: Path | None = None) -> Exported:
    """Write a trial's full configuration.

    Args:
        run: the run directory or URI.
        trial: its number; left out: the best one.
        output: the file; left out: `best.yaml` in the run (`trial-<n>.yaml` for a trial that was named).

    Raises:
        ConfigError: there is no such trial, or none with a result.
        StoreError: the run cannot be read, or the file cannot be written.
    """
    store, state = read_run(run)
    chosen = chosen_trial(state, run, trial)
    config = exported_config(state, run, chosen)
    text = header(state, run, chosen) + strict_yaml.dump(config.model_dump(mode="json", by_alias=True))
    if output is not None:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            message = f"output must be a file that can be written, but got {error.strerror}; name another"
            raise ConfigError([Fault(str(output), message)]) from error
        return Exported(str(output), config, chosen)
    name = BEST if trial is None else f"trial-{trial}.yaml"
    store.write_bytes(name, text.encode())
    return Exported(f"{run.rstrip('/')}/{name}", config, chosen)


def chosen_trial(state: RunState, run: str, number: int | None) -> TrialRecord:
    """The trial of that number, or the best.

    Raises:
        ConfigError: there is none; says which there are.
    """
    if number is None:
        best = state.best()
        if best is None:
            done = f"{len(state.trials)} trials, none with a finite objective"
            raise ConfigError([Fault(run, f"a run must have a result to be exported, but got {done}; resume it")])
        return best
    if number not in state.trials:
        last = f"0 to {max(state.trials)}" if state.trials else "none"
        raise ConfigError([Fault(run, f"trial must be one of the run's ({last}), but got trial={number}")])
    return state.trials[number]


def exported_config(state: RunState, run: str, trial: TrialRecord) -> RunConfig:
    """The trial's configuration under a name of its own, with its provenance.

    Raises:
        ConfigError: what the record holds is no configuration.
    """
    try:
        config = RunConfig.model_validate(trial.config)
    except ValidationError as error:
        raise ConfigError(faults_of(error, f"{run}: trial {trial.number} in the record")) from error
    data = config.data
    moved = state.settings.get("data.root")
    if moved is not None:
        data = data.model_copy(update={"root": moved})
    name = str(state.run.get("name", config.name))
    suffix = f"-trial{trial.number}"
    return config.model_copy(
        update={
            "name": name[: NAME_LENGTH - len(suffix)] + suffix,
            "data": data,
            "provenance": provenance(state, run, trial),
        }
    )


def provenance(state: RunState, run: str, trial: TrialRecord) -> dict[str, Any]:
    """Where a configuration came from."""
    space = state.spaces.get(trial.generation, state.run)
    return {
        "run": run if "://" in run else str(Path(run).resolve()),
        "run_id": state.run.get("run_id"),
        "trial": trial.number,
        "source": trial.source,
        "objective": trial.best_value,
        "step": trial.best_step,
        "metric": state.run.get("config", {}).get("search", {}).get("objective"),
        "space_hash": space.get("space_hash"),
        "data_hash": state.run.get("data_hash"),
        "git_revision": state.run.get("git_revision"),
    }


def header(state: RunState, run: str, trial: TrialRecord) -> str:
    """Comment lines for people."""
    metric = state.run.get("config", {}).get("search", {}).get("objective", "objective")
    value = "no value" if trial.best_value is None else f"{metric} {trial.best_value:.4f} at step {trial.best_step}"
    return f"# Trial {trial.number} of {run} ({trial.source}): {value}.\n# Train it again: thresher train <this file>\n"
