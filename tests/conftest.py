"""What holds for every test: nobody draws to wandb by accident, Ctrl+C can be sent, no property is timed, and tests of
whole runs stay together."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

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


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """Which tests stay in one process: those of a file, which share what is costly to make, and those of whole runs.

    The latter share a Ray, and two Rays beside each other would crowd two cores.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "runs" if nodeid.startswith("tests/integration/") else nodeid.partition("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: they take longest, and what remains fills the other process meanwhile."""
    items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    return Together(config, log)
