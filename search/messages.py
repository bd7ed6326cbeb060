"""What a trial tells the driver: small flat dictionaries, so that Tune carries little and we keep the rest.

`started` comes first, then one `evaluated` per evaluation, then exactly one `outcome`, `failed` or `left`. A
process that dies says nothing more. Each carries the trial's own number and which start of it speaks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from search.failure import Failure
from trainable.state import Outcome, Report

STARTED, EVALUATED, OUTCOME, FAILED, LEFT = "started", "evaluated", "outcome", "failed", "left"
LAST = frozenset({OUTCOME, FAILED, LEFT})


def started(trial: int, attempt: int, *, node: str, pid: int, device: str) -> dict[str, Any]:
    """The first message of an attempt."""
    payload = {"node": node, "pid": pid, "device": device}
    return {"kind": STARTED, "trial": trial, "attempt": attempt, "payload": json.dumps(payload)}


def evaluated(trial: int, attempt: int, report: Report) -> dict[str, Any]:
    """One evaluation; a missing objective travels as NaN.

    >>> evaluated(3, 1, Report(50, 1.5, 0.25, {"val/miou": 0.25}))["record"]
    '{"val/miou": 0.25}'
    """
    return {
        "kind": EVALUATED,
        "trial": trial,
        "attempt": attempt,
        "step": report.step,
        "time_s": report.time_s,
        "objective": math.nan if report.objective is None else float(report.objective),
        "record": json.dumps(dict(report.record)),
        "health": json.dumps(dict(report.health)),
        "peak_memory_mb": math.nan if report.peak_memory_mb is None else float(report.peak_memory_mb),
    }


def outcome(trial: int, attempt: int, found: Outcome, gpus: float) -> dict[str, Any]:
    """How an attempt left by itself.

    Args:
        trial: our number.
        attempt: which start of it.
        found: what the training said.
        gpus: GPUs that the trial held.
    """
    payload = {**asdict(found), "gpu_seconds": gpus * found.time_s}
    return {"kind": OUTCOME, "trial": trial, "attempt": attempt, "payload": json.dumps(payload)}


def left(trial: int, attempt: int, reason: str) -> dict[str, Any]:
    """An attempt that was told to leave before its training was called."""
    return {"kind": LEFT, "trial": trial, "attempt": attempt, "payload": json.dumps({"reason": reason})}


def failed(
    trial: int, attempt: int, failure: Failure, log: str, peak_memory_mb: float | None = None
) -> dict[str, Any]:
    """An attempt that ended with an exception, and the end of its log."""
    payload = {"failure": failure.to_json(), "log": log, "peak_memory_mb": peak_memory_mb}
    return {"kind": FAILED, "trial": trial, "attempt": attempt, "payload": json.dumps(payload)}


def payload_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a message that Tune does not need to see."""
    found = json.loads(message["payload"])
    if not isinstance(found, dict):
        raise TypeError(f"a message's payload must be an object, but got {type(found).__name__}")
    return found
