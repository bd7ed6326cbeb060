"""A training without torch: a curve from a formula, real files, and any trouble on request.

`<storage>/toy.json`, or THRESHER_TOY, says what it should do:
`{"sleep": 0.01, "trials": {"3": {"what": "kill", "at": 7, "times": 1}}}`.
`what` is one of kill, raise, oom, assert, busy, nan, hang, full, exit; fill: fills the storage up to `leave` bytes;
memory: allocates beyond the limit of the control group `group`; unmeasured: no objective from that step on. `at` is a
step; `times` is in how many attempts (default 1). `"*"` stands for every trial. Checkpoints are JSON, written whole and
`pad` bytes larger than they need be; it goes on from them exactly. `wide` adds so many metrics to each record.
"""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.gpu_gate import DeviceBusy
from trainable.errors import TrainingDiverged
from trainable.state import Outcome, Report


class OutOfMemoryError(RuntimeError):
    """Looks as torch's does."""


def fit(
    run_config: dict[str, Any],
    directory: str,
    *,
    workers: int,
    use_gpu: bool,
    threads: int,
    report: Callable[[Report], None],
    should_stop: Callable[[], str | None],
) -> Outcome:
    """The same signature and promises as `trainable.worker:fit`."""
    folder = Path(directory)
    train = flat(run_config["train"])
    steps, every = int(train["steps"]), int(train["eval_every_steps"])
    plan = _plan(folder)
    state = _load(folder)
    print(f"toy trial {folder.name} from step {state['step']}", flush=True)
    while state["step"] < steps:
        reason = should_stop()
        if reason is not None:
            _save(folder, state, plan.get("pad", 0))
            return _outcome(state, "PAUSED", reason)
        time.sleep(plan.get("sleep", 0.0))
        state["step"] += 1
        state["time_s"] += 1.0
        _trouble(folder, plan, state["step"])
        if state["step"] % every == 0 or state["step"] == steps:
            value = curve(train, state["step"], int(run_config.get("seed") or 0))
            measured = None if _unmeasured(folder, plan, state["step"]) else value
            if measured is not None and (state["best_value"] is None or measured > state["best_value"]):
                state["best_value"], state["best_step"] = measured, state["step"]
            record = {
                run_config.get("objective") or "val/miou": measured,
                "loss/total": 1.0 - value,
                "val/auc": None,
            }
            record |= {f"wide/{number}": 0.0 for number in range(plan.get("wide", 0))}
            report(Report(state["step"], state["time_s"], measured, record))
            _save(folder, state, plan.get("pad", 0))
    return _outcome(state, "COMPLETE", None)


def curve(train: dict[str, Any], step: int, seed: int) -> float:
    """Rises to a peak that the knobs decide, with a little noise of (seed, step)."""
    numbers = [
        v for k, v in sorted(train.items()) if isinstance(v, float) and k.startswith(("st.", "threshold"))
    ]
    miss = sum((v - 0.6) ** 2 for v in numbers) / max(1, len(numbers))
    noise = random.Random(1000 * seed + step).uniform(-0.005, 0.005)
    return (0.8 - min(0.7, miss)) * (1.0 - math.exp(-step / 8.0)) + noise


def flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys, dotted."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _plan(folder: Path) -> dict[str, Any]:
    path = folder.parents[2] / "toy.json"
    text = path.read_text() if path.exists() else os.environ.get("THRESHER_TOY", "{}")
    found: dict[str, Any] = json.loads(text)
    return found


def _wanted(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = plan.get("trials", {}).get(folder.name) or plan.get("trials", {}).get("*") or {}
    return found


def _unmeasured(folder: Path, plan: dict[str, Any], step: int) -> bool:
    wanted = _wanted(folder, plan)
    return wanted.get("what") == "unmeasured" and step >= wanted["at"]


def _trouble(folder: Path, plan: dict[str, Any], step: int) -> None:
    wanted = _wanted(folder, plan)
    if not wanted or wanted["at"] != step or wanted["what"] == "unmeasured":
        return
    done = folder / "toy-trouble"
    times = int(done.read_text()) if done.exists() else 0
    if times >= wanted.get("times", 1):
        return
    done.write_text(str(times + 1))
    what = wanted["what"]
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        os._exit(9)
    elif what == "hang":
        while True:
            time.sleep(0.5)
    elif what == "oom":
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    elif what == "assert":
        raise RuntimeError("CUDA error: device-side assert triggered")
    elif what == "busy":
        raise DeviceBusy("only 3% of the GPU's memory is free; it is held by pid 4711 (python3, 20000 MiB)")
    elif what == "fill":
        _fill(folder.parents[2] / "ballast", wanted.get("leave", 0))
    elif what == "memory":
        Path(wanted["group"], "cgroup.procs").write_text(str(os.getpid()))
        hoard = []
        while True:
            hoard.append(bytearray(8 * 2**20))
    elif what == "nan":
        raise TrainingDiverged(f"loss must be finite, but got nan at step {step}, lr=0.1")
    elif what == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    elif what == "tell":
        raise RuntimeError(f"no login with {os.environ['WANDB_API_KEY']} at step {step}")
    else:
        raise KeyError(f"no such class at step {step}")


def _fill(ballast: Path, leave: int) -> None:
    """Takes all the room that there is, and gives some back."""
    with ballast.open("wb", buffering=0) as file:
        for block in (2**16, 2**9, 1):
            try:
                while file.write(b"x" * block) == block:
                    pass
            except OSError:
                continue
    os.truncate(ballast, ballast.stat().st_size - leave)


def _load(folder: Path) -> dict[str, Any]:
    path = folder / "checkpoints" / "last.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    return {"step": 0, "time_s": 0.0, "best_value": None, "best_step": None}


def _save(folder: Path, state: dict[str, Any], pad: int = 0) -> None:
    path = folder / "checkpoints" / "last.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(json.dumps(state) + pad * " ")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _outcome(state: dict[str, Any], end: Any, reason: str | None) -> Outcome:
    return Outcome(
        end,
        reason,
        state["step"],
        state["time_s"],
        state["best_value"],
        state["best_step"],
        12.5,
        "cpu",
        {},
        None,
    )
