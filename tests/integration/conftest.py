"""One Ray for all tests that need one, and drivers that start from a process with everything imported."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from search.cluster import QUIET
from tests.support.drivers import TOKEN, Zygote

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[str]:
    """A Ray of two CPUs; returns its address. Its trials can import `tests`."""
    os.environ.update(QUIET)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    )
    os.environ["RAY_AUTH_TOKEN"] = TOKEN["RAY_AUTH_TOKEN"]
    temp = tempfile.mkdtemp(prefix="thr-test-", dir="/tmp")
    context = ray.init(
        address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR", object_store_memory=100 * 2**20, _temp_dir=temp,
    )  # fmt: skip
    yield str(context.address_info["gcs_address"])
    ray.shutdown()
    shutil.rmtree(temp, ignore_errors=True)


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    made = Zygote(tmp_path_factory.mktemp("drivers"))
    yield made
    made.close()
