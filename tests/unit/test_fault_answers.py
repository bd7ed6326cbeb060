"""Answers to faults that no other module's tests stand for: clocks, disks, networks, collapses and studies."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import optuna
import pandas as pd
import pytest
import torch
from torch import Tensor

import search.running
import trainable.session
from search.control import Control
from search.patient_log import PatientLog
from search.records import fold
from search.schema import SweepConfig
from search.store import RunLog, open_store
from search.study import NETWORK, export_study, filesystem_of
from search.sweep import start_sweep
from search.tables import write_tables
from tests.support.analytic import MemoryLog, Search
from tests.support.clock import FakeClock
from tests.support.disks import make_read_only, small_disk
from tests.support.drive import toy_config, toy_options
from tests.support.fault_page import Observed
from tests.support.images import COLORS, blocks_dataset
from tests.support.runs import drive, essence, opened, unbroken
from tests.support.s3 import S3Server, s3_server
from trainable import train
from trainable.checkpoint import load_best, load_last, save_last
from trainable.config import RunConfig
from trainable.errors import ConfigError, DataError
from trainable.recipes import RECIPES
from trainable.recipes.interface import Batch, Nets, Opt, Sched, StepOut
from trainable.recipes.supervised import Supervised
from trainable.state import Report, Snapshot

TINY = {
    "steps": 12, "eval_every_steps": 2, "batch_size": 2, "crop_size": 32, "patience": 0, "encoder_weights": None,
    "architecture": "fpn", "encoder": "tu-test_resnet", "amp": "off",
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trainable.session, "open_dataset", lambda cfg, base, **kwargs: blocks_dataset())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def configured(recipe: str, **values: Any) -> RunConfig:
    found = {"name": "t", "recipe": recipe, "data": {"root": "."}, "train": TINY | values, "seed": 3}
    return RunConfig.model_validate(found)


# ---- 12: clocks ----


@pytest.mark.fault(12, how="time.time() jumps back two hours while a real training runs, and forth", seam=True)
def test_durations_do_not_follow_the_wall_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observed: Observed
) -> None:
    jumped, real = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: real() - jumped[0])
    reports: list[Report] = []

    def report(found: Report) -> None:
        reports.append(found)
        jumped[0] = 7200.0

    begun = time.monotonic()
    outcome = train(configured("supervised", steps=6), tmp_path, report=report)
    took = time.monotonic() - begun
    times = [found.time_s for found in reports]
    assert len(times) == 3 and times == sorted(times) and 0 < outcome.time_s <= took
    control = Control(
        open_store(tmp_path / "run"), raise_flag=lambda *_: None, kill=lambda _: None, running=set, say=lambda _: None,
        max_hours=1.0,
    )  # fmt: skip
    jumped[0] = -7200.0
    control.tick()
    assert control.reason is None
    observed("time_s rises with every evaluation and stays the time that passed; max_hours is not reached by a jump")


@pytest.mark.fault(12, how="the driver's clock jumps back two hours between events", seam=True)
def test_a_run_is_read_in_the_order_of_its_numbers(tmp_path: Path, observed: Observed) -> None:
    clock = FakeClock()
    with RunLog.create(open_store(tmp_path, clock), heartbeat=False, **opened()) as log:
        drive(log, 2)
        clock.jump(-7200.0)
        drive(log, 4)
        wanted = essence(log.state)
    events = list(open_store(tmp_path).read())
    assert [event.seq for event in events] == list(range(len(events)))
    assert sorted(event.time for event in events) != [event.time for event in events]
    assert wanted == essence(fold(events)) == essence(unbroken(open_store("memory://clock"), 4))
    observed("times in the log run backwards once; order, decisions and trials are those of a search with a good clock")


# ---- 14 and 15: disks ----


@pytest.mark.fault(14, how="a tmpfs of 1 MB that has no room for a third real checkpoint of 300 KB")
def test_a_checkpoint_that_finds_no_room_leaves_the_two_before(tmp_path: Path, observed: Observed) -> None:
    def snapshot(step: int) -> Snapshot:
        return Snapshot({}, {"step": step}, {"net": {"w": torch.full((75_000,), float(step))}}, {}, {})

    with small_disk(tmp_path / "disk", "1m") as disk:
        for step in (1, 2):
            save_last(disk, snapshot(step))
        (disk / "ballast").write_bytes(b"x" * 200_000)
        with pytest.raises(OSError) as caught:
            save_last(disk, snapshot(3))
        assert caught.value.errno == errno.ENOSPC
        found, notes = load_last(disk)
        assert found is not None and found.loop["step"] == 2 and notes == []
        assert not list(disk.rglob("*.tmp"))
        (disk / "ballast").unlink()
        save_last(disk, snapshot(3))
        after, _ = load_last(disk)
        assert after is not None and after.loop["step"] == 3
    observed("No space left on device; the checkpoint of step 2 is read back whole, no half-written file is left; "
             "freed, the third is written")  # fmt: skip


@pytest.mark.fault(15, how="`sweep` with its storage on a read-only tmpfs")
def test_read_only_storage_is_refused_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observed: Observed
) -> None:
    monkeypatch.setattr(search.running, "connected", lambda *_, **__: pytest.fail("Ray was started"))
    options = toy_options()
    object.__setattr__(options, "examine", lambda config: pytest.fail("the data were read"))
    with small_disk(tmp_path / "disk", "1m") as disk:
        make_read_only(disk)
        with pytest.raises(ConfigError, match="read-only") as caught:
            start_sweep(toy_config(disk), options=options)
    assert caught.value.exit_code == 2
    words = str(caught.value).partition(": ")[2].partition(": ")[2]
    observed(f"exit 2 before data are read or Ray is started: {words}")


def test_a_sweep_that_cannot_begin_leaves_the_run_of_its_name_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search.running, "connected", lambda *_, **__: pytest.fail("Ray was started"))

    def refusing(config: SweepConfig) -> NoReturn:
        raise DataError("a photo stands on both sides")

    config, options = toy_config(tmp_path), toy_options()
    object.__setattr__(options, "examine", refusing)
    earlier = Path(config.run) / "events" / "0.jsonl"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("an earlier run")
    with pytest.raises(DataError, match="both sides"):
        start_sweep(config, fresh=True, options=options)
    assert earlier.read_text() == "an earlier run"
    assert len(list(tmp_path.iterdir())) == 1


# ---- 16: an outage under a search ----


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as made:
        yield made


@pytest.mark.fault(16, how="an S3 server that answers 503 for longer than every retry, under a search that goes on")
def test_an_outage_pauses_the_search_until_the_storage_is_back(server: S3Server, observed: Observed) -> None:
    said: list[str] = []
    store = open_store(f"{server.uri}/outage", FakeClock())
    log = PatientLog.create(store, heartbeat=False, **opened())
    log.say, log.wait_s = said.append, 0.0
    with log:
        drive(log, 1)
        server.refuse = 40
        drive(log, 3)
        assert server.refuse == 0
    assert essence(fold(open_store(store.uri).read())) == essence(unbroken(open_store("memory://outage"), 3))
    assert said[0].startswith("paused: ") and said[-1].endswith("goes on")
    first = said[0].replace(server.uri, "s3://bucket").partition(": Generic")[0]
    observed(f"{first}; {said[-1]}: nothing is lost or doubled")


@pytest.mark.fault(16, how="an S3 server that takes 0.1 s for every request")
def test_slow_storage_slows_nothing_but_decisions(server: S3Server, observed: Observed) -> None:
    store = open_store(f"{server.uri}/slow")
    with RunLog.create(store, heartbeat=False, **opened()) as log:
        log.append("asked", trial=0, source="default", params={}, config={})
        before = len(server.requests)
        server.delay_s = 0.1
        for step in range(1, 21):
            log.append("evaluated", trial=0, attempt=1, step=step, record={}, decision={"action": "continue"})
        waited = len(server.requests) - before
        log.append("ended", trial=0, state="COMPLETE", step=20)
        server.delay_s = 0.0
        assert waited <= 3 and len(log.state.trials[0].evaluations) == 20
    assert fold(open_store(store.uri).read()) == log.state
    observed("20 evaluations wait in memory and go out with the trial's end; nothing is lost")


# ---- 17: studies ----


@pytest.fixture(scope="module")
def analytic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search with every kind of ending, in a folder."""
    made = Search(MemoryLog(), total=14)
    made.run()
    run = tmp_path_factory.mktemp("analytic") / "run"
    (run / "events").mkdir(parents=True)
    (run / "events" / "000000.jsonl").write_bytes(made.log.to_bytes())
    return run


