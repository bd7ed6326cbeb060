"""Processes of this machine: whether one lives, how it is ended, and how much memory this one took; on Windows, too."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import resource

_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


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


def end_process(pid: int) -> None:
    """Ends a process of this machine at once, also one that is stopped; one that is gone already is left alone."""
    try:
        os.kill(pid, _KILL)
    except ProcessLookupError:
        return


def peak_resident_mb() -> float | None:
    """Most main memory that this process has held so far, in MB; None where the system does not tell.

    >>> (peak_resident_mb() or 0) > 1
    True
    """
    if sys.platform == "win32":
        return _peak_on_windows()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _kernel32() -> Any:
    return getattr(ctypes, "windll").kernel32  # noqa: B009  # the attribute exists on Windows only


def _alive_on_windows(pid: int) -> bool:
    # os.kill(pid, 0) would send Ctrl+C there.
    query_limited, still_active = 0x1000, 259
    kernel = _kernel32()
    handle = kernel.OpenProcess(query_limited, False, pid)
    if not handle:
        return False
    code = ctypes.c_ulong()
    found = kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return bool(found) and code.value == still_active


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS."""

    _fields_ = [("size", ctypes.c_uint32), ("faults", ctypes.c_uint32), ("peak", ctypes.c_size_t),
                ("rest", ctypes.c_size_t * 7)]  # fmt: skip


def _peak_on_windows() -> float | None:
    counters = _Counters(size=ctypes.sizeof(_Counters))
    try:
        kernel = _kernel32()
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        here = ctypes.c_void_p(kernel.GetCurrentProcess())
        told = kernel.K32GetProcessMemoryInfo(here, ctypes.byref(counters), counters.size)
    except (AttributeError, OSError):
        return None
    return counters.peak / 1e6 if told else None
