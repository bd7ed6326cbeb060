"""What of this code would not even load where the system is not POSIX."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainable.processes import end_process, peak_resident_mb, pid_alive

ROOT = Path(__file__).parents[2]
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
CALLS = {
    "os.fork", "os.forkpty", "os.getpgid", "os.geteuid", "os.getuid", "os.killpg", "os.mkfifo", "os.setsid",
    "os.statvfs", "os.sched_getaffinity", "os.O_DIRECTORY", "os.WNOHANG", "signal.SIGKILL", "signal.SIGSTOP",
    "signal.SIGHUP", "signal.SIGUSR1", "signal.alarm", "signal.pthread_sigmask", "signal.SIG_BLOCK",
    "signal.SIG_SETMASK",
}  # fmt: skip


def posix_only(tree: ast.AST, guarded: bool = False) -> Iterator[str]:
    """Imports and names that Windows lacks, outside of what asks for the system first."""
    for node in ast.iter_child_nodes(tree):
        inside = guarded
        if isinstance(node, ast.If | ast.IfExp):
            test = ast.unparse(node.test)
            inside = inside or "sys.platform" in test or "hasattr(" in test
        if isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if alias.name in MODULES and not inside)
        if isinstance(node, ast.ImportFrom) and node.module in MODULES and not inside:
            yield f"from {node.module} import"
        if isinstance(node, ast.Attribute) and ast.unparse(node) in CALLS and not inside:
            yield ast.unparse(node)
        yield from posix_only(node, inside)


def early_return(tree: ast.AST) -> ast.AST:
    """Functions that leave at once where the system does not fit need no further guard."""

    class Left(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
            asks = [s for s in node.body if isinstance(s, ast.If) and isinstance(s.body[-1], ast.Return)]
            if any("sys.platform" in ast.unparse(s.test) or "hasattr(" in ast.unparse(s.test) for s in asks):
                node.body = [ast.Pass()]
            return self.generic_visit(node)

    return Left().visit(tree)


def test_nothing_that_windows_lacks_is_used_without_asking() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {found}"
        for package in ("trainable", "spaces", "search")
        for path in (ROOT / package).rglob("*.py")
        for found in posix_only(early_return(ast.parse(path.read_text())))
    ]
    assert wrong == []


@pytest.mark.parametrize("source", ["import fcntl", "from resource import getrusage", "import os\nos.fork()"])
def test_the_check_above_sees_what_it_looks_for(source: str) -> None:
    assert list(posix_only(ast.parse(source)))
    guarded = "import sys\nif sys.platform != 'win32':\n    " + source.replace("\n", "\n    ")
    assert not list(posix_only(ast.parse(guarded)))


def test_memory_is_unknown_and_nothing_fails_where_resource_is_missing() -> None:
    """A Windows that does not even tell its memory."""
    code = (
        "import ctypes, os, signal, sys, pathlib\n"
        "sys.modules['resource'] = None\n"
        "sys.platform = 'win32'\n"
        "import trainable.processes as p\n"
        "print(p.peak_resident_mb())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("None", 0), done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_memory_is_what_the_system_says() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    [high] = [int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")]
    assert peak_resident_mb() == pytest.approx(high, rel=0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no zombies")
def test_a_process_that_is_ended_is_gone_though_nobody_has_waited_for_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"],
                             stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() and pid_alive(child.pid)
    end_process(child.pid)
    while pid_alive(child.pid):
        pass
    assert child.wait(timeout=20) != 0
    end_process(child.pid)
