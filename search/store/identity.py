"""Which machine, which start of it, and whether one of its processes lives."""

from __future__ import annotations

import ctypes
import functools
import os
import socket
import sys
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


def pid_alive(pid: int) -> bool:
    """Tells whether a process of this machine lives; one that is dead but not yet waited for does not.

    >>> pid_alive(os.getpid()), pid_alive(-1)
    (True, False)
    """
    if pid <= 0:
        return False
    if sys.platform == "win32":
        return _alive_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[:1] not in (["Z"], ["X"])


def _alive_on_windows(pid: int) -> bool:
    # os.kill(pid, 0) would send Ctrl+C there.
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    query_limited, still_active = 0x1000, 259
    handle = kernel.OpenProcess(query_limited, False, pid)
    if not handle:
        return False
    code = ctypes.c_ulong()
    found = kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return bool(found) and code.value == still_active
