"""Forks drivers from a process that has imported everything: each then starts at once, and can be killed for real.

Reads one JSON object a line: `{"argv": [...], "out": path, "env": {...}}` answers the new process's id;
`{"wait": pid, "timeout": s}` answers how it ended, or null.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from tests.support.drive import main


def _child(asked: dict[str, Any]) -> None:
    os.setsid()
    out = os.open(asked["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.environ.update(asked["env"])
    code = 70
    try:
        code = main(*asked["argv"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, timeout: float) -> int | None:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def serve() -> None:
    """Answers until its input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            print(json.dumps(_wait(asked["wait"], asked["timeout"])), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _child(asked)
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
