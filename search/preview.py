"""What a sweep would run and cost: arithmetic on its file, and a short measurement where there is room for one."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from search.cluster import Cluster
from search.opening import asha_of, base_of, baselines_of
from search.probe import Timing, time_trial
from search.running import slots_of
from search.scheduler import grace_steps
from search.schema import MANY_TRIALS, SweepConfig
from search.slots import Slots
from trainable.config import RunConfig, flatten
from trainable.data.layouts import class_table
from trainable.errors import ThresherError

PROBE_S = 60.0
START_S = 10.0
"""Seconds from a trial's suggestion to its first step, beside what the probe sees: a process that loads torch."""


@dataclass(frozen=True)
class Rung:
    """One rung of the ladder.

    Attributes:
        step: where it lies.
        trials: about how many trials reach it.
        stay: about how many go on from it.
    """

    step: int
    trials: int
    stay: int


@dataclass(frozen=True)
class Plan:
    """What a sweep file comes to, without a measurement.

    Attributes:
        trials: how many, baselines included. baselines: how many of them are.
        steps: length of a full trial. evaluations: of a full trial.
        rungs: where trials are pruned; empty where nothing is.
        why_no_rungs: the reason, where there are none.
        total_steps: about how many steps all trials take. most_steps: the same if nothing is pruned.
    """

    trials: int
    baselines: int
    steps: int
    evaluations: int
    rungs: tuple[Rung, ...]
    why_no_rungs: str
    total_steps: int
    most_steps: int


@dataclass(frozen=True)
class Cost:
    """What a plan costs, as measured.

    Attributes:
        hours: about, with pruning. most_hours: if nothing is pruned.
        disk_gb: checkpoints at the end. most_disk_gb: while trials run.
        gpu_hours: GPUs of a trial times its hours, over all trials.
    """

    hours: float
    most_hours: float
    disk_gb: float
    most_disk_gb: float
    gpu_hours: float


def plan(config: SweepConfig) -> Plan:
    """Trials, rungs and steps of a sweep.

    Raises:
        ConfigError: the file's knobs do not fit its recipe or data.
    """
    names = class_table(config.data, Path.cwd()).names
    flat = flatten(base_of(config, names))
    steps, every = int(flat["steps"]), int(flat["eval_every_steps"])
    baselines = min(len(baselines_of(config, names)), config.search.trials)
    ladder = asha_of(config, names).rungs()
    rungs = _rungs(ladder, config, baselines)
    why = "" if rungs else _why_no_rungs(config, flat)
    total = _total_steps(config.search.trials, steps, rungs)
    return Plan(
        config.search.trials, baselines, steps, math.ceil(steps / every), rungs, why, total,
        config.search.trials * steps,
    )  # fmt: skip


def _rungs(ladder: Iterable[int], config: SweepConfig, baselines: int) -> tuple[Rung, ...]:
    """About how many trials reach each rung, and how many go on; baselines always do."""
    found, reach = [], config.search.trials
    factor = config.search.asha.reduction_factor if config.search.asha is not None else 1
    for step in ladder:
        stay = min(reach, baselines + math.ceil(max(reach - baselines, 0) / factor))
        found.append(Rung(step, reach, stay))
        reach = stay
    return tuple(found)


def _why_no_rungs(config: SweepConfig, flat: Mapping[str, Any]) -> str:
    asha = config.search.asha
    if asha is None:
        return "asha is null"
    first = grace_steps(flat, asha.reduction_factor) if asha.grace_steps == "auto" else asha.grace_steps
    return f"the first rung ({first} steps) lies beyond half of the run ({flat['steps']} steps)"


def _total_steps(trials: int, steps: int, rungs: Iterable[Rung]) -> int:
    """Steps of all trials, each up to the rung that it leaves at.

    >>> _total_steps(9, 100, [Rung(30, 9, 3)])
    480
    """
    total, left = 0, trials
    for rung in rungs:
        total += (left - rung.stay) * rung.step
        left = rung.stay
    return total + left * steps


def cost(found: Plan, timing: Timing, slots: Slots, keep_best: int) -> Cost | None:
    """Hours and disk of a plan; None where no evaluation could be timed or the number of trials is open."""
    if timing.evaluation_s is None or found.trials >= MANY_TRIALS:
        return None
    per_step = timing.step_s + timing.evaluation_s * found.evaluations / found.steps
    fixed = found.trials * (START_S + timing.start_s)
    seconds, most = fixed + found.total_steps * per_step, fixed + found.most_steps * per_step
    best = min(keep_best, found.trials) * timing.best_mb
    # Slots that no trial is left for do not make the others faster.
    at_a_time = min(slots.concurrent, found.trials)
    running = at_a_time * (2 * timing.last_mb + timing.best_mb)
    return Cost(
        seconds / at_a_time / 3600, most / at_a_time / 3600, best / 1000, (best + running) / 1000,
        slots.trial_gpus * seconds / 3600,
    )  # fmt: skip


def measure(config: SweepConfig, cluster: Cluster, limit_s: float = PROBE_S) -> tuple[Slots, Timing | None, str]:
    """Time one trial as a Ray task with a trial's resources.

    Returns:
        What a trial gets, the timing, and why there is none.

    Raises:
        ConfigError: not even one trial fits the cluster.
    """
    slots = slots_of(config, cluster)
    if slots.workers > 1:
        return slots, None, "trials of several workers are not timed"
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    if any(free.get(kind, 0.0) < amount - 1e-6 for kind, amount in slots.bundle.items()):
        return slots, None, "there is no free slot: other work holds the cluster"
    run = RunConfig(
        name="probe", recipe=config.recipe, preset=config.preset, data=config.data, train=config.train, seed=config.seed
    )  # fmt: skip
    task: Any = ray.remote(time_trial).options(
        num_cpus=slots.bundle.get("CPU", 1), num_gpus=slots.bundle.get("GPU", 0), max_retries=0
    )
    plain = run.model_dump(mode="json", by_alias=True)
    pending = task.remote(plain, slots.gpus > 0, slots.threads, limit_s)
    ready, _ = ray.wait([pending], timeout=3 * limit_s)
    if not ready:
        ray.cancel(pending, force=True)
        return slots, None, f"the measurement did not end within {3 * limit_s:.0f} s"
    return slots, *timing_of(pending)


def timing_of(pending: Any) -> tuple[Timing | None, str]:
    """What the measurement says, or why it says nothing.

    Raises:
        ThresherError: as the task raised it, without the page that Ray puts around it: weights that cannot be had.
    """
    try:
        return ray.get(pending), ""
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, ThresherError):
            raise cause from None
        said = str(cause).strip().splitlines() or [""]
        return None, f"the measurement ended with {type(cause).__name__}: {said[0][:300]}"


def where(cluster: Cluster) -> str:
    """The machine or cluster in words."""
    return f"{len(cluster.nodes)} nodes" if cluster.shared else socket.gethostname()
