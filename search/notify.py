"""Telling somebody that a search has ended; nothing here can change how it ended."""

from __future__ import annotations

import logging
import os
import subprocess

from search.running import SweepResult
from search.schema import SweepConfig

_TIMEOUT_S = 60.0

logger = logging.getLogger(__name__)


def notify(config: SweepConfig, result: SweepResult) -> bool:
    """Runs the sweep's `notify.command`, with the result in THRESHER_* variables.

    Returns:
        Whether it was run and succeeded; a failure is only logged.
    """
    if config.notify is None:
        return False
    told = {
        "THRESHER_RUN": result.run,
        "THRESHER_EXIT_CODE": str(result.exit_code),
        "THRESHER_REASON": result.reason or "done",
        "THRESHER_BEST_TRIAL": "" if result.best_trial is None else str(result.best_trial),
        "THRESHER_BEST_VALUE": "" if result.best_value is None else repr(result.best_value),
    }
    command = list(config.notify.command)
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **told},
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            text=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("notify: %s could not be run: %s", command[0], error)
        return False
    if done.returncode:
        logger.warning(
            "notify: %s ended with %d: %s", command[0], done.returncode, done.stderr[-500:].strip()
        )
    return done.returncode == 0
