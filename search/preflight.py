"""What can be found out before the first trial: storage, machines and weights, while nothing is lost yet."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.cluster import Cluster, alive_nodes
from search.store import Store, open_store
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
    """Every node must see the run and the data: it is asked before the first trial runs there.

    Folders are looked for where there are several machines. Object storage is tried on every cluster that was there
    before, even on this machine: its processes have endpoint and credentials of their own, or none.

    Args:
        store: the run. data_root: of the images. cluster: where trials run. workers: of one trial.

    Raises:
        ConfigError: a node does not; names each.
    """
    remote = store.path is None
    if cluster.shared and remote and workers > 1:
        message = (
            "the workers of one trial may stand on several machines and share its folder, which object storage is not; "
            f"it must be 1, but got workers_per_trial={workers}; or put storage on a folder that every node sees"
        )
        raise ConfigError([Fault("resources.workers_per_trial", message)])
    paths = [data_root] if cluster.shared and Path(data_root).is_absolute() else []
    probe = f"control/.probe-{random.getrandbits(32):08x}"
    uri = store.uri if remote and not cluster.own else None
    if store.path is not None and cluster.shared:
        paths.append(str(store.path / probe))
    if not paths and uri is None:
        return
    store.write_bytes(probe, b"thresher\n")
    try:
        faults = list(_asked_everywhere(paths, uri, probe))
    finally:
        store.delete(probe)
    if faults:
        raise ConfigError(faults)


def _asked_everywhere(paths: list[str], uri: str | None, probe: str) -> Iterator[Fault]:
    """What each node lacks, by the answer of a small task there; no answer is one as well."""
    task: Any = ray.remote(_lacks)
    asked: dict[Any, str] = {}
    for node in alive_nodes():
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        pending = task.options(num_cpus=0, max_retries=0, scheduling_strategy=place).remote(paths, uri, probe)
        asked[pending] = str(node["NodeManagerHostname"])
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_TASK_TIMEOUT_S)
    for pending, host in asked.items():
        if pending not in answered:
            ray.cancel(pending)
            yield Fault(host, f"every node must answer within {_TASK_TIMEOUT_S:.0f} s, but this one does not")
            continue
        try:
            lacking: list[tuple[str, str | None]] = ray.get(pending)
        except RayError as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            yield Fault(host, f"every node must run this version of thresher, but got {said[-1][:300]}")
            continue
        yield from (Fault(where, _words(host, why)) for where, why in lacking)


def _words(host: str, why: str | None) -> str:
    if why is None:
        return (
            f"every node must see it, because a trial may run on any, but {host} does not; use a shared folder, or "
            "s3://... as storage"
        )
    return (
        f"every node must read and write it, because a trial may run on any, but {host} cannot; start Ray there with "
        f"the endpoint and the credentials in its environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...): {why}"
    )


def _lacks(paths: list[str], uri: str | None, probe: str) -> list[tuple[str, str | None]]:
    """What this node does not see (None), and what it may not use, with the reason."""
    found: list[tuple[str, str | None]] = [(path, None) for path in paths if not Path(path).exists()]
    why = None if uri is None else _no_access(uri, probe)
    return found if uri is None or why is None else [*found, (uri, why)]


def _no_access(uri: str, probe: str) -> str | None:
    """Why a run on object storage cannot be kept from here; None where it can."""
    try:
        # What does not answer is found out soon by this, and reading waits long.
        open_store(f"{uri}/control").preflight()
        open_store(uri).read_bytes(probe)
    except FileNotFoundError:
        return "what the driver has just written is not there, so this is another storage of the same name"
    except (StoreError, ConfigError) as error:
        return str(error)
    return None


def check_weights(ndim: int, configurations: Iterable[dict[str, Any]]) -> None:
    """Loads each pretrained encoder once: trials that start later find it on this machine.

    Args:
        ndim: dimensions of the data; networks for volumes have no pretrained encoder.
        configurations: full configurations of the recipe, nested.

    Raises:
        ConfigError: weights cannot be had; says how to go on without.
    """
    if ndim != 2:
        return
    seen = {
        (train.get("architecture"), train.get("encoder"), train.get("encoder_weights"))
        for train in configurations
    }
    for architecture, encoder, weights in sorted(seen, key=str):
        if architecture and encoder and weights:
            segmenter(architecture, encoder, weights, 2)