@pytest.mark.fault(17, how="`export --study` into a folder that /proc/mounts calls nfs4, cifs or fuse.sshfs", seam=True)
def test_a_study_on_a_network_mount_is_refused(analytic: Path, tmp_path: Path, observed: Observed) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\n")
    for kind in ("nfs4", "cifs", "fuse.sshfs"):
        mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/home {tmp_path} {kind} rw 0 0\n")
        with pytest.raises(ConfigError, match=f"on {kind}; write it to a local folder") as caught:
            export_study(str(analytic), tmp_path / "study.db", lambda folder: filesystem_of(folder, mounts))
    with pytest.raises(ConfigError, match="a local disk, but got an address"):
        export_study(str(analytic), Path("s3://bucket/study.db"))
    assert list(tmp_path.iterdir()) == [mounts]
    observed(str(caught.value).replace(str(analytic), "RUN"))


def test_a_study_holds_what_the_record_holds(analytic: Path, tmp_path: Path) -> None:
    assert filesystem_of(tmp_path) not in (*NETWORK, None)
    target = tmp_path / "a b?%20" / "study.db"
    target.parent.mkdir()
    count = export_study(str(analytic), target)
    state = fold(open_store(analytic).read())
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{target.rename(tmp_path / 'study.db').resolve()}")
    assert len(study.trials) == count > 5
    told = [t for t in state.trials.values() if t.told_state == "complete" and t.coords]
    assert study.best_value == max(trial.told_value for trial in told if trial.told_value is not None)
    for frozen in study.trials:
        trial = state.trials[frozen.user_attrs["trial"]]
        assert frozen.user_attrs["state"] == str(trial.state) and frozen.state.name.lower() == trial.told_state
        assert {name: trial.coords[name] for name in frozen.params} == pytest.approx(frozen.params)
    assert {trial.state.name for trial in study.trials} >= {"COMPLETE", "PRUNED"}
    with pytest.raises(ConfigError, match="must be a new file"):
        export_study(str(analytic), tmp_path / "study.db")


