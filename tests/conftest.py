"""What holds for every test: nobody draws to wandb by accident, Ctrl+C can be sent, no property is timed, and tests of
whole runs stay together."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.fault_page"]

os.environ.setdefault("WANDB_MODE", "disabled")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes that share the tests share the cores, too.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs like that, and every child would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure; the same examples every time, so that a run can be repeated.
settings.register_profile("thresher", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("thresher")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which tests stay in one process: those of a file, which share what is costly to make, and those of whole runs.

    The latter share a Ray, and two Rays beside each other would crowd two cores.
    """
    for item in items:
        whole = "integration" in item.path.parts or item.get_closest_marker("ray")
        item.add_marker(pytest.mark.xdist_group("runs" if whole else item.path.stem))
