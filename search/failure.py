"""What went wrong in a trial, in words that a person understands, and whether trying again can help."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainable.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    StoreError,
    StoreFullError,
    TrainingDiverged,
    TrainingHung,
    WorkerLost,
)

OURS = ("trainable", "spaces", "search")
LOG_LINES = 20
_LOW_ON_MEMORY = "low on memory"
"""What Ray says of a process that it has killed for lack of memory; of any other it says that this may be so."""

_DEVICE = r"cuda error|hip error|device-side assert|ecc error"
_SECRET_NAME = re.compile(r"key|token|secret|password|passwd|credential", re.IGNORECASE)
_LIBRARY = re.compile(r"(site|dist)-packages|[\\/]lib[\\/]python\d|[\\/]Lib[\\/]|^<")
_WORKERS_NOTE = re.compile(r"in worker \d+:\n")
_TRACEBACK = "Traceback (most recent call last):\n"
_FRAME = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


@dataclass(frozen=True)
class Failure:
    """One way in which an attempt ended that it should not have.

    Attributes:
        kind: one word that goes into `stop_reason`: oom, host_memory, device, worker_died, hung, node_lost,
            device_busy, data, config, checkpoint, disk_full, storage, diverged, locked, error.
        message: what happened and what to do.
        cause: what makes two failures the same: exception type and the first frame of ours.
        retry: whether a fresh process, from the last checkpoint, can help.
        retries: at most so many times; None leaves it to the sweep's own number.
    """

    kind: str
    message: str
    cause: str
    retry: bool = False
    retries: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Failure:
        """Reads a failure back."""
        return cls(
            found["kind"], found["message"], found["cause"], bool(found["retry"]), found.get("retries")
        )


def classify(
    error: BaseException, *, step: int | None = None, on_gpu: bool = False, memory_kill: bool = False
) -> Failure:
    """Names what an exception of a trial means.

    Args:
        error: the exception.
        step: training steps that this attempt had done; None or 0 when it had not begun.
        on_gpu: whether the trial had a GPU.
        memory_kill: whether the system has killed a process of this machine for lack of memory meanwhile.

    >>> classify(MemoryError()).kind
    'host_memory'
    >>> classify(OSError(28, "No space left on device")).kind
    'disk_full'
    """
    text = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    where = first_frame_of_ours(error)
    cause = f"{type(error).__name__} at {where}" if where else type(error).__name__
    names = {base.__name__ for base in type(error).__mro__}
    low = text.lower()
    full = isinstance(error, OSError) and error.errno in _FULL
    if isinstance(error, StoreFullError) or full or "no space left on device" in low:
        return Failure("disk_full", f"{text}: free space on the disk; the trial goes on by itself", cause)
    if isinstance(error, TrainingHung):
        return died("", str(error))
    if _was_short_of_memory(error):
        return died("", str(error), memory_kill=True)
    if isinstance(error, WorkerLost) or "RayActorError" in names:
        if memory_kill:
            return died("", str(error), memory_kill=True)
        message = f"{str(error) or text}: killed by a signal, by the system, or crashed in C"
        return Failure("worker_died", message, "worker_died", retry=True)
    if isinstance(error, TrainingDiverged):
        return Failure("diverged", str(error), cause)
    if "OutOfMemoryError" in names or "out of memory" in low and ("cuda" in low or "hip" in low):
        late = bool(step)
        hint = (
            "it had trained before, so this may be fragmentation or the evaluation: tried once more in a fresh "
            "process" if late else "take a smaller batch_size or crop_size, or a lighter encoder"
        )  # fmt: skip
        return Failure("oom", f"device memory ran out ({hint}): {text}", cause, retry=late, retries=1)
    if _is_host_memory(error, low):
        hint = "main or shared memory ran out; run fewer trials at a time or enlarge /dev/shm"
        return Failure("host_memory", f"{hint}: {text}", cause, retry=bool(step), retries=1)
    if re.search(_DEVICE, low) or on_gpu and re.search(r"uncorrectable|cudnn|nccl", low):
        return Failure("device", f"the device failed: {text}", cause, retry=True, retries=1)
    if isinstance(error, DataError):
        return Failure("data", text, cause)
    if isinstance(error, ConfigError):
        return Failure("config", text, cause)
    if isinstance(error, CheckpointError):
        return Failure("checkpoint", text, cause)
    if "DeviceBusy" in names:
        return Failure("device_busy", str(error), "DeviceBusy", retry=True)
    if isinstance(error, FolderInUse):
        return Failure("locked", str(error), cause, retry=True)
    if isinstance(error, StoreError | ConnectionError | TimeoutError) or _is_flaky(error):
        return Failure("storage", f"storage or network failed: {text}", cause, retry=True)
    return Failure("error", f"{text} ({where})" if where else text, cause)


class FolderInUse(Exception):
    """The trial's folder belongs to another live process."""


