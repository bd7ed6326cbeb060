"""One Ray for all tests that need one, and drivers that start from a process with everything imported."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import ray

from search.cluster import connected
from tests.support.drivers import TOKEN, Zygote


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[str]:
    """A Ray of two CPUs; returns its address. Its trials can import `tests`."""
    os.environ["RAY_AUTH_TOKEN"] = TOKEN["RAY_AUTH_TOKEN"]
    with connected("local", num_cpus=2, num_gpus=0):
        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    made = Zygote(tmp_path_factory.mktemp("drivers"))
    yield made
    made.close()
