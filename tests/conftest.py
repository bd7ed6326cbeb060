"""What holds for every test: nobody draws to wandb by accident, Ctrl+C can be sent, and no property is timed."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.fault_page"]

os.environ.setdefault("WANDB_MODE", "disabled")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs like that, and every child would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure; the same examples every time, so that a run can be repeated.
settings.register_profile("thresher", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("thresher")
