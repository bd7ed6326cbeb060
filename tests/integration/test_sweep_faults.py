"""Real sweeps on disks that fill up, with devices and memory that fail, and with names that are taken."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from search.records import RunState
from search.running import SweepResult
from search.store import open_store
from search.sweep import start_sweep
from tests.support.disks import small_disk
from tests.support.drive import NAME, toy_config, toy_options
from tests.support.drivers import Zygote, state_of
from tests.support.fault_page import Observed

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


def sweep(storage: Path, plan: dict[str, Any], said: io.StringIO, **sections: Any) -> tuple[SweepResult, RunState]:
    (storage / "toy.json").write_text(json.dumps(plan))
    console = Console(file=said, width=1000, highlight=False, markup=False, emoji=False)
    result = start_sweep(toy_config(storage, **sections), options=toy_options(console=console))
    return result, state_of(storage / NAME)


@contextmanager
def when_said(words: str, said: io.StringIO, act: Callable[[], None]) -> Iterator[list[str]]:
    """Acts once when something is said; the lines that had been said by then are in the list."""
    heard: list[str] = []
    over = threading.Event()

    def listen() -> None:
        while not over.wait(0.05):
            text = said.getvalue()
            if words in text:
                heard.extend(text.splitlines())
                act()
                return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        over.set()
        thread.join()


def said_of(said: io.StringIO, words: str) -> str:
    return next(line for line in said.getvalue().splitlines() if words in line)


@pytest.mark.fault(13, how="a sweep on a tmpfs of 8 MB that is filled to the last byte in the middle of a trial")
def test_a_full_disk_pauses_the_sweep_and_freed_it_goes_on(tmp_path: Path, observed: Observed) -> None:
    said, seen = io.StringIO(), []
    with small_disk(tmp_path / "disk", "8m") as disk:

        def free() -> None:
            time.sleep(1.0)
            seen.append(state_of(disk / NAME))
            (disk / "ballast").unlink()

        # An evaluation that needs a page of its own: a line may still fit into the last one of a full disk.
        plan = {"wide": 400, "trials": {"0": {"what": "fill", "at": 7}}}
        with when_said("paused: ", said, free):
            result, state = sweep(disk, plan, said, search={"trials": 2, "asha": None})
        assert result.exit_code == 0, said.getvalue()
        # While it was full: every line whole, nothing decided that is not recorded, and the trial waits.
        assert [row.step for row in seen[0].trials[0].evaluations] == [5]
        assert [(str(t.state), t.attempts) for t in state.trials.values()] == [("COMPLETE", 1)] * 2
        assert [row.step for row in state.trials[0].evaluations] == [5, 10, 15, 20]
        assert not [path for path in disk.rglob("*.tmp") if not path.name.startswith(".lease")]
        assert len(pd.read_parquet(disk / NAME / "history")) == 8
    assert "goes on" in said_of(said, "takes events again")
    observed(said_of(said, "paused: ").partition("paused: ")[2].replace(str(disk), "..."))
    observed("the log is whole and stands at the last evaluation, the trial waits in its report; freed, it goes on: "
             "COMPLETE in one attempt, no row lost or doubled")  # fmt: skip


@pytest.mark.fault(14, how="a tmpfs with room for log lines but not for the next checkpoint of 400 KB")
def test_a_checkpoint_that_does_not_fit_pauses_the_trial(tmp_path: Path, observed: Observed) -> None:
    said, seen = io.StringIO(), []
    with small_disk(tmp_path / "disk", "16m") as disk:

        def free() -> None:
            kept = json.loads((disk / NAME / "trials/0/checkpoints/last.json").read_text())
            seen.append((kept["step"], state_of(disk / NAME).trials[0]))
            (disk / "ballast").unlink()

        plan = {"pad": 400_000, "trials": {"0": {"what": "fill", "at": 7, "leave": 200_000}}}
        with when_said("free for a checkpoint", said, free):
            result, state = sweep(disk, plan, said, search={"trials": 1, "retries": 0, "asha": None})
        assert result.exit_code == 0, said.getvalue()
        [(kept_step, held)] = seen
        assert kept_step == 5 and (str(held.state), held.pause_reason) == ("PAUSED", "disk_full")
        trial = state.trials[0]
        assert (str(trial.state), trial.attempts) == ("COMPLETE", 2)
        assert [row.step for row in trial.evaluations] == [5, 10, 15, 20]
        log = (disk / NAME / "trials/0/train.log").read_text()
        assert "toy trial 0 from step 5" in log
    assert said_of(said, "there is room again")
    observed("the old checkpoint (step 5) is whole; the trial is PAUSED (disk_full), not failed, with no retry used")
    observed("nothing starts until twice its size is free; freed, attempt 2 goes on from step 5 to COMPLETE")


@contextmanager
def memory_group(megabytes: int) -> Iterator[Path | None]:
    """A control group with so much memory, or None where this user may make none."""
    for root, limit in (("memory", "memory.limit_in_bytes"), (".", "memory.max")):
        group = Path("/sys/fs/cgroup", root, f"thresher-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(megabytes * 2**20))
            for more, most in (("memory.memsw.limit_in_bytes", megabytes * 2**20), ("memory.swap.max", 0)):
                with contextlib.suppress(OSError):
                    (group / more).write_text(str(most))
            if subprocess.run(["sh", "-c", f"echo $$ > {group}/cgroup.procs"], check=False).returncode == 0:
                yield group
                return
        except OSError:
            continue
        finally:
            for _ in range(50):
                with contextlib.suppress(OSError):
                    group.rmdir()
                    break
                time.sleep(0.1)
    yield None


@pytest.mark.fault(23, how="the error that torch raises, in a trial's first step", seam=True)
@pytest.mark.fault(24, how="the same error in step 12 of 20", seam=True)
@pytest.mark.fault(26, how="what the wait for a GPU raises when it is still held, in every attempt", seam=True)
@pytest.mark.fault(27, how="the error that torch raises for a device-side assert, in step 7", seam=True)
@pytest.mark.fault(29, how="a trial whose objective cannot be formed from step 1 on")
@pytest.mark.fault(36, how="a sweep with a notify command that does not exist")
def test_devices_that_fail_and_values_that_cannot_be_formed(
    tmp_path: Path, observed: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    said = io.StringIO()
    plan = {
        "trials": {
            "0": {"what": "oom", "at": 1, "times": 9},
            "1": {"what": "oom", "at": 12},
            "2": {"what": "assert", "at": 7},
            "3": {"what": "unmeasured", "at": 1},
            "4": {"what": "busy", "at": 1, "times": 9},
        }
    }
    result, state = sweep(
        tmp_path, plan, said, search={"trials": 6, "asha": None, "max_concurrent": 2}, notify={"command": "/no/such/it"}
    )
    trials = state.trials
    ends = {n: (str(t.state), t.stop_reason, t.attempts) for n, t in trials.items()}
    assert ends == {
        0: ("FAILED", "oom", 1),
        1: ("COMPLETE", None, 2),
        2: ("COMPLETE", None, 2),
        3: ("COMPLETE", None, 1),
        4: ("FAILED", "device_busy", 3),
        5: ("COMPLETE", None, 1),
    }
    assert result.exit_code == 3 and result.best_trial in (1, 2, 5)
    assert trials[0].peak_memory_mb is not None and trials[0].peak_memory_mb > 0
    wanted = toy_config(tmp_path).train.get("batch_size", trials[5].config["train"]["batch_size"])
    assert {t.config["train"]["batch_size"] for t in trials.values()} == {wanted}
    pids = _pids(tmp_path / NAME)
    assert len(set(pids[1])) == len(set(pids[2])) == 2
    assert [row.step for row in trials[1].evaluations] == [5, 10, 15, 20]
    assert "toy trial 1 from step 10" in (tmp_path / NAME / "trials/1/train.log").read_text()
    table = pd.read_parquet(tmp_path / NAME / "trials.parquet").set_index("trial")
    assert pd.isna(table.loc[3, "best.val/miou"]) and "val/miou" in table.loc[3, "error"]
    assert pd.read_parquet(tmp_path / NAME / "history").query("trial == 3")["val/miou"].isna().all()
    assert "/no/such/it could not be run" in caplog.text
    observed(f"FAILED (oom), peak memory recorded, batch size unchanged: {first_line(state, 0)}", row=23)
    observed("the search goes on: four other trials end COMPLETE", row=23)
    observed(f"tried again twice, then FAILED (device_busy): {first_line(state, 4)}", row=26)
    observed("PAUSED (oom), tried once more in a fresh process from step 10: COMPLETE, same batch size", row=24)
    observed("PAUSED (device), tried once more in a fresh process from its checkpoint: COMPLETE", row=27)
    observed(f"COMPLETE, never best; empty in the tables, never 0; error: {first_line(state, 3)}", row=29)
    observed("one warning in the log; the sweep ends as it would have without", row=36)


def first_line(state: RunState, number: int) -> str:
    return str(state.trials[number].error).splitlines()[0]


def _pids(run: Path) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for event in open_store(run).read():
        if event.type == "started":
            found.setdefault(event.payload["trial"], []).append(event.payload["pid"])
    return found


@pytest.mark.fault(25, how="a trial that the kernel kills because its control group is out of memory")
def test_a_trial_that_the_system_kills_for_memory_is_named_for_it(tmp_path: Path, observed: Observed) -> None:
    said = io.StringIO()
    with memory_group(400) as group:
        if group is None:
            pytest.skip("needs the right to make a control group with a limit of memory")
        plan = {"trials": {"0": {"what": "memory", "at": 7, "group": str(group), "times": 9}}}
        result, state = sweep(tmp_path, plan, said, search={"trials": 2, "retries": 1, "asha": None})
    assert result.exit_code == 3
    trial = state.trials[0]
    assert (str(trial.state), trial.stop_reason, trial.attempts) == ("FAILED", "host_memory", 2), trial.error
    assert str(state.trials[1].state) == "COMPLETE" and platform.node() == trial.config.get("node", platform.node())
    observed(f"FAILED (host_memory) after 2 attempts; {first_line(state, 0)}; the other trial COMPLETE")


@pytest.mark.fault(35, how="a sweep with wandb mode online and no key at hand")
def test_a_sweep_without_a_wandb_key_runs_and_is_kept_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observed: Observed
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    # Nobody listens there: a key that should not be used reaches no one.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    said = io.StringIO()
    result, _ = sweep(tmp_path, {}, said, search={"trials": 1}, tracking={"wandb": {"mode": "online"}})
    assert result.exit_code == 0
    assert "wandb login" in said_of(said, "mode online needs a key")
    folder = tmp_path / NAME / "wandb"
    end = time.monotonic() + 60
    while not list(folder.rglob("offline-run-*/*.wandb")) and time.monotonic() < end:
        time.sleep(0.2)
    assert "does not take the key" in (folder / "publisher.log").read_text()
    assert len(list(folder.rglob("offline-run-*/*.wandb"))) == 1
    observed("one line before the first trial; no prompt; the sweep ends with 0 and its wandb run lies offline")


@pytest.mark.slow
@pytest.mark.fault(11, how="two drivers that begin a sweep of one name at the same instant")
def test_of_two_sweeps_of_one_name_that_begin_together_one_runs(
    tmp_path: Path, shared_ray: str, zygote: Zygote, observed: Observed
) -> None:
    env = {"THRESHER_RAY_ADDRESS": shared_ray}
    drivers = [zygote.start("sweep", tmp_path, env=env, search={"trials": 1}) for _ in range(2)]
    codes = {driver.wait(): driver for driver in drivers}
    assert set(codes) == {0, 2}, [driver.text for driver in drivers]
    events = list(open_store(tmp_path / NAME).read())
    assert [event.type for event in events].count("run_opened") == 1
    assert str(state_of(tmp_path / NAME).trials[0].state) == "COMPLETE"
    words = codes[2].text
    assert "holds it" in words or "there is a run" in words or "must not hold a run yet" in words
    observed("one runs to its end, the other exits 2 and says that a run is there; the log holds one run")
