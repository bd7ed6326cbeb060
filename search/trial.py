"""One Tune trial: a folder, a lock on it, a log, and one call of the training, which reports and leaves when told.

The training is found by name (`trainable.worker:fit`), knows nothing of Ray, and keeps its checkpoints in the
folder: started again there, it goes on. Whatever it raises becomes a message, so that the process ends in order.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray import tune

from search import messages
from search.failure import classify, memory_kills, redacted, tail
from search.flags import find_flags
from search.gpu_gate import look_at_gpu, wait_until_free
from search.stop_question import ORPHANED, StopQuestion
from search.store import open_store
from search.trial_folder import trial_folder, write_config
from trainable.processes import peak_resident_mb
from trainable.state import Outcome, Report

INHERITED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LOG_NAME = "train.log"
_SHOWN = ("val/miou", "train/miou", "loss/total", "loss/sup", "loss/st", "st/ratio", "lr")


@dataclass(frozen=True)
class Job:
    """What all trials of a run share; plain JSON, because it travels in Tune's configuration.

    Attributes:
        run: the run directory, absolute, or its URI.
        namespace: where the run's flags are found.
        fit: dotted name of the training, `package.module:function`.
        workers: processes that train one trial.
        gpus: GPUs that a trial holds.
        threads: CPU threads of each worker.
        worker: what each worker of a group reserves.
        limit_s: seconds without a step after which a trial counts as hung.
        start_limit_s: the same before its first step.
    """

    run: str
    namespace: str
    fit: str = "trainable.worker:fit"
    workers: int = 1
    gpus: float = 0.0
    threads: int = 1
    worker: Mapping[str, float] = field(default_factory=dict)
    limit_s: float = 1800.0
    start_limit_s: float = 7200.0


def run_trial(config: Mapping[str, Any]) -> None:
    """Runs one attempt of one trial; the function that Tune calls.

    Args:
        config: `job` (see `Job`), `trial` (our number), `attempt` (from 1) and `config`, the trial's full
            configuration as JSON.
    """
    job = Job(**config["job"])
    trial, attempt = int(config["trial"]), int(config["attempt"])
    run_config: dict[str, Any] = json.loads(config["config"])
    _clean_environment(job)
    tune.report(
        messages.started(trial, attempt, node=platform.node(), pid=os.getpid(), device=_device_name(job))
    )
    flags = find_flags(job.namespace)
    question = StopQuestion(flags, trial, attempt, limit_s=job.limit_s, start_limit_s=job.start_limit_s)
    question.start()
    question.refresh()
    try:
        message = _in_its_folder(job, run_config, trial, attempt, flags, question)
    except (
        Exception
    ) as error:  # The folder is held by another process, or the storage fails: a result as well.
        message = _failed(job, trial, attempt, error, question.steps, "")
    finally:
        question.stop()
    if question.reason != ORPHANED:
        # Nothing may come after this: the driver takes it for the trial's end.
        tune.report(message)


def _in_its_folder(
    job: Job, run_config: dict[str, Any], trial: int, attempt: int, flags: Any, question: StopQuestion
) -> dict[str, Any]:
    if question.reason is not None:
        # Told to leave before it began: no weights are loaded for that.
        return messages.left(trial, attempt, question.reason)
    name = f"{job.namespace}-{trial}-{attempt}"
    folder = trial_folder(open_store(job.run), trial, name, lambda: _still_ours(flags, trial, attempt))
    with folder as (directory, push):
        question.before_end = push
        with _captured(directory / LOG_NAME, trial, attempt):
            return _attempt(job, run_config, trial, attempt, directory, question, push, flags)


def _attempt(
    job: Job, run_config: dict[str, Any], trial: int, attempt: int, directory: Path, question: StopQuestion,
    push: Callable[[], None], flags: Any,
) -> dict[str, Any]:  # fmt: skip
    """Calls the training, and turns its return or its exception into the last message."""

    reported, kills = 0, memory_kills()

    def report(found: Report) -> None:
        nonlocal reported
        reported = found.step
        print(_line(found), flush=True)
        with question.excused():
            push()
            tune.report(messages.evaluated(trial, attempt, found))
        question.refresh()

    try:
        write_config(directory / "config.yaml", run_config)
        fit: Callable[..., Outcome] = _by_name(job.fit)
        if job.gpus >= 1 and job.workers == 1:
            # A share of a GPU is meant to have company.
            with question.excused():
                wait_until_free(look_at_gpu, say=print, give_up=lambda: question.reason is not None)
        found = fit(
            run_config, str(directory), workers=job.workers, use_gpu=job.gpus > 0, threads=job.threads,
            report=report, should_stop=question,
            **_group(job, lambda place: ray.get(flags.hold.remote(trial, place))),
        )  # fmt: skip
        return messages.outcome(trial, attempt, found, job.gpus)
    except Exception as error:  # Whatever the training raises is a result: the trial's end and its reason.
        print(redacted("".join(traceback.format_exception(error))), end="", file=sys.stderr, flush=True)
        log = tail((directory / LOG_NAME).read_bytes())
        # A group's steps are not ours to count: what it last reported says whether it had begun.
        steps = question.steps if job.workers == 1 else reported
        return _failed(job, trial, attempt, error, steps, log, memory_kill=memory_kills() > kills)


def _group(job: Job, holds: Callable[[str], object]) -> dict[str, Any]:
    """What a training of several workers is told: it watches them itself, as `StopQuestion` does one."""
    if job.workers == 1:
        return {}
    limits = {"limit_s": job.limit_s, "start_limit_s": job.start_limit_s}
    return {"resources": dict(job.worker), **limits, "holds": holds}


def _failed(
    job: Job, trial: int, attempt: int, error: Exception, steps: int, log: str, memory_kill: bool = False
) -> dict[str, Any]:
    step = steps if steps > 2 else None
    failure = classify(error, step=step, on_gpu=job.gpus > 0, memory_kill=memory_kill)
    failure = replace(failure, message=redacted(failure.message))
    return messages.failed(trial, attempt, failure, redacted(log), _peak_memory_mb())


def _line(found: Report) -> str:
    """An evaluation as the trial's log shows it: the objective, then what is small enough to read."""
    value = "-" if found.objective is None else f"{found.objective:.4f}"
    shown = [
        f"{name} {number:.4g}"
        for name, number in found.record.items()
        if number is not None and name in _SHOWN
    ]
    return f"step {found.step} ({found.time_s:.0f} s): objective {value}  {'  '.join(shown)}"


