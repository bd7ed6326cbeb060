"""The parts of a sweep that need no Ray: what failures mean, how a cluster is divided, what ends a run."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import GetTimeoutError, RayError

from search import messages
from search.cluster import check_safe, is_loopback
from search.control import STOP_FILE, Control
from search.failure import Failure, FolderInUse, classify, died, redacted, tail
from search.flags import EVERY_TRIAL, Flags
from search.folder_lock import FolderLock
from search.gpu_gate import DeviceBusy, Occupied, wait_until_free
from search.mirror import Mirror
from search.patient_log import PatientLog
from search.records import TrialRecord, TrialState
from search.slots import CPU_TRIALS_PER_NODE, divide
from search.store import open_store
from search.trial import _still_ours
from search.verdicts import common_cause, of_failure, of_outcome
from tests.support.toy import OutOfMemoryError
from trainable.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    StoreError,
    StoreFullError,
    TrainingDiverged,
)
from trainable.state import Outcome, Report

# ---- failures ----


@pytest.mark.fault(
    25, 27,
    how=(
        "the errors that torch and the system raise: CUDA and ECC errors, MemoryError, a full /dev/shm, "
        "and others"
    ),
    saw=(
        "each gets its name (device, host_memory, ...) and its hint; only those that a fresh process can "
        "mend are tried again"
    ),
    seam=True,
)
@pytest.mark.parametrize(
    ("error", "step", "kind", "retry"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), None, "oom", False),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 9, "oom", True),
        (MemoryError(), None, "host_memory", False),
        (RuntimeError("unable to mmap 64 bytes from </dev/shm/x>: Cannot allocate memory"), 3, "host_memory", True),
        (RuntimeError("CUDA error: device-side assert triggered"), 3, "device", True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), 3, "device", True),
        (DataError("mask.png: broken"), None, "data", False),
        (ConfigError("steps must be"), None, "config", False),
        (CheckpointError("of another network"), None, "checkpoint", False),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "disk_full", False),
        (StoreFullError("full"), 3, "disk_full", False),
        (StoreError("away"), 3, "storage", True),
        (ConnectionResetError(), 3, "storage", True),
        (OSError(errno.EIO, "Input/output error"), 3, "storage", True),
        (TrainingDiverged("loss is nan"), 3, "diverged", False),
        (FolderInUse("held by 7"), None, "locked", True),
        (KeyError("road"), 3, "error", False),
        (FileNotFoundError(errno.ENOENT, "No such file"), 3, "error", False),
    ],
)  # fmt: skip
def test_an_exception_is_named_for_what_it_means(error: Exception, step: int, kind: str, retry: bool) -> None:
    found = classify(error, step=step, on_gpu=True)
    assert (found.kind, found.retry) == (kind, retry)
    assert Failure.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_cause_is_the_innermost_frame_of_ours_that_raised() -> None:
    def fail(text: str) -> Failure:
        try:
            json.loads(text)
        except ValueError as error:
            return classify(error)
        raise AssertionError

    one, other = fail("{"), fail("[")
    assert (
        one.cause == other.cause
        and "test_sweep_parts.py" in one.cause
        and "json" not in one.cause.lower().split()
    )


@pytest.mark.parametrize(
    ("said", "words", "kind"),
    [
        ("The actor died unexpectedly. The actor is dead because its worker process has died.", None, "worker_died"),
        ("The actor is dead because its node has died. Node Id: 7", None, "node_lost"),
        ("Task was killed due to the node running low on memory", None, "host_memory"),
        ("whatever", "hung: no step or report for 600 s", "hung"),
        ("Traceback (most recent call last):\nModuleNotFoundError: No module named 'x'", None, "error"),
    ],
)  # fmt: skip
def test_a_death_is_named_for_what_is_known_of_it(said: str, words: str | None, kind: str) -> None:
    assert died(said, words).kind == kind


@given(st.binary(max_size=3000), st.integers(1, 30))
def test_the_end_of_a_log_is_text_whatever_its_bytes(log: bytes, lines: int) -> None:
    shown = tail(log, lines)
    assert len(shown.split("\n")) <= lines and all(len(line) <= 500 for line in shown.split("\n"))


def test_secrets_do_not_reach_the_record() -> None:
    environment = {"WANDB_API_KEY": "0123456789abcdef", "HOME": "/home/someone", "MY_TOKEN": "short"}
    assert (
        redacted("at /home/someone: 0123456789abcdef, short", environment) == "at /home/someone: ***, short"
    )


@pytest.mark.fault(
    26,
    how="a GPU with 10% of its memory free and a process on it, as nvidia-smi would say it",
    saw="waited for up to 60 s with pid and memory named; then DeviceBusy, which is tried again",
    seam=True,
)
def test_a_gpu_that_others_hold_is_waited_for_and_then_left() -> None:
    now, said = [0.0], []
    held = Occupied(0.1, ("pid 4711 (python, 20000 MiB)",))

    def wait(look: Callable[[], Occupied], give_up: Callable[[], bool] = lambda: False) -> None:
        wait_until_free(
            look, say=said.append, wait_s=60.0, clock=lambda: now[0], give_up=give_up,
            sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
        )  # fmt: skip

    wait(lambda: held if now[0] < 30 else Occupied(0.9))
    assert now[0] == 30.0 and said == [
        "only 10% of the GPU's memory is free; it is held by pid 4711 (python, 20000 MiB); waiting up to 60 s"
    ]
    with pytest.raises(DeviceBusy, match="pid 4711") as busy:
        wait(lambda: held)
    assert (classify(busy.value).kind, classify(busy.value).retry) == ("device_busy", True)
    wait(lambda: held, give_up=lambda: True)


# ---- verdicts ----


def trial(**given: Any) -> TrialRecord:
    return TrialRecord(number=3, source="sampled", params={}, config={}, **given)


def outcome(state: str, reason: str | None) -> dict[str, Any]:
    return messages.payload_of(
        messages.outcome(3, 1, Outcome(state, reason, 20, 9.0, 0.5, 15, 100.0, "cpu"), 2.0)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("state", "reason", "asked", "run_reason", "event", "ends_as"),
    [
        ("COMPLETE", None, None, None, "ended", "COMPLETE"),
        ("STOPPED", "patience", None, None, "ended", "STOPPED"),
        ("DIVERGED", "non_finite", None, None, "ended", "DIVERGED"),
        ("PAUSED", "sigterm", None, "sigterm", "paused", None),
        ("STOPPED", "interrupt", None, "interrupt", "paused", None),
        ("PAUSED", "stop", "stop", None, "ended", "STOPPED"),
        ("STOPPED", "patience", None, "sigterm", "ended", "STOPPED"),
        ("COMPLETE", None, None, "sigterm", "ended", "COMPLETE"),
    ],
)
def test_how_a_trial_left_becomes_its_state(
    state: str, reason: str | None, asked: str | None, run_reason: str | None, event: str, ends_as: str | None
) -> None:
    ending = of_outcome(trial(), 1, outcome(state, reason), asked=asked, run_reason=run_reason)
    assert (ending.event, ending.payload.get("state")) == (event, ends_as)
    if event == "ended":
        assert ending.payload["gpu_seconds"] == 18.0


def test_a_failure_is_tried_again_only_where_that_can_help() -> None:
    assert of_failure(trial(), 1, died("The actor died unexpectedly", None), "", retries=0).event == "ended"
    assert of_failure(trial(), 1, classify(KeyError("x")), "", retries=5).event == "ended"
    full = classify(OSError(errno.ENOSPC, "full"))
    assert of_failure(trial(failures=["oom"] * 9), 9, full, "", retries=0).again


def test_a_run_that_ends_keeps_what_could_go_on() -> None:
    killed = of_failure(trial(), 1, died("killed", None), "", run_reason="sigterm")
    assert (killed.event, killed.payload["reason"], killed.again) == ("paused", "sigterm", False)


@pytest.mark.fault(
    32,
    how="series of endings with and without one cause",
    saw="only when each of the latest trials failed of one cause, and at least as many as run at a time",
)
def test_a_common_cause_needs_every_one_of_the_latest_trials() -> None:
    failed, done = (TrialState.FAILED, "KeyError at a"), (TrialState.COMPLETE, None)
    assert common_cause([failed] * 2, 1, 64) is None
    assert common_cause([failed] * 3, 1, 64) == common_cause([done, *[failed] * 3], 1, 64) == "KeyError at a"
    assert common_cause([failed] * 7, 8, 64) is None and common_cause([failed] * 8, 8, 64) is not None
    assert common_cause([failed, (TrialState.FAILED, "other"), failed], 1, 64) is None
    assert common_cause([failed, failed], 4, 2) is not None


# ---- messages and flags ----


@given(st.floats(allow_nan=True), st.integers(0, 10**9))
def test_a_report_travels_whole(value: float, step: int) -> None:
    sent = messages.evaluated(1, 2, Report(step, 1.5, None, {"val/miou": None, "loss/total": value}))
    assert sent["objective"] != sent["objective"] and sent["step"] == step
    got = json.loads(sent["record"])["loss/total"]
    assert got == value or (got != got and value != value)


def test_a_trials_own_flag_comes_before_everybodys_and_the_first_reason_stands() -> None:
    now = [0.0]
    flags = Flags(lambda: now[0])
    flags.raise_flag(EVERY_TRIAL, "sigterm")
    flags.raise_flag(1, "prune")
    flags.raise_flag(1, "stop")
    assert (flags.ask(1, 1, 0, 9.0), flags.ask(2, 1, 0, 9.0)) == ("prune", "sigterm")
    flags.forget(1)
    assert flags.ask(1, 2, 0, 9.0) == "sigterm"


def test_only_a_trial_that_stands_still_is_silent() -> None:
    now = [0.0]
    flags = Flags(lambda: now[0])
    for second in range(0, 100, 10):
        now[0] = float(second)
        flags.ask(1, 1, second, 20.0)
        flags.ask(2, 1, 5, 20.0)
    assert flags.silent(5.0) == [2] and flags.silent(500.0) == []
    flags.ask(2, 2, 5, 20.0)
    assert flags.silent(5.0) == []


# ---- control ----


class Room:
    """A control with a clock, a stop file and trials that a test moves."""

    def __init__(self, folder: Path, **given: Any) -> None:
        self.now, self.raised, self.killed, self.said = 0.0, [], [], []  # type: ignore[var-annotated]
        self.trials, self.ended = {1, 2}, []  # type: ignore[var-annotated]
        self.store = open_store(folder)
        self.control = Control(
            self.store, raise_flag=lambda n, why: self.raised.append((n, why)), kill=self.killed.append,
            running=lambda: self.trials, say=self.said.append, clock=lambda: self.now,
            end_process=self.ended.append, **given,
        )  # fmt: skip

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.control.tick()


def test_the_stop_file_ends_the_run_or_one_trial_and_is_taken_away(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.store.write_bytes(STOP_FILE, b"trial 2\ntrial 7\n")
    room.pass_time(1.0)
    assert room.raised == []
    room.pass_time(2.0)
    assert (
        room.raised[0] == (2, "stop") and room.control.asked_of(2) == "stop" and room.control.reason is None
    )
    assert not room.store.exists(STOP_FILE) and any("trial 7" in line for line in room.said)
    room.store.write_bytes(STOP_FILE, "gehe heim ü\n".encode("latin-1"))
    room.pass_time(3.0)
    assert room.control.reason == "stop" and (None, "stop") in room.raised


def test_a_trial_that_does_not_leave_in_time_is_killed_once(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.control.stop_trial(1, "stop")
    room.pass_time(59.0)
    assert room.killed == []
    room.pass_time(2.0)
    room.pass_time(2.0)
    assert room.killed == [1]
    room.control.left(1)
    room.control.stop_run("interrupt", "words")
    room.pass_time(61.0)
    assert sorted(room.killed) == [1, 1, 2]


def test_the_first_reason_stands_and_flags_are_raised_again(tmp_path: Path) -> None:
    room = Room(tmp_path, max_hours=0.01)
    room.pass_time(35.0)
    assert room.control.reason is None
    room.pass_time(2.0)
    room.control.stop_run("interrupt", "too late")
    assert room.control.reason == "max_hours" and room.said.count("too late") == 0
    before = room.raised.count((None, "max_hours"))
    room.pass_time(3.0)
    assert room.raised.count((None, "max_hours")) > before


@pytest.mark.fault(
    7,
    how="SIGINT three times, the second within 50 ms as launchers pass it on",
    saw="the doubled press counts once; the next one ends the process with 130",
)
def test_signals_are_counted_and_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    room = Room(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    with room.control.signals():
        os.kill(os.getpid(), signal.SIGINT)
        room.now += 0.05
        os.kill(os.getpid(), signal.SIGINT)  # the same key press, passed on by a launcher
        assert room.control.reason == "interrupt" and not room.control.now
        room.now += 1.0
        os.kill(os.getpid(), signal.SIGINT)
        assert room.control.now
        room.pass_time(9.0)
        assert room.ended == [130]
    assert signal.getsignal(signal.SIGINT) is before


# ---- folders, mirrors, logs ----

_HOLD = """
import sys, time
from pathlib import Path
from search.folder_lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_belongs_to_one_process_until_that_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(FolderInUse, match=str(holder.pid)), FolderLock(tmp_path, 0.2):
        pass
    killer = threading.Timer(0.3, holder.kill)
    killer.start()
    with FolderLock(tmp_path, 20.0):
        pass
    holder.wait()