# ---- 31: a collapse ----


class Collapsing(Supervised):
    """Reads the class from the color, until from step 7 on it says the first class everywhere."""

    name: ClassVar[str] = "collapsing"
    _steps = 0

    def step(self, nets: Nets, batch: Batch, sched: Sched, opt: Opt) -> StepOut:
        self._steps += 1
        return super().step(nets, batch, sched, opt)

    def probabilities(self, nets: Nets, image: Tensor) -> Tensor:
        flat = super().probabilities(nets, image)
        if self._steps >= 7:
            return torch.zeros_like(flat).index_fill(1, torch.tensor([0]), 1.0)
        colors = torch.tensor(COLORS[: flat.shape[1]]).float()
        shown = image - image.mean(1, keepdim=True)
        distance = ((shown.unsqueeze(1) - (colors - colors.mean(1, keepdim=True)).div(60)[None, ..., None, None]) ** 2)
        return torch.softmax(-distance.sum(2), 1)


@pytest.mark.fault(31, how="a real training whose model says one class everywhere from step 7 of 12 on")
def test_a_collapse_keeps_the_best_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observed: Observed
) -> None:
    monkeypatch.setitem(RECIPES, "collapsing", Collapsing)
    reports: list[Report] = []
    messages: list[str] = []
    outcome = train(
        configured("collapsing", health={"collapse_evals": 2, "collapse_drop": 0.5, "action": "stop"}), tmp_path,
        report=reports.append, observer=lambda progress: messages.append(progress.message),
    )  # fmt: skip
    curve = {found.step: found.objective for found in reports}
    assert (outcome.state, outcome.stop_reason, outcome.step) == ("STOPPED", "collapsed", 10), curve
    best, _ = load_best(tmp_path)
    peak = max(value for value in curve.values() if value is not None)
    assert best.step == outcome.best_step <= 6 and best.value == outcome.best_value == peak
    assert any("fell from its best" in message for message in messages)
    observed("STOPPED (collapsed) after two evaluations below half of the best; best value and best checkpoint are "
             "those of the peak")  # fmt: skip


# ---- 41: a leak that was allowed ----


@pytest.mark.fault(41, how="a run that was opened with allow_leak")
def test_a_leak_that_was_allowed_stands_in_every_row(tmp_path: Path, observed: Observed) -> None:
    config = {"search": {"direction": "max", "objective": "val/miou", "trials": 3}, "data": {"allow_leak": True}}
    with RunLog.create(open_store(tmp_path), heartbeat=False, **opened(config=config)) as log:
        drive(log, 3)
        write_tables(log.store, log.state)
    table = pd.read_parquet(tmp_path / "trials.parquet")
    assert len(table) == 3 and table["allow_leak"].all()
    observed("the column allow_leak of trials.parquet is true in every row")
