"""Processes that stand still: what is said of them, and that they are gone."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from search.failure import classify
from search.slots import divide
from trainable.errors import TrainingHung, WorkerLost
from trainable.processes import end_process
from trainable.relay import Member, Relay
from trainable.state import Report
from trainable.watchdog import HUNG_EXIT, Watchdog


@pytest.mark.parametrize("gone", [False, True])
def test_a_process_that_is_to_end_writes_its_stacks_only_if_somebody_is_left_to_read_them(
    tmp_path: Path, gone: bool
) -> None:
    left, ended = [], threading.Event()

    def look() -> bool:
        if gone:
            raise EOFError
        return True

    def leave(code: int) -> None:
        left.append(code)
        ended.set()

    with (tmp_path / "log").open("ab") as log, Watchdog(look, log, every_s=0.01, limit_s=60.0, leave=leave):
        assert ended.wait(20.0)
    assert left == [HUNG_EXIT]
    said = (tmp_path / "log").read_text()
    assert ("stands still; stacks of all threads" in said and "in _watch" in said) is not gone


def test_a_process_that_moves_is_left_alone(tmp_path: Path) -> None:
    looks, enough = [], threading.Event()

    def look() -> bool:
        looks.append(1)
        if len(looks) == 5:
            enough.set()
        return False

    with (tmp_path / "log").open("ab") as log, Watchdog(look, log, every_s=0.001, limit_s=60.0, leave=looks.clear):
        assert enough.wait(20.0)
    assert len(looks) >= 5 and (tmp_path / "log").read_text() == ""


@pytest.mark.fault(
    33,
    how="a process stuck in C code that holds the interpreter's lock, so that no thread of Python moves, its watch too",
    saw="stacks written and the process ended by the interpreter's watchdog, which needs no lock",
)
def test_where_c_code_holds_the_interpreter_its_own_watchdog_ends_the_process(tmp_path: Path) -> None:
    code = (
        "import ctypes, os, sys, trainable.watchdog as w\n"
        "w._MARGIN_S = 0.8\n"
        "stuck = ctypes.PyDLL('kernel32').Sleep if os.name == 'nt' else ctypes.PyDLL(None).sleep\n"
        "def hold():\n"
        "    stuck(600)\n"
        "with open(sys.argv[1], 'ab') as log, w.Watchdog(lambda: False, log, every_s=0.01, limit_s=0.2):\n"
        "    hold()\n"
    )
    if sys.platform == "win32":
        code = code.replace("600", "600_000")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "log")], timeout=60)
    said = (tmp_path / "log").read_text()
    # Had the lock been free, the watch would have put the end off for ever.
    assert done.returncode == 1 and "in hold" in said and "in _watch" in said


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
def test_a_stopped_process_is_ended_and_one_that_is_gone_is_no_error() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"])
    end_process(child.pid)
    assert child.wait(timeout=20) != 0
    end_process(child.pid)


def test_what_breaks_a_group_is_tried_again() -> None:
    hung = classify(TrainingHung("hung: no step or report of the group's 2 workers for 9 s"))
    lost = classify(WorkerLost("a worker of the group of 2 is gone (Training failed)"))
    assert (hung.kind, hung.retry, lost.kind, lost.retry) == ("hung", True, "worker_died", True)
    assert "its stacks are in train.log" in hung.message and "of the group of 2" in lost.message


def test_workers_leave_room_for_the_processes_that_start_them() -> None:
    for nodes, workers in (([{"CPU": 2}], 2), ([{"CPU": 8, "GPU": 2}] * 3, 2), ([{"CPU": 4}] * 2, 4)):
        slots = divide(nodes, workers_per_trial=workers)
        asked = slots.concurrent * (workers * slots.worker["CPU"] + slots.bundle["CPU"])
        assert asked <= sum(node["CPU"] for node in nodes)
        # All processes that start groups may lie on one node, whose workers still must fit.
        places = slots.concurrent * workers // len(nodes)
        assert places * slots.worker["CPU"] + slots.concurrent * slots.bundle["CPU"] <= nodes[0]["CPU"]


def test_workers_hold_what_the_sweep_gives_them() -> None:
    slots = divide([{"CPU": 8, "GPU": 1}], workers_per_trial=2, gpus_per_trial=0.5, cpus_per_worker=0.5)
    assert slots.worker["GPU"] == 0.5 and 0.4 < slots.worker["CPU"] < 0.5


def test_the_relay_keeps_the_first_reason_and_one_report_at_a_time() -> None:
    relay = Relay()
    relay.join(1, Member("here", 7, None))
    for reason in (None, "prune", "stop"):
        relay.ask_to_stop(reason)
    assert relay.ask(1, 4) == ("prune", False) and relay.board().beats == {1: 4}
    relay.put_report(Report(5, 1.0, 0.5, {}))
    assert not relay.is_taken()
    relay.taken()
    relay.give_up()
    assert relay.is_taken() and relay.ask(0, 1) == ("prune", True)
