"""Sweeps that share a Ray, and clusters that should not be joined."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray

from search.cluster import Cluster, check_safe, connected
from search.preflight import check_seen_everywhere
from search.store import open_store
from tests.support.drive import NAME
from tests.support.drivers import TOKEN, Zygote, state_of
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
