"""A run in a folder: torn and damaged logs, full and failing disks, writers that come back."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from search.events import Event, encode
from search.records import fold
from search.store import LocalStore, RunLog, open_store
from tests.support.clock import FakeClock
from tests.support.runs import drive, essence, opened, unbroken
from trainable.errors import LeaseLostError, SchemaError, StoreAwayError, StoreError, StoreFullError
from trainable.faults import armed

ROOT = Path(__file__).parents[2]


def _fails(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def finished(run: Path) -> Path:
    """A run of two trials in one log file."""
    unbroken(open_store(run), 2)
    return run


def _only_segment(run: Path) -> Path:
    (path,) = (run / "events").iterdir()
    return path


# ---- torn tails ----


@pytest.mark.fault(
    20,
    how="a log cut at every byte of its last lines",
    saw="the whole lines count, their number is reported, the owner cuts the rest off",
)
def test_torn_at_every_byte_of_the_last_lines(finished: Path, tmp_path: Path) -> None:
    """A reader leaves the unfinished line out, an owner cuts it off; every whole line stands."""
    data = _only_segment(finished).read_bytes()
    starts = [0] + [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(starts[-3], len(data)):
        run = tmp_path / f"cut-{cut}"
        (run / "events").mkdir(parents=True)
        (run / "events" / "000000.jsonl").write_bytes(data[:cut])
        whole = data[:cut].count(b"\n")
        missing_newline_only = data[cut : cut + 1] == b"\n"
        reader = open_store(run)
        assert len(list(reader.read())) == whole + missing_newline_only
        assert (run / "events" / "000000.jsonl").read_bytes() == data[:cut]
        if not data[:cut].endswith(b"\n") and not missing_newline_only:
            assert f"{whole} are whole" in reader.findings[0]
        near_a_line_end = b"\n" in data[max(0, cut - 1) : cut + 1]
        if cut % 16 and not near_a_line_end:
            continue
        with open_store(run) as owner:
            owner.acquire(heartbeat=False)
            owner.append("closed", {"exit_code": 7})
        kept = data[: cut + 1] if missing_newline_only else data[: data[:cut].rfind(b"\n") + 1]
        assert (run / "events" / "000000.jsonl").read_bytes() == kept
        events = list(open_store(run).read())
        assert len(events) == whole + missing_newline_only + 1 and events[-1].payload == {"exit_code": 7}
        shutil.rmtree(run)


def test_a_search_torn_in_the_middle_of_a_line_goes_on(tmp_path: Path) -> None:
    wanted = essence(unbroken(open_store(tmp_path / "whole"), 4))
    data = _only_segment(tmp_path / "whole").read_bytes()
    lines = data.splitlines(keepends=True)
    for count in range(1, len(lines), 7):
        run = tmp_path / f"torn-{count}"
        (run / "events").mkdir(parents=True)
        torn = b"".join(lines[:count]) + lines[count][: len(lines[count]) // 2]
        (run / "events" / "000000.jsonl").write_bytes(torn)
        with RunLog.resume(open_store(run), heartbeat=False) as log:
            drive(log, 4)
            assert essence(log.state) == wanted


@pytest.mark.fault(
    20,
    how="500 zero bytes at the end of a log, as a power cut leaves them",
    saw="they do not count; `unfinished line of 500 bytes` is reported",
)
def test_zeros_after_a_power_cut_are_a_torn_tail(finished: Path) -> None:
    path = _only_segment(finished)
    before = path.read_bytes()
    path.write_bytes(before + b"\0" * 500)
    store = open_store(finished)
    assert len(list(store.read())) == before.count(b"\n")
    assert "unfinished line of 500 bytes" in store.findings[0]


# ---- damage ----


@pytest.mark.fault(
    20,
    how="one bit flipped in the middle of a log",
    saw=(
        "refused with file and line; nothing is changed; keeping the lines before it, as the message "
        "says, works"
    ),
)
def test_a_flipped_bit_is_named_and_nothing_is_changed(finished: Path) -> None:
    path = _only_segment(finished)
    data = bytearray(path.read_bytes())
    lines = bytes(data).split(b"\n")
    third = len(lines[0]) + len(lines[1]) + 2
    data[third + 30] ^= 4
    path.write_bytes(data)
    for open_it in (lambda: list(open_store(finished).read()), lambda: RunLog.resume(open_store(finished))):
        with pytest.raises(StoreError, match=r"000000.jsonl:3: .*checksum.*keep lines 1 to 2"):
            open_it()
    assert path.read_bytes() == bytes(data)
    # What the message says works.
    path.write_bytes(b"\n".join(lines[:2]) + b"\n")
    with RunLog.resume(open_store(finished), heartbeat=False) as log:
        assert log.state.seq == 2


def test_a_missing_line_and_a_missing_file_are_named(finished: Path) -> None:
    path = _only_segment(finished)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    with pytest.raises(StoreError, match=r"000000.jsonl: event 3 must come next, but got event 4"):
        list(open_store(finished).read())


def test_a_line_that_is_no_event(finished: Path) -> None:
    path = _only_segment(finished)
    count = path.read_bytes().count(b"\n")
    good = Event(count, 1, "t", "told", {"trial": 0, "state": "x"})
    with path.open("ab") as file:
        file.write(encode(good).replace(b"told", b"tolD"))
    with pytest.raises(StoreError, match=f":{count + 1}: .*checksum"):
        list(open_store(finished).read())


@pytest.mark.fault(
    21,
    how="an event of a type that only a newer version knows",
    saw="SchemaError names file, line, event and schema; no file is changed",
)
def test_a_newer_event_is_refused_with_its_place(finished: Path) -> None:
    path = _only_segment(finished)
    count = path.read_bytes().count(b"\n")
    before = sorted(finished.rglob("*"))
    with path.open("ab") as file:
        file.write(encode(Event(count, 1, "t", "merged", {"trial": 0})))
    lease = (finished / "lease.json").read_bytes()
    with pytest.raises(SchemaError, match=f"000000.jsonl:{count + 1}: .*'merged'.*schema 2"):
        RunLog.resume(open_store(finished))
    assert sorted(finished.rglob("*")) == before and (finished / "lease.json").read_bytes() == lease


@pytest.mark.fault(
    21,
    how="a run of the first schema, kept as a fixture",
    saw="it opens, with every state, rung and generation",
)
def test_the_first_schema_opens_for_ever() -> None:
    """The fixture is never written again: it is what an old run looks like."""
    state = fold(LocalStore(ROOT / "tests" / "fixtures" / "run_schema1").read())
    assert state.run["schema"] == 1 and state.seq == 38
    assert {number: str(trial.state) for number, trial in state.trials.items()} == {
        0: "COMPLETE",
        1: "PRUNED",
        2: "DIVERGED",
        3: "FAILED",
        4: "STOPPED",
        5: "PAUSED",
        6: "PENDING",
    }
    assert state.trials[0].best_value == 0.75 and state.trials[0].best_step == 300
    assert state.trials[2].evaluations[-1].nonfinite == {"objective": "nan", "val/miou": "nan"}
    assert state.trials[3].attempts == 2 and state.trials[3].told_state == "fail"
    assert state.rungs == {(0, 0, 100): {0: 0.5, 1: 0.25, 2: 0.375}}
    assert state.generation == 1 and state.incompatible == {5} and state.total == 7
    assert state.closed == {"exit_code": 130, "reason": "Ctrl+C"}


def test_things_in_the_folder_that_are_no_log(finished: Path) -> None:
    for name in ("notes.txt", "x.jsonl", ".000009.jsonl.tmp", "000003.jsonl.bak"):
        (finished / "events" / name).write_text("hello")
    (finished / "events" / "000005.jsonl").write_bytes(b"")
    assert fold(open_store(finished).read()).closed is not None


# ---- rotation and owners ----


def test_the_log_rotates(run: Path) -> None:
    small = LocalStore(run, rotate_bytes=2000)
    with RunLog.create(small, heartbeat=False, **opened()) as log:
        drive(log, 3)
        state = log.state
    sizes = [path.stat().st_size for path in sorted((run / "events").iterdir())]
    assert len(sizes) > 3 and all(2000 <= size < 4000 for size in sizes[:-1])
    assert fold(open_store(run).read()) == state
    for after in range(-1, state.seq + 1):
        assert [event.seq for event in open_store(run).read(after)] == list(range(after + 1, state.seq + 1))


@pytest.mark.fault(
    10,
    how="an owner that slept through its lease writes a line after another took over",
    saw="its line does not count, and its next append raises LeaseLostError",
)
def test_lines_that_a_fenced_writer_adds_late_do_not_count(run: Path) -> None:
    clock, other = FakeClock(), FakeClock()
    stale = RunLog.create(open_store(run, clock), heartbeat=False, **opened())
    other.now = 1000.0
    with RunLog.resume(open_store(run, other), heartbeat=False) as log:
        log.append("asked", trial=0, source="default", params={}, config={})
        # The write that no check of a lease can prevent: it was already on its way.
        with (run / "events" / "000000.jsonl").open("ab") as file:
            file.write(
                encode(Event(1, 1, "t", "asked", {"trial": 5, "source": "x", "params": {}, "config": {}}))
            )
        reader = open_store(run)
        state = fold(reader.read())
        assert list(state.trials) == [0] and state == log.state
        assert "1 events of a writer that had lost the run do not count" in reader.findings[0]
    with pytest.raises(LeaseLostError):
        stale.append("closed", exit_code=0)


def test_a_file_that_a_fenced_writer_begins_late_takes_nothing_away(run: Path) -> None:
    """It fell asleep between its look at the lease and its first line, which so comes after its successor's."""
    RunLog.create(open_store(run), heartbeat=False, **opened()).close()
    with RunLog.resume(open_store(run), heartbeat=False) as log:
        log.append("asked", trial=0, source="default", params={}, config={})
        late = Event(1, 1, "t", "asked", {"trial": 5, "source": "x", "params": {}, "config": {}})
        (run / "events" / "000002.jsonl").write_bytes(encode(late))
        assert fold(open_store(run).read()) == log.state
    with RunLog.resume(open_store(run), heartbeat=False) as log:
        log.append("asked", trial=1, source="default", params={}, config={})
    assert list(fold(open_store(run).read()).trials) == [0, 1]


