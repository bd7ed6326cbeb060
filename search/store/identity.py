"""Which machine, which start of it, and whether one of its processes lives."""

from __future__ import annotations

import functools
import math
import socket
from pathlib import Path


def host_name() -> str:
    """Name of this machine."""
    return socket.gethostname()


@functools.cache
def boot_id() -> str:
    """Differs after every start of this machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def booted_at(counters: Path = Path("/proc/stat")) -> float:
    """When this machine was started, by its own wall clock; infinite where the system does not tell."""
    try:
        lines = counters.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return math.inf
    return next((float(line.split()[1]) for line in lines if line.startswith("btime ")), math.inf)