def test_a_lock_is_on_the_file_that_others_would_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, lock = tmp_path / "trial", FolderLock(tmp_path / "trial", 1.0)
    opened, tidied = lock._opened, []

    def tidied_once() -> Any:
        file = opened()
        if not tidied:
            tidied.append(folder.rename(tmp_path / "tidied-away"))
        return file

    monkeypatch.setattr(lock, "_opened", tidied_once)
    with lock, pytest.raises(FolderInUse), FolderLock(folder, 0.2):
        pass


def test_a_mirror_brings_a_folder_back_and_forgets_what_was_deleted(tmp_path: Path) -> None:
    store, here, there = open_store(tmp_path / "run"), tmp_path / "here", tmp_path / "there"
    here.mkdir()
    mirror = Mirror(store, "trials/3", here)
    (here / "checkpoints").mkdir()
    (here / "checkpoints" / "last.pt").write_bytes(b"one")
    (here / "checkpoints" / ".last.pt.7.tmp").write_bytes(b"half")
    (here / "train.log").write_text("x")
    assert sorted(mirror.push()) == ["checkpoints/last.pt", "train.log"] and mirror.push() == []
    (here / "checkpoints" / "last.pt").write_bytes(b"two!")
    assert mirror.push() == ["checkpoints/last.pt"]
    (here / "train.log").unlink()
    mirror.push()
    assert Mirror(store, "trials/3", there).pull() == ["checkpoints/last.pt"]
    assert (there / "checkpoints" / "last.pt").read_bytes() == b"two!"
    assert Mirror(store, "trials/3", here, allowed=lambda: False).push() == []
    here.rename(tmp_path / "tidied-away")
    mirror.push()
    assert store.read_bytes("trials/3/checkpoints/last.pt") == b"two!", "a folder that is gone deletes nothing"


