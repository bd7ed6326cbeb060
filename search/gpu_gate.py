"""Waiting until a GPU that Ray has given to a trial is really free of other people's work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

FREE_SHARE = 0.5
WAIT_S = 600.0
_POLL_S = 10.0


class DeviceBusy(Exception):
    """Another process holds the GPU."""


@dataclass(frozen=True)
class Occupied:
    """What is on a GPU before a trial has touched it.

    Attributes:
        free: share of its memory that is free, in [0, 1].
        holders: the processes on it, such as `pid 4711 (python, 20000 MiB)`.
    """

    free: float
    holders: tuple[str, ...] = ()


def wait_until_free(
    look: Callable[[], Occupied],
    *,
    say: Callable[[str], None],
    wait_s: float = WAIT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    give_up: Callable[[], bool] = lambda: False,
) -> None:
    """Returns once most of the GPU is free.

    Args:
        look: reads the GPU.
        say: takes a line for the trial's log.
        wait_s: how long to wait.
        clock: monotonic seconds.
        sleep: waits.
        give_up: asked between looks: the trial was told to leave.

    Raises:
        DeviceBusy: it still is not free; names the processes that hold it.
    """
    end, said = clock() + wait_s, False
    while (found := look()).free < FREE_SHARE and not give_up():
        who = ", ".join(found.holders) or "a process that cannot be seen from here"
        text = f"only {found.free:.0%} of the GPU's memory is free; it is held by {who}"
        if clock() >= end:
            raise DeviceBusy(f"{text}: still so after {wait_s:.0f} s; end that process, or leave the GPU out")
        if not said:
            say(f"{text}; waiting up to {wait_s:.0f} s")
            said = True
        sleep(_POLL_S)


def look_at_gpu() -> Occupied:
    """Reads the process's first GPU; one that cannot be read counts as free."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return Occupied(1.0)
    free, total = torch.cuda.mem_get_info()
    return Occupied(free / total, holders())


def holders() -> tuple[str, ...]:
    """The other processes on GPUs of this machine, as the driver's own tool names them."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ()
    return parsed(done.stdout, own=os.getpid())


def parsed(text: str, own: int) -> tuple[str, ...]:
    """The lines of `nvidia-smi --query-compute-apps` as people read them, without our own process.

    >>> parsed("4711, /usr/bin/python, 20000 MiB\\n12, me, 5 MiB\\n", own=12)
    ('pid 4711 (python, 20000 MiB)',)
    """
    found = []
    for line in text.splitlines():
        pid, _, rest = line.partition(",")
        name, _, memory = rest.rpartition(",")
        if pid.strip().isdigit() and int(pid) != own:
            found.append(f"pid {pid.strip()} ({name.strip().rpartition('/')[2]}, {memory.strip()})")
    return tuple(found)
