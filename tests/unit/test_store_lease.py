"""Who owns a run: how a lease goes stale, and what happens when several processes think that it has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from search.store import lease as leases
from search.store.identity import boot_id, booted_at, host_name
from search.store.lease import TTL_S, Conflict, Holder, Lease, acquire, liveness
from search.store.local_lease import LocalLeaseFile
from tests.support.clock import FakeClock
from trainable.errors import LeaseHeldError, LeaseLostError

INF = float("inf")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def dead() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def alive() -> int:
    return os.getppid()


def _holder(clock: FakeClock, **changed: object) -> Holder:
    now = clock.wall()
    mine = Holder(host_name(), os.getppid(), boot_id(), 1, now, now + TTL_S, "token")
    return replace(mine, **changed)  # type: ignore[arg-type]


def _take(path: Path, clock: FakeClock, floor: int = 0) -> Lease:
    return acquire(LocalLeaseFile(path, clock), "run", clock, lambda: floor)


@pytest.mark.fault(
    10,
    how="leases of living and dead processes here and elsewhere, of an earlier boot, released and expired",
    saw=(
        "a dead pid on this host and an earlier boot are followed at once; another host's only after it "
        "went stale"
    ),
)
def test_how_a_lease_stands(clock: FakeClock, dead: int) -> None:
    now = clock.wall()
    assert liveness(_holder(clock), clock) == INF
    assert liveness(_holder(clock, released=True), clock) == 0
    assert liveness(_holder(clock, pid=dead), clock) == 0
    assert liveness(_holder(clock, pid=dead, host="elsewhere"), clock) == INF
    before = _holder(clock, boot_id="before", renewed=booted_at() - 1)
    assert liveness(before, clock) == 0
    assert liveness(replace(before, renewed=now), clock) == INF, "another machine of our name, that lives"
    assert liveness(replace(before, renewed=now, expires=now - 1), clock) == leases.WATCH_S
    assert liveness(_holder(clock, boot_id="before", host="elsewhere"), clock) == INF
    assert liveness(_holder(clock, pid=os.getpid()), clock) == 0, (
        "our number, but not us: a container started again"
    )
    for host in (host_name(), "elsewhere"):
        stale = _holder(clock, host=host, expires=now - 1)
        assert liveness(stale, clock) == leases.WATCH_S
        assert liveness(replace(stale, expires=now + 7200), clock) == TTL_S, "written under another clock"


def test_when_this_machine_was_started(tmp_path: Path) -> None:
    assert 0 < booted_at() < time.time()
    assert booted_at(tmp_path / "not there") == INF


def test_what_a_lease_says(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "lease.json"
    lease = _take(path, clock)
    said = json.loads(path.read_text())
    assert (said["host"], said["pid"], said["epoch"]) == (host_name(), os.getpid(), 1)
    assert said["boot_id"] == boot_id() and said["expires"] > said["renewed"]
    before = path.read_bytes()
    clock.now += 11
    assert lease.due
    lease.renew()
    assert path.read_bytes() != before and not lease.due
    lease.release()
    lease.renew()
    assert json.loads(path.read_text())["released"] is True


@pytest.mark.parametrize("expires", [1.8e9 + 30, "2027-01-15T08:00:30Z", "2027-01-15T08:00:30.000000+00:00"])
def test_a_lease_written_by_hand(tmp_path: Path, clock: FakeClock, expires: object) -> None:
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 12, "boot_id": "x", "expires": expires}))
    with pytest.raises(LeaseHeldError, match=r"pid=12 on host=elsewhere holds it \(renewed 30 s ago\)"):
        _take(path, clock)
    clock.now += 31
    assert _take(path, clock).epoch == 1


def test_a_file_that_is_just_being_written(tmp_path: Path) -> None:
    """Where the disk has no hard links, its name stands there a moment before its content."""
    path = tmp_path / "lease.json"
    path.touch()
    clock = FakeClock(path.stat().st_mtime)
    with pytest.raises(LeaseHeldError, match="host=unknown"):
        _take(path, clock)
    clock.now = TTL_S + 1
    assert _take(path, clock).epoch == 1


def test_a_disk_without_hard_links(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    lease = _take(tmp_path / "lease.json", clock)
    lease.check()
    with pytest.raises(Conflict):
        LocalLeaseFile(tmp_path / "lease.json", clock).create(_holder(clock))
    assert not list(tmp_path.glob("*.tmp"))


def test_somebody_is_just_taking_it_over(tmp_path: Path, clock: FakeClock, alive: int) -> None:
    path = tmp_path / "lease.json"
    path.write_bytes(_holder(clock, expires=clock.wall() - 5).to_bytes())
    claim = tmp_path / ".lease.2.claim"
    claim.write_bytes(_holder(clock, pid=alive, epoch=2, token="other").to_bytes())
    with pytest.raises(LeaseHeldError, match=f"pid={alive}"):
        _take(path, clock)


def test_somebody_died_while_taking_it_over(tmp_path: Path, clock: FakeClock, dead: int) -> None:
    path = tmp_path / "lease.json"
    path.write_bytes(_holder(clock, expires=clock.wall() - 5).to_bytes())
    (tmp_path / ".lease.2.claim").write_bytes(_holder(clock, pid=dead, epoch=2, token="other").to_bytes())
    assert _take(path, clock).epoch == 3
    assert [path.name for path in tmp_path.glob(".lease.*")] == [".lease.3.claim"]


def test_a_late_renewal_does_not_win(tmp_path: Path, clock: FakeClock) -> None:
    """The old owner had looked before the take-over and writes after it: the higher claim still counts."""
    path = tmp_path / "lease.json"
    old = _take(path, clock)
    written = path.read_bytes()
    late = FakeClock()
    late.now = 1000.0
    new = _take(path, late)
    path.write_bytes(written)
    new.check()
    assert json.loads(path.read_text())["epoch"] == 2
    with pytest.raises(LeaseLostError, match="epoch 2"):
        old.renew()
    new.check()
    new.renew()


def test_a_slow_claimant_finds_a_higher_claim(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "lease.json"
    path.write_bytes(_holder(clock).to_bytes())
    file = LocalLeaseFile(path, clock)
    (tmp_path / ".lease.3.claim").write_bytes(_holder(clock, epoch=3, token="faster").to_bytes())
    with pytest.raises(Conflict, match="epoch 3"):
        file.take(_holder(clock, epoch=2, token="slow"), None)


def test_a_removed_lease_comes_back(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "lease.json"
    lease = _take(path, clock)
    path.unlink()
    lease.check()
    assert json.loads(path.read_text())["epoch"] == 1
    path.unlink()
    clock.now += 11
    lease.renew()
    assert path.exists()


def test_a_damaged_lease_is_mended(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "lease.json"
    lease = _take(path, clock)
    path.write_bytes(b"{")
    lease.check()
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_the_epoch_goes_on_from_the_log(tmp_path: Path, clock: FakeClock) -> None:
    assert _take(tmp_path / "lease.json", clock, floor=7).epoch == 8


def test_a_lease_that_is_renewed_while_it_is_watched(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "lease.json"
    owner_clock = FakeClock()
    owner = _take(path, owner_clock)

    class Watching(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if len(self.slept) == 5:
                owner_clock.now += 1000.0
                owner.renew()

    watching = Watching()
    watching.now = 1000.0
    with pytest.raises(LeaseHeldError):
        _take(path, watching)
    assert len(watching.slept) == 5
    owner.check()


def test_a_lease_that_is_given_back_while_it_is_watched(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "lease.json"
    owner = _take(path, FakeClock())

    class Watching(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            owner.release()

    watching = Watching()
    watching.now = 1000.0
    assert _take(path, watching).epoch == 2
    assert len(watching.slept) == 1