def test_a_mirror_sends_a_checkpoint_once_though_it_is_renamed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder, sent = open_store("memory://renamed"), tmp_path / "checkpoints", list[str]()
    write = store.write_bytes
    monkeypatch.setattr(store, "write_bytes", lambda name, data: (sent.append(name), write(name, data)))
    folder.mkdir()
    last, previous = folder / "last.pt", folder / "previous.pt"
    mirror = Mirror(store, "trials/3", tmp_path)
    for letter in "abc":
        if last.exists():
            last.replace(previous)
        last.write_bytes(letter.encode() * 2**20)
        mirror.push()
    there = [store.read_bytes(f"trials/3/checkpoints/{name}.pt")[:1] for name in ("previous", "last")]
    assert there == [b"b", b"c"] and sent == ["trials/3/checkpoints/last.pt"] * 3
    # What the store has lost is sent as any other.
    last.replace(previous)
    last.write_bytes(b"d" * 2**20)
    store.delete("trials/3/checkpoints/last.pt")
    mirror.push()
    there = [store.read_bytes(f"trials/3/checkpoints/{name}.pt")[:1] for name in ("previous", "last")]
    assert there == [b"c", b"d"] and len(sent) == 5


def test_a_driver_that_does_not_answer_is_not_taken_for_one_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be asked is asked again: a trial's last files are not dropped in silence."""
    flags, errors = MagicMock(), [GetTimeoutError("slow"), RayError("gone")]
    monkeypatch.setattr("search.trial.ray.get", MagicMock(side_effect=[*errors, None]))
    with pytest.raises(TimeoutError):
        _still_ours(flags, 0, 1)
    assert not _still_ours(flags, 0, 1) and _still_ours(flags, 0, 1)


