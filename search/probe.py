"""How long a step and an evaluation of a configuration take here: measured, within a limit."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainable.config import RunConfig, flatten
from trainable.evaluation import Interrupted
from trainable.knob import knobs_of
from trainable.recipes import get_recipe
from trainable.session import Session, open_session

WARM_STEPS = 2
MOST_STEPS = 30
_SHARE_FOR_STEPS = 0.5


@dataclass(frozen=True)
class Timing:
    """What one trial costs here.

    Attributes:
        start_s: seconds from an imported torch to the first step, with the data decoded.
        step_s: seconds per training step, self-training on.
        evaluation_s: seconds per evaluation; None where it did not end within the limit.
        best_mb: size of the best checkpoint. last_mb: size of the checkpoint for a resume.
        device: where it was measured.
        steps: how many steps were timed.
    """

    start_s: float
    step_s: float
    evaluation_s: float | None
    best_mb: float
    last_mb: float
    device: str
    steps: int


def time_trial(run: Mapping[str, Any], use_gpu: bool, threads: int, limit_s: float) -> Timing:
    """Train a few steps and evaluate once, in a folder that is thrown away.

    Args:
        run: a `RunConfig` as plain data.
        use_gpu: whether there is a device.
        threads: CPU threads.
        limit_s: seconds; the steps may take half of them.
    """
    torch.set_num_threads(max(1, threads))
    device = torch.device("cuda" if use_gpu and torch.cuda.is_available() else "cpu")
    config = with_self_training(RunConfig.model_validate(run))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="thresher-probe-") as scratch:
        session = open_session(config, Path(scratch), Path.cwd(), device)
        try:
            started = _steps(session, WARM_STEPS, began + limit_s)[0] - began
            count, step_s = _timed(session, began + _SHARE_FOR_STEPS * limit_s)
            evaluation_s = _evaluation(session, began + limit_s)
            return Timing(started, step_s, evaluation_s, *_sizes(session), device=str(device), steps=count)
        finally:
            session.close()


def with_self_training(config: RunConfig) -> RunConfig:
    """The same run with self-training from its first step: what most of its steps cost."""
    known = knobs_of(get_recipe(config.recipe).config)
    at_once = {name: 0 for name in ("st.start_step", "st.ramp_steps") if name in known}
    return config.model_copy(update={"train": flatten(config.train) | at_once})


def _steps(session: Session, count: int, deadline: float) -> tuple[float, int]:
    """Take up to `count` steps; the time when the device has done them, and how many there were."""
    done = 0
    while done < count and session.state.step < session.steps:
        session.enter_phase()
        session.train_step()
        done += 1
        if time.monotonic() > deadline:
            break
    if session.device.type == "cuda":
        torch.cuda.synchronize(session.device)
    return time.monotonic(), done


def _timed(session: Session, deadline: float) -> tuple[int, float]:
    """How many steps were timed, at least one, and seconds per step."""
    began, total, chunk = time.monotonic(), 0, 1
    while total < MOST_STEPS and session.state.step < session.steps:
        ended, done = _steps(session, chunk, deadline)
        total, chunk = total + done, min(2 * chunk, 8)
        if ended > deadline:
            break
    return max(total, 1), (time.monotonic() - began) / max(total, 1)


def _evaluation(session: Session, deadline: float) -> float | None:
    began = time.monotonic()
    try:
        session.evaluate(lambda: "limit" if time.monotonic() > deadline else None)
    except Interrupted:
        return None
    return time.monotonic() - began


def _sizes(session: Session) -> tuple[float, float]:
    """Megabytes of the best checkpoint and of the one for a resume."""
    session.save()
    files = {path.name: path.stat().st_size / 1e6 for path in session.directory.rglob("*") if path.is_file()}
    best = sum(size for name, size in files.items() if name.startswith("best"))
    last = sum(size for name, size in files.items() if name.startswith("last"))
    return best, last
