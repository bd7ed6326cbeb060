"""Sweeps that share a Ray, and clusters that should not be joined."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import ray

from search.cluster import Cluster, alive_nodes, check_safe, connected
from search.preflight import check_seen_everywhere
from search.store import open_store
from search.store.base import Store
from search.sweep import start_sweep
from tests.support.drive import NAME, toy_config, toy_options
from tests.support.drivers import PATIENCE_S, TOKEN, Zygote, state_of
from tests.support.fault_page import Observed
from trainable.errors import ConfigError

pytestmark = pytest.mark.ray

_OPEN_RAY = """
import os, sys
os.environ["RAY_AUTH_MODE"] = "disabled"
import ray
context = ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
                   logging_level="ERROR", object_store_memory=100 * 2**20, _temp_dir=sys.argv[1])
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_cluster_is_joined_only_if_it_asks_for_its_token(
    shared_ray: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    check_safe(shared_ray, insecure=False)
    with tempfile.TemporaryDirectory(prefix="thr-open-", dir="/tmp") as temp:
        process = subprocess.Popen(
            [sys.executable, "-c", _OPEN_RAY, temp], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdin is not None
        address = process.stdout.readline().strip()
        with pytest.raises(ConfigError, match="answers without one"):
            check_safe(address, insecure=False)
        process.stdin.close()
        process.wait(timeout=60)


def test_a_ray_that_was_there_before_is_left_running(shared_ray: str) -> None:
    with connected() as cluster:
        assert not cluster.own and cluster.temp.exists() and not cluster.shared
        assert sum(node.get("CPU", 0) for node in cluster.nodes) == 2
    assert ray.is_initialized() and not cluster.temp.exists()


@pytest.mark.fault(
    8,
    how="a data folder that a node of a cluster does not have",
    saw=(
        "refused before the first trial: `every node must see it`, with the node's name and s3:// as the "
        "way out"
    ),
    seam=True,
)
def test_on_several_machines_each_must_see_the_run_and_the_data(
    shared_ray: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cluster = open_store(tmp_path / "run"), Cluster(False, tmp_path)
    check_seen_everywhere(store, "/nowhere/data", cluster)
    monkeypatch.setattr(Cluster, "shared", True)
    check_seen_everywhere(store, str(tmp_path), cluster)
    with pytest.raises(ConfigError, match="every node must see it"):
        check_seen_everywhere(store, str(tmp_path / "data"), cluster)
    assert store.list() == []


def test_workers_of_one_trial_share_a_folder_that_several_machines_see(
    shared_ray: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "shared", True)
    cluster, objects = Cluster(True, tmp_path), cast(Store, SimpleNamespace(path=None))
    check_seen_everywhere(open_store(tmp_path / "run"), str(tmp_path), cluster, workers=2)
    with pytest.raises(ConfigError, match="must be 1, but got workers_per_trial=2"):
        check_seen_everywhere(objects, str(tmp_path), cluster, workers=2)


@pytest.mark.fault(
    8,
    how="a sweep on object storage that the processes of a running Ray have no access to",
    saw="refused before the first trial, exit 2: the node's name, the reason, and whose environment lacks what",
)
def test_object_storage_that_a_node_cannot_use_is_refused(shared_ray: str, tmp_path: Path) -> None:
    # What lies in this process's memory, nobody else has.
    storage = f"memory://{tmp_path.name}"
    words = f"must read and write it, because a trial may run on any, but {platform.node()} cannot; .*another storage"
    with pytest.raises(ConfigError, match=words) as caught:
        start_sweep(toy_config(storage, data={"root": str(tmp_path)}), options=toy_options())
    assert caught.value.exit_code == 2 and len(caught.value.faults) == 1
    store = open_store(f"{storage}/{NAME}")
    assert store.list() == []
    # A Ray of our own has this process's environment.
    check_seen_everywhere(store, str(tmp_path), Cluster(True, tmp_path))


def test_a_node_that_does_not_answer_or_lacks_the_code_is_named(
    shared_ray: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cluster = open_store(tmp_path / "run"), Cluster(False, tmp_path)
    monkeypatch.setattr(Cluster, "shared", True)
    monkeypatch.setattr("search.preflight._lacks", lambda *asked: importlib.import_module("no_such_package"))
    with pytest.raises(ConfigError, match=f"^{platform.node()}: every node must run this .*no_such_package"):
        check_seen_everywhere(store, str(tmp_path), cluster)
    monkeypatch.setattr("search.preflight._lacks", lambda *asked: time.sleep(600))
    monkeypatch.setattr("search.preflight._TASK_TIMEOUT_S", 0.5)
    with pytest.raises(ConfigError, match=f"^{platform.node()}: every node must answer"):
        check_seen_everywhere(store, str(tmp_path), cluster)
    assert store.list() == []


_JOIN = """
hostname other-machine && mount -t tmpfs none "$2" && exec "$0" start --address="$1" --num-cpus=1 --block \\
    --disable-usage-stats --object-store-memory=80000000
"""


@contextmanager
def other_machine(address: str, lacks: Path) -> Iterator[Callable[[], None]]:
    """A second machine in the cluster, with a name of its own and without what lies in a folder; yields its end."""
    namespace = ["unshare", "--uts", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("needs the right to make a machine of its own name and mounts")
    ray_command = str(Path(sys.executable).parent / "ray")
    process = subprocess.Popen(
        [*namespace, "bash", "-c", _JOIN, ray_command, address, str(lacks)], env={**os.environ, **TOKEN},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    try:
        wait_for_nodes(2)
        yield end
    finally:
        end()
        wait_for_nodes(1)


def wait_for_nodes(count: int) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while len(alive_nodes()) != count:
        assert time.monotonic() < give_up, f"there never were {count} nodes"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.fault(8, how="SIGKILL to a second machine (host name and mounts of its own) in the middle of a trial")
def test_a_machine_that_is_lost_loses_no_trial_and_one_that_does_not_see_the_run_is_refused(
    shared_ray: str, tmp_path: Path, observed: Observed
) -> None:
    hidden, storage = tmp_path / "hidden", tmp_path / "shared"
    for folder in (hidden, storage):
        folder.mkdir()
    (storage / "toy.json").write_text(json.dumps({"sleep": 0.3}))
    search = {"trials": 3, "max_concurrent": 3, "asha": None}
    with other_machine(shared_ray, hidden) as end:
        with pytest.raises(ConfigError, match="every node must see it.* but other-machine does not") as caught:
            start_sweep(toy_config(hidden), options=toy_options())
        assert not (hidden / NAME / "events").exists()
        lost: list[int] = []

        def kill_it() -> None:
            while not lost:
                time.sleep(0.1)
                for trial in state_of(storage / NAME).trials.values():
                    if trial.evaluations and _node(storage / NAME, trial.number) == "other-machine":
                        lost.append(trial.number)
            end()

        killer = threading.Thread(target=kill_it, daemon=True)
        killer.start()
        result = start_sweep(toy_config(storage, data={"root": str(storage)}, search=search), options=toy_options())
        killer.join()
    state = state_of(storage / NAME)
    assert result.exit_code == 0 and [str(t.state) for t in state.trials.values()] == ["COMPLETE"] * 3
    trial = state.trials[lost[0]]
    # Ray may hear of the process before it hears of the machine.
    assert trial.attempts == 2 and trial.failures in (["node_lost"], ["worker_died"])
    assert [row.step for row in trial.evaluations] == [5, 10, 15, 20]
    assert _node(storage / NAME, trial.number) == platform.node()
    assert f"toy trial {trial.number} from step 0" not in _last_attempt(storage / NAME, trial.number)
    words = re.sub(r"probe-[0-9a-f]+", "probe", str(caught.value)).replace(str(hidden), "...")
    observed(f"storage that it does not see: exit 2, {words}")
    observed("its trial goes on elsewhere from its last checkpoint: COMPLETE in attempt 2, no row lost or doubled")


def _node(run: Path, trial: int) -> str:
    """Where the latest attempt of a trial started."""
    started = [e.payload for e in open_store(run).read() if e.type == "started" and e.payload["trial"] == trial]
    return str(started[-1]["node"])


def _last_attempt(run: Path, trial: int) -> str:
    return (run / "trials" / str(trial) / "train.log").read_text().rpartition("--- trial")[2]


@pytest.mark.slow
def test_two_sweeps_on_one_ray_do_not_mix(shared_ray: str, tmp_path: Path, zygote: Zygote) -> None:
    drivers = []
    for seed in (0, 1):
        storage = tmp_path / str(seed)
        storage.mkdir()
        (storage / "toy.json").write_text(json.dumps({"sleep": 0.02}))
        env = {"THRESHER_RAY_ADDRESS": shared_ray}
        drivers.append(zygote.start("sweep", storage, env=env, seed=seed, search={"trials": 3}))
    assert [driver.wait() for driver in drivers] == [0, 0], [driver.text for driver in drivers]
    states = [state_of(tmp_path / str(seed) / NAME) for seed in (0, 1)]
    for seed, state in enumerate(states):
        assert list(state.trials) == [0, 1, 2]
        assert all(trial.config["seed"] == seed and trial.attempts == 1 for trial in state.trials.values())
    assert states[0].trials[0].params != states[1].trials[0].params