def test_a_full_disk_pauses_the_log_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    log = PatientLog.create(store, heartbeat=False, schema=1, run_id="r", name="n", config={}, metrics=[])
    said: list[str] = []
    log.say, log.wait_s = said.append, 0.01
    append, left = store.append, [3]

    def full(*given: Any, **more: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise StoreFullError(f"{tmp_path}: full")
        return append(*given, **more)

    monkeypatch.setattr(store, "append", full)
    log.append("closed", exit_code=0, reason=None)
    assert log.state.closed is not None and said[0].startswith("paused:") and "goes on" in said[-1]
    left[0], log.giving_up = 1, lambda: True
    with pytest.raises(StoreFullError):
        log.append("closed", exit_code=0, reason=None)
    log.close()


# ---- clusters ----

NODES = st.lists(
    st.fixed_dictionaries({"CPU": st.integers(0, 64).map(float), "GPU": st.integers(0, 8).map(float)}),
    max_size=6,
)


@given(
    NODES, st.sampled_from(["auto", 0, 0.25, 0.5, 1, 2]), st.integers(1, 3), st.sampled_from(["auto", 0.5, 1, 4]),
    st.sampled_from(["auto", 1, 3]),
)  # fmt: skip
def test_what_is_divided_fits_the_cluster(
    nodes: list[dict[str, float]], gpus: Any, workers: int, cpus: Any, most: Any
) -> None:
    try:
        slots = divide(
            nodes, gpus_per_trial=gpus, workers_per_trial=workers, cpus_per_worker=cpus, max_concurrent=most
        )
    except ConfigError as error:
        assert "one trial must fit" in str(error)
        return
    assert slots.concurrent >= 1 and slots.threads >= 1 and (most == "auto" or slots.concurrent <= most)
    room = 0
    for node in nodes:
        by_cpu = int(node["CPU"] / slots.cpus + 1e-6)
        room += min(by_cpu, int(node["GPU"] / slots.gpus + 1e-6)) if slots.gpus else by_cpu
    assert slots.concurrent * workers <= room
    assert slots.gpus or slots.concurrent <= CPU_TRIALS_PER_NODE * len(nodes) or cpus != "auto"


@pytest.mark.parametrize("address", ["10.0.0.4:6379", "ray://head:10001", "auto", "0.0.0.0:6379"])
def test_a_cluster_that_others_can_reach_needs_a_token(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ConfigError, match="RAY_AUTH_MODE=token"):
        check_safe(address, insecure=False)
    check_safe(address, insecure=True)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:6379", "localhost:6379", "[::1]:6379", "ray://127.0.0.1:10001"]
)
def test_a_cluster_on_this_machine_alone_needs_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert is_loopback(address)
    check_safe(address, insecure=False)