def test_a_look_at_a_place_leaves_no_folders_there(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for place in ("there", "there/runs", "new/runs"):
        LocalStore(tmp_path / place).preflight()
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_an_owner_whose_run_was_removed_stops_and_makes_nothing_anew(run: Path) -> None:
    log = RunLog.create(open_store(run), heartbeat=False, **opened())
    shutil.rmtree(run)
    for _ in range(2):
        with pytest.raises(LeaseLostError, match="its log was removed while it ran"):
            log.append("closed", exit_code=0)
    log.close()
    assert not run.exists()


def test_a_mount_that_went_away_is_waited_for(run: Path, tmp_path: Path) -> None:
    log = RunLog.create(open_store(run), heartbeat=False, **opened())
    run.rename(tmp_path / "away")
    with pytest.raises(StoreAwayError, match="the run's folder must be there"):
        log.append("closed", exit_code=0)
    (tmp_path / "away").rename(run)
    log.append("closed", exit_code=0)
    assert [event.type for event in open_store(run).read()][-1] == "closed"


def test_an_owner_writes_files_of_its_own(run: Path) -> None:
    for _ in range(3):
        try:
            RunLog.resume(open_store(run), heartbeat=False).close()
        except StoreError:
            RunLog.create(open_store(run), heartbeat=False, **opened()).close()
    assert sorted(path.name for path in (run / "events").iterdir()) == [f"00000{n}.jsonl" for n in range(3)]
    assert sorted(path.name for path in run.glob(".lease.*")) == [".lease.3.claim"]


def test_leftovers_of_a_crash_are_removed_those_of_others_are_not(run: Path) -> None:
    (run / "history").mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (run / "history" / f".part-00000.parquet.{dead.pid}.0badcafe.tmp").write_bytes(b"half")
    mine = run / f".trials.parquet.{os.getpid()}.0badcafe.tmp"
    lease = run / f".lease.json.{dead.pid}.0badcafe.tmp"
    old = run / ".lease.json.1.0badcafe.tmp"
    for path in (mine, lease, old):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    with open_store(run) as store:
        assert store.list() == []
        store.acquire(heartbeat=False)
    assert sorted(path.name for path in run.rglob("*.tmp")) == sorted([mine.name, lease.name])


@pytest.mark.fault(
    10,
    how="the owner's process ends without giving the lease back",
    saw="the next owner takes over without waiting, with a higher epoch",
)
def test_a_dead_owner_on_this_machine_is_followed_at_once(run: Path) -> None:
    script = f"""
        import os
        from search.store import RunLog, open_store
        from tests.support.runs import opened
        RunLog.create(open_store({str(run)!r}), **opened())
        os._exit(137)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, check=False)
    assert done.returncode == 137
    clock = FakeClock(0.0)  # Its lease has an hour or more to go by this clock.
    with RunLog.resume(open_store(run, clock), heartbeat=False) as log:
        assert log.state.epoch == 2 and clock.slept == []


# ---- disks that fail ----


@pytest.mark.fault(
    13,
    how="ENOSPC in the write and in the fsync of a line",
    saw="the half-written line is taken off again; the same call succeeds afterwards",
    seam=True,
)
@pytest.mark.parametrize("point", ["events.write", "events.fsync"])
def test_a_full_disk_leaves_whole_lines_and_the_call_can_be_made_again(run: Path, point: str) -> None:
    with RunLog.create(open_store(run), heartbeat=False, **opened()) as log:
        before = _only_segment(run).read_bytes()
        ask = {"trial": 0, "source": "default", "params": {}, "config": {}}
        with armed(point, _fails(errno.ENOSPC)), pytest.raises(StoreFullError, match="free some space"):
            log.append("asked", **ask)
        assert _only_segment(run).read_bytes() == before
        assert log.state.seq == 0
        assert log.append("asked", **ask).seq == 1
    assert len(list(open_store(run).read())) == 2


def test_a_line_that_cannot_be_taken_off_again(run: Path) -> None:
    """Then the next event goes to a new file, and the half-written one does not count."""
    with RunLog.create(open_store(run), heartbeat=False, **opened()) as log:

        def tear() -> None:
            with _only_segment(run).open("ab") as file:
                file.write(b'{"seq":1,"ep')
            raise OSError(errno.ENOSPC, "full")

        before = os.ftruncate
        with armed("events.fsync", tear), pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "ftruncate", lambda *_: _fails(errno.EIO)())
            with pytest.raises(StoreFullError):
                log.append("closed", exit_code=0)
        assert os.ftruncate is before
        log.append("asked", trial=0, source="default", params={}, config={})
        log.append("closed", exit_code=1)
    state = fold(open_store(run).read())
    assert state.closed == {"exit_code": 1} and state.seq == 2
    assert len(list((run / "events").iterdir())) == 2


@pytest.mark.fault(
    16,
    how="ESTALE, as NFS gives it, in an fsync; then EROFS",
    saw="the first is tried again after a pause, the second raises at once",
    seam=True,
)
def test_errors_that_pass_are_waited_out_and_others_are_not(run: Path) -> None:
    clock = FakeClock()
    with RunLog.create(open_store(run, clock), heartbeat=False, **opened()) as log:
        with armed("events.fsync", _fails(errno.ESTALE)):
            log.append("asked", trial=0, source="default", params={}, config={})
        assert len(clock.slept) == 1
        with armed("events.fsync", _fails(errno.EROFS)), pytest.raises(StoreError, match="read-only"):
            log.append("closed", exit_code=0)
        assert len(clock.slept) == 1
    assert [event.type for event in open_store(run).read()] == ["run_opened", "asked"]


def test_a_lease_is_renewed_on_a_full_disk(run: Path) -> None:
    clock = FakeClock()
    owner = open_store(run, clock)
    owner.acquire(heartbeat=False)
    before = (run / "lease.json").stat()
    os.utime(run / "lease.json", ns=(1, 1))
    clock.now = 11.0
    with armed("lease.write", _fails(errno.ENOSPC)):
        owner.tick()
    assert (run / "lease.json").stat().st_mtime_ns > before.st_mtime_ns
    owner.append("run_opened", opened())
    owner.release()


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.EROFS, "read-only"), (errno.ENOSPC, "full"), (errno.EACCES, "access is denied")],
)
def test_preflight_says_what_is_wrong(run: Path, number: int, message: str) -> None:
    with armed("file.write", _fails(number)), pytest.raises(StoreError, match=message):
        open_store(run).preflight()
    assert not run.exists()


@pytest.mark.parametrize("point", ["file.write", "file.fsync", "file.rename"])
def test_a_small_file_is_old_or_new(run: Path, point: str) -> None:
    store = open_store(run)
    store.write_bytes("trials.parquet", b"old")
    with armed(point, _fails(errno.ENOSPC)), pytest.raises(StoreFullError):
        store.write_bytes("trials.parquet", b"new")
    assert store.read_bytes("trials.parquet") == b"old"
    assert [path.name for path in run.iterdir()] == ["trials.parquet"]


# ---- real file systems: a process of its own, in a mount namespace of its own ----


def _in_namespace(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1) to mount a small file system")
    command = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    probe = subprocess.run(
        [*command, "mount", "-t", "tmpfs", "none", str(tmp_path)], check=False, capture_output=True
    )
    if probe.returncode:
        pytest.skip("needs the right to mount a small file system")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.fault(
    13,
    how="a tmpfs of 256 KB that fills up while events are appended",
    saw=(
        "StoreFullError; every line that was acknowledged is whole; after space is freed the same append "
        "succeeds"
    ),
)
def test_a_disk_that_really_fills_up(tmp_path: Path) -> None:
    script = """
        import subprocess, sys
        from pathlib import Path
        from search.records import fold
        from search.store import RunLog, open_store
        from tests.support.runs import opened
        from trainable.errors import StoreFullError
        place = Path(sys.argv[1])
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)], check=True)
        log = RunLog.create(open_store(place / "run"), heartbeat=False, **opened())
        ballast = place / "ballast"
        ballast.write_bytes(b"x" * 150_000)
        acknowledged = full = 0
        while acknowledged < 300:
            try:
                log.append("closed", exit_code=acknowledged, reason="y" * 400)
                acknowledged += 1
            except StoreFullError as error:
                full += 1
                assert fold(open_store(place / "run").read()).seq == acknowledged
                log.store.tick()
                ballast.unlink()
        log.close()
        state = fold(open_store(place / "run").read())
        assert full == 1 and state.seq == 300 and state.closed["exit_code"] == 299
        print("ok")
    """
    done = _in_namespace(script, tmp_path)
    assert done.stdout == "ok\n", done.stderr


@pytest.mark.fault(
    15,
    how="a tmpfs remounted read-only below a run",
    saw=(
        "preflight, create and resume are refused: `the storage must be writable, but it is read-only`; "
        "reading goes on"
    ),
)
def test_a_file_system_that_really_is_read_only(tmp_path: Path) -> None:
    script = """
        import subprocess, sys
        from pathlib import Path
        from search.store import RunLog, open_store
        from tests.support.runs import opened, unbroken
        from trainable.errors import StoreError
        place = Path(sys.argv[1])
        subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
        state = unbroken(open_store(place / "run"), 2)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        for act in (
            open_store(place / "new").preflight,
            open_store(place / "run").preflight,
            lambda: RunLog.create(open_store(place / "new"), **opened()),
            lambda: RunLog.resume(open_store(place / "run")),
        ):
            try:
                act()
            except StoreError as error:
                assert "read-only" in str(error), error
            else:
                raise AssertionError("took it")
        assert RunLog.open(open_store(place / "run")).state == state
        print("ok")
    """
    done = _in_namespace(script, tmp_path)
    assert done.stdout == "ok\n", done.stderr