def died(reason: str, last_words: str | None, memory_kill: bool = False) -> Failure:
    """Names the death of a trial's process, of which there is no exception.

    Args:
        reason: what Ray says of it.
        last_words: what the process itself left behind, such as "hung: no step for 600 s".
        memory_kill: whether the system has killed a process of that machine for lack of memory meanwhile.

    >>> died("The actor died unexpectedly", None).kind
    'worker_died'
    >>> died("", "hung: no step or report for 600 s").kind
    'hung'
    """
    low = reason.lower()
    said = f" ({_first_line(last_words)})" if last_words else ""
    if last_words and last_words.startswith("hung"):
        message = (
            f"{last_words}; its stacks are in train.log; killed and tried again from the last checkpoint"
        )
        return Failure("hung", message, "hung", retry=True)
    if memory_kill or _LOW_ON_MEMORY in low or "outofmemory" in low:
        hint = "run fewer trials at a time, with fewer workers, a smaller batch, or no pinned memory"
        message = f"the node ran out of main memory and the process was killed{said}: {hint}"
        return Failure("host_memory", message, "host_memory", retry=True)
    if (
        "node" in low
        and ("died" in low or "dead" in low or "lost" in low)
        and "worker process has died" not in low
    ):
        return Failure("node_lost", f"the node was lost: {_first_line(reason)}", "node_lost", retry=True)
    if "Traceback" in reason and "worker process has died" not in low:
        # Not the training's own error, which the trial tells by itself: for example, code that this node lacks.
        last = next((line.strip() for line in _last_first(reason) if line.strip()), "")
        return Failure("error", f"the trial could not run: {last[:300]}", last[:200], retry=False)
    message = (
        f"the trial's process died without a word{said}: killed by a signal, by the system, or crashed in C"
    )
    return Failure("worker_died", message, "worker_died", retry=True)


def memory_kills(counters: Path = Path("/proc/vmstat")) -> int:
    """How many processes this system has killed for lack of memory since it started; 0 where it does not say."""
    try:
        lines = counters.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def first_frame_of_ours(error: BaseException) -> str | None:
    """The innermost frame of this project's own packages: `trainable/loop.py:40 in step`.

    Where there is none but the one that called the training, the innermost that is not of a library.
    """
    ours = other = None
    for file, line, name in _frames(error):
        parts = Path(file).parts
        if _LIBRARY.search(file) or parts[-2:] == ("search", "trial.py"):
            continue
        package = next((i for i in reversed(range(len(parts) - 1)) if parts[i] in OURS), None)
        shown = parts[-3:] if package is None else parts[package:]
        text = f"{'/'.join(shown)}:{line} in {name}"
        ours, other = (ours, text) if package is None else (text, other)
    return ours or other


def _frames(error: BaseException) -> list[tuple[str, str, str]]:
    """File, line and function of where an exception was raised, the innermost last.

    One that has traveled from a worker of a group has left its traceback there, and brings it along as a note.
    """
    for note in getattr(error, "__notes__", ()):
        if _WORKERS_NOTE.match(note):
            return _FRAME.findall(note.rpartition(_TRACEBACK)[2])
    return [(f.filename, str(f.lineno), f.name) for f in traceback.extract_tb(error.__traceback__)]


def tail(log: bytes, lines: int = LOG_LINES) -> str:
    r"""The last lines of a log, whatever its bytes, each at most 500 characters.

    >>> tail(b"one\ntwo\n", 1)
    'two'
    """
    text = log[-200_000:].decode("utf-8", "replace").replace("\r", "\n")
    return "\n".join([line[:500] for line in text.split("\n") if line.strip()][-lines:])


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without the values of environment variables that hold secrets.

    >>> redacted("key is abcdefgh1", {"WANDB_API_KEY": "abcdefgh1"})
    'key is ***'
    """
    for name, value in (os.environ if environment is None else environment).items():
        if len(value) >= 8 and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return text


def _last_first(text: str) -> list[str]:
    return text.splitlines()[::-1]


def _was_short_of_memory(error: BaseException) -> bool:
    """Whether Ray has killed a process for lack of main memory, as far as an exception or what led to it says so."""
    return any(
        type(one).__module__.startswith("ray.")
        and (type(one).__name__ == "OutOfMemoryError" or _LOW_ON_MEMORY in str(one).lower())
        for one in _led_to(error)
    )


def _led_to(error: BaseException) -> Iterator[BaseException]:
    """An exception, what it was raised from, and those of the workers of a group that this stands for."""
    yield error
    if error.__cause__ is not None:
        yield error.__cause__
    for failed in (getattr(error.__cause__, "worker_failures", None) or {}).values():
        yield failed
        yield from filter(None, [getattr(failed, "health_check_failure", None)])


def _is_host_memory(error: BaseException, low: str) -> bool:
    return (
        isinstance(error, MemoryError)
        or "can't allocate memory" in low
        or "cannot allocate memory" in low
        or "bus error" in low
        or ("/dev/shm" in low and "unable" in low)
    )


def _is_flaky(error: BaseException) -> bool:
    flaky = {errno.EIO, errno.ETIMEDOUT, getattr(errno, "ESTALE", errno.EIO), errno.ECONNRESET}
    return isinstance(error, OSError) and error.errno in flaky


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:300]
