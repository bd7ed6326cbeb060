"""How many trials run at a time, and what each gets: arithmetic on a cluster's nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainable.errors import ConfigError

GPU, CPU = "GPU", "CPU"
CPU_TRIALS_PER_NODE = 4
"""Without GPUs, more trials than this on one node only starve each other of memory."""
STARTER_CPUS = 0.001
"""CPUs of the process that starts a group of workers, as Ray counts them."""
_ROUND = 1e-6


@dataclass(frozen=True)
class Slots:
    """What a trial gets, and how many of them there are.

    Attributes:
        concurrent: trials at a time.
        gpus: GPUs of each worker.
        cpus: CPUs of each worker, as Ray counts them.
        threads: CPU threads of each worker.
        workers: workers of one trial.
    """

    concurrent: int
    gpus: float
    cpus: float
    threads: int
    workers: int = 1

    @property
    def bundle(self) -> dict[str, float]:
        """What Tune reserves for a trial's own process."""
        if self.workers > 1:
            # Its workers reserve theirs; the process that starts them must not starve them.
            return {CPU: STARTER_CPUS}
        return {CPU: self.cpus, GPU: self.gpus} if self.gpus else {CPU: self.cpus}

    @property
    def worker(self) -> dict[str, float]:
        """What each worker of a group reserves: room is left for the processes that start groups, on any node."""
        cpus = max(STARTER_CPUS, self.cpus - STARTER_CPUS * self.concurrent)
        return {CPU: round(cpus, 4), GPU: self.gpus} if self.gpus else {CPU: round(cpus, 4)}

    @property
    def trial_gpus(self) -> float:
        """GPUs that a trial holds in all."""
        return self.gpus * self.workers


def divide(
    nodes: Sequence[Mapping[str, float]],
    *,
    gpus_per_trial: float | Literal["auto"] = "auto",
    workers_per_trial: int = 1,
    cpus_per_worker: float | Literal["auto"] = "auto",
    max_concurrent: int | Literal["auto"] = "auto",
) -> Slots:
    """Divides a cluster among trials.

    Args:
        nodes: resources of each node that is there or that the autoscaler may add.
        gpus_per_trial: GPUs of each worker; `auto` = one where there are any, else none.
        workers_per_trial: processes that train one trial together.
        cpus_per_worker: `auto` = a node's cores over its workers.
        max_concurrent: trials at a time; `auto` = what fits.

    Raises:
        ConfigError: not even one trial fits.

    >>> divide([{"CPU": 16, "GPU": 2}])
    Slots(concurrent=2, gpus=1.0, cpus=8, threads=8, workers=1)
    >>> divide([{"CPU": 2}])
    Slots(concurrent=2, gpus=0.0, cpus=1, threads=1, workers=1)
    >>> divide([{"CPU": 8, "GPU": 1}], gpus_per_trial=0.5).concurrent
    2
    """
    any_gpu = any(node.get(GPU, 0) > 0 for node in nodes)
    gpus = (1.0 if any_gpu else 0.0) if gpus_per_trial == "auto" else float(gpus_per_trial)
    places = [_places(node, gpus, cpus_per_worker) for node in nodes]
    fits = sum(places) // workers_per_trial
    if fits < 1:
        raise ConfigError(_too_big(nodes, gpus, workers_per_trial, cpus_per_worker))
    concurrent = fits if max_concurrent == "auto" else max(1, min(fits, int(max_concurrent)))
    if cpus_per_worker == "auto":
        used = [(node, count) for node, count in zip(nodes, places, strict=True) if count]
        # Fewer trials than places leave more cores for each.
        share = min(1.0, concurrent * workers_per_trial / sum(count for _, count in used))
        cpus: float = max(1, min(_cores(node, count, share) for node, count in used))
    else:
        cpus = cpus_per_worker
    return Slots(concurrent, gpus, cpus, max(1, math.floor(cpus)), workers_per_trial)


def _places(node: Mapping[str, float], gpus: float, cpus: float | Literal["auto"]) -> int:
    """Workers that a node has room for."""
    cores = node.get(CPU, 0.0)
    by_cpu = math.floor(cores / cpus + _ROUND) if cpus != "auto" and cpus > 0 else None
    if gpus > 0:
        by_gpu = math.floor(node.get(GPU, 0.0) / gpus + _ROUND)
        limit = math.floor(cores + _ROUND) if by_cpu is None else by_cpu
        return min(by_gpu, max(limit, 0))
    if by_cpu is not None:
        return by_cpu
    return min(math.floor(cores + _ROUND), CPU_TRIALS_PER_NODE)


def _cores(node: Mapping[str, float], places: int, share: float) -> int:
    return math.floor(node.get(CPU, 0.0) / max(1, math.ceil(places * share - _ROUND)) + _ROUND)


def _too_big(
    nodes: Sequence[Mapping[str, float]], gpus: float, workers: int, cpus: float | Literal["auto"]
) -> str:
    have = "; ".join(f"{node.get(CPU, 0):g} CPUs, {node.get(GPU, 0):g} GPUs" for node in nodes) or "no node"
    need = f"{workers} x ({'at least 1' if cpus == 'auto' else f'{cpus:g}'} CPUs, {gpus:g} GPUs)"
    return (
        f"resources: one trial must fit the cluster, but got gpus_per_trial={gpus:g}, workers_per_trial={workers}, "
        f"cpus_per_worker={cpus}: it needs {need}, and the nodes have {have}; ask for less or add a node"
    )