def _still_ours(flags: Any, trial: int, attempt: int) -> bool:
    """False where the driver, and with it its actor, is gone: somebody else may own the trial by now.

    Raises:
        TimeoutError: it does not answer, which says nothing.
    """
    try:
        ray.get(flags.last_words.remote(trial, attempt), timeout=30)
    except ray.exceptions.GetTimeoutError:
        raise
    except ray.exceptions.RayError:
        return False
    return True


def _clean_environment(job: Job) -> None:
    for name in INHERITED:
        os.environ.pop(name, None)
    # Ray sets these from the CPUs that it has granted, which a worker group's driver has not.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(job.threads)


def _device_name(job: Job) -> str:
    if job.gpus <= 0:
        return "cpu"
    if job.workers > 1:
        return f"{job.workers} x cuda"  # This process has none of them: its workers do.
    torch: Any = importlib.import_module("torch")
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "cpu"


def _by_name(dotted: str) -> Any:
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)


@contextmanager
def _captured(log: Path, trial: int, attempt: int) -> Iterator[None]:
    """Everything that the process prints, from Python or from C, goes to the trial's log too late to be lost."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    kept = [os.dup(1), os.dup(2)]
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file, 1)
        os.dup2(file, 2)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        os.write(
            1, f"--- trial {trial}, attempt {attempt}, {now}, {platform.node()}:{os.getpid()} ---\n".encode()
        )
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for target, source in zip((1, 2), kept, strict=True):
            os.dup2(source, target)
            os.close(source)
        os.close(file)


def _peak_memory_mb() -> float | None:
    """Most memory held so far in MB: the device's where there is one, else the process's."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 1e6
    return peak_resident_mb()
