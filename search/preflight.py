"""What can be found out before the first trial: storage, machines and weights, while nothing is lost yet."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.cluster import Cluster, alive_nodes
from search.store import Store
from trainable.errors import ConfigError, Fault, StoreError
from trainable.models import segmenter

_TASK_TIMEOUT_S = 60.0


def check_storage(store: Store) -> None:
    """Writes a file and removes it.

    Raises:
        ConfigError: the storage cannot keep a run.
    """
    try:
        store.preflight()
    except StoreError as error:
        raise ConfigError([Fault("storage", str(error))]) from error


def check_seen_everywhere(store: Store, data_root: str, cluster: Cluster, workers: int = 1) -> None:
    """Where there are several machines, each must see the run's folder and the data.

    Args:
        store: the run. data_root: of the images. cluster: where trials run. workers: of one trial.

    Raises:
        ConfigError: one does not.
    """
    if not cluster.shared:
        return
    if store.path is None and workers > 1:
        message = (
            "the workers of one trial may stand on several machines and share its folder, which object storage is not; "
            f"it must be 1, but got workers_per_trial={workers}; or put storage on a folder that every node sees"
        )
        raise ConfigError([Fault("resources.workers_per_trial", message)])
    probe = f"control/.probe-{random.getrandbits(32):08x}"
    paths = [data_root] if Path(data_root).is_absolute() else []
    if store.path is not None:
        store.write_bytes(probe, b"thresher\n")
        paths.append(str(store.path / probe))
    try:
        faults = list(_unseen(paths))
    finally:
        if store.path is not None:
            store.delete(probe)
    if faults:
        raise ConfigError(faults)


def _unseen(paths: list[str]) -> Iterable[Fault]:
    task: Any = ray.remote(_missing)
    asked = []
    for node in alive_nodes():
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked.append((node, task.options(num_cpus=0, scheduling_strategy=place).remote(paths)))
    for node, pending in asked:
        host = node["NodeManagerHostname"]
        for path in ray.get(pending, timeout=_TASK_TIMEOUT_S):
            yield Fault(
                path,
                f"every node must see it, because a trial may run on any, but {host} does not; use a shared folder, or "
                "s3://... as storage",
            )


def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def check_weights(configurations: Iterable[dict[str, Any]]) -> None:
    """Loads each pretrained encoder once: trials that start later find it on this machine.

    Args:
        configurations: full configurations of the recipe, nested.

    Raises:
        ConfigError: weights cannot be had; says how to go on without.
    """
    seen = {
        (train.get("architecture"), train.get("encoder"), train.get("encoder_weights"))
        for train in configurations
    }
    for architecture, encoder, weights in sorted(seen, key=str):
        if architecture and encoder and weights:
            segmenter(architecture, encoder, weights, 2)
