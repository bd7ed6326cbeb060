"""What every store must do, wherever it keeps a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.records import fold, repair
from search.store import RunLog, Store, open_store
from tests.support.clock import FakeClock
from tests.support.runs import drive, essence, opened, unbroken
from tests.support.s3 import s3_server
from trainable.errors import LeaseHeldError, LeaseLostError, StoreError

_counter = iter(range(10**9))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as server:
        yield server.uri


class StoreContract:
    """Inherited once per back end; `uri` gives a place that holds nothing yet."""

    @pytest.fixture
    def uri(self) -> str:
        raise AssertionError("each back end says where")

    def store(self, uri: str, clock: FakeClock | None = None) -> Store:
        """Another process's view of the same run, as good as this one can have it."""
        return open_store(uri, clock)

    # ---- small files ----

    def test_small_files(self, uri: str) -> None:
        store = self.store(uri)
        assert store.list() == [] and not store.exists("a.bin")
        with pytest.raises(FileNotFoundError):
            store.read_bytes("a.bin")
        store.write_bytes("a.bin", b"1")
        store.write_bytes("a.bin", bytes(range(256)))
        store.write_bytes("history/part-00000.parquet", b"")
        store.write_bytes("history-old/x", b"x")
        again = self.store(uri)
        assert again.read_bytes("a.bin") == bytes(range(256))
        assert again.read_bytes("history/part-00000.parquet") == b""
        assert again.list() == ["a.bin", "history-old/x", "history/part-00000.parquet"]
        assert again.list("history") == ["history/part-00000.parquet"]
        assert again.list("nothing") == []
        again.delete("a.bin")
        again.delete("a.bin")
        assert not store.exists("a.bin")

    def test_a_copy(self, uri: str) -> None:
        store = self.store(uri)
        store.write_bytes("trials/1/last.pt", b"one")
        store.write_bytes("trials/1/previous.pt", b"none")
        store.copy("trials/1/last.pt", "trials/1/previous.pt")
        store.write_bytes("trials/1/last.pt", b"two")
        assert [store.read_bytes(f"trials/1/{name}.pt") for name in ("previous", "last")] == [b"one", b"two"]
        with pytest.raises(FileNotFoundError):
            store.copy("trials/1/gone.pt", "trials/1/last.pt")

    @pytest.mark.fault(
        47,
        how="file names with .., absolute, with backslash, drive and NUL",
        saw="refused: a file's name must stay inside the run",
    )
    @pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "a\\b", "c:x", "a\0b"])
    def test_names_stay_inside(self, uri: str, name: str) -> None:
        with pytest.raises(StoreError, match="must stay inside the run"):
            self.store(uri).write_bytes(name, b"x")

    def test_preflight_leaves_nothing(self, uri: str) -> None:
        store = self.store(uri)
        store.preflight()
        assert store.list() == []

    # ---- the log ----

    def test_a_run_is_read_back(self, uri: str) -> None:
        state = unbroken(self.store(uri))
        assert fold(self.store(uri).read()) == state
        assert RunLog.open(self.store(uri)).state == state

    def test_reading_goes_on_where_it_stood(self, uri: str) -> None:
        with RunLog.create(self.store(uri), heartbeat=False, **opened()) as log:
            reader = RunLog.open(self.store(uri))
            assert reader.refresh() == []
            drive(log, 2)
            new = reader.refresh()
            assert new[0].seq == 1 and reader.state == log.state
            for after in (-1, 0, 3, log.state.seq):
                seqs = [event.seq for event in self.store(uri).read(after)]
                assert seqs == list(range(after + 1, log.state.seq + 1))

    def test_no_run_and_a_second_run(self, uri: str) -> None:
        with pytest.raises(StoreError, match="must hold a run"):
            RunLog.open(self.store(uri))
        with pytest.raises(StoreError, match="must hold a run"):
            RunLog.resume(self.store(uri))
        RunLog.create(self.store(uri), heartbeat=False, **opened()).close()
        with pytest.raises(StoreError, match="must not hold a run yet"):
            RunLog.create(self.store(uri), heartbeat=False, **opened())
        assert fold(self.store(uri).read()).seq == 0

    def test_appending_needs_the_lease(self, uri: str) -> None:
        with pytest.raises(StoreError, match="needs the lease"):
            self.store(uri).append("closed", {"exit_code": 0})

    def test_what_does_not_fit_is_not_written(self, uri: str) -> None:
        with RunLog.create(self.store(uri), heartbeat=False, **opened()) as log:
            with pytest.raises(StoreError, match="never asked"):
                log.append("started", trial=3, attempt=1)
            with pytest.raises(StoreError, match="must have attempt"):
                log.append("started", trial=3)
            log.append("closed", exit_code=0)
        assert [event.type for event in self.store(uri).read()] == ["run_opened", "closed"]

    def test_many_owners_one_log(self, uri: str) -> None:
        wanted = essence(unbroken(open_store(f"memory://wanted-{next(_counter)}")))
        with RunLog.create(self.store(uri), heartbeat=False, **opened()):
            pass
        for turn in range(1, 7):
            with RunLog.resume(self.store(uri), heartbeat=False) as log:
                drive(log, turn)
                assert log.store.epoch == turn + 1
        state = fold(self.store(uri).read())
        assert essence(state) == wanted
        assert state.epoch == 7

    def test_appends_from_several_threads(self, uri: str) -> None:
        with RunLog.create(self.store(uri), heartbeat=False, **opened()) as log:
            threads = [
                threading.Thread(target=lambda: [log.append("closed", exit_code=n) for n in range(10)])
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert [event.seq for event in self.store(uri).read()] == list(range(41))

    def test_a_cut_after_every_event(self, uri: str) -> None:
        """What the next owner derives and decides is what the unbroken search did."""
        source = open_store(f"memory://source-{next(_counter)}")
        wanted = essence(unbroken(source, 4))
        events = list(source.read())
        for cut in range(1, len(events), self.cut_every):
            place = f"{uri}/cut-{cut}"
            with self.store(place) as first:
                first.acquire(heartbeat=False)
                for event in events[:cut]:
                    first.append(event.type, event.payload)
            with RunLog.resume(self.store(place), heartbeat=False) as log:
                drive(log, 4)
                assert essence(log.state) == wanted, f"cut after event {cut - 1}"
                assert repair(log.state) == []

    cut_every = 1

    # ---- the lease ----

    def test_one_owner(self, uri: str) -> None:
        log = RunLog.create(self.store(uri), heartbeat=False, **opened())
        with pytest.raises(LeaseHeldError, match=r"pid=\d+ on host=.*renewed \d+ s ago"):
            RunLog.resume(self.store(uri), heartbeat=False)
        before = self.store(uri).read_bytes("lease.json")
        with pytest.raises(StoreError, match="must not hold a run yet"):
            RunLog.create(self.store(uri), heartbeat=False, **opened())
        assert self.store(uri).read_bytes("lease.json") == before
        log.close()
        RunLog.resume(self.store(uri), heartbeat=False).close()

    def test_an_owner_that_went_to_sleep(self, uri: str) -> None:
        """Its lease goes stale, another takes the run over, and on waking it may not write."""
        clock, other = FakeClock(), FakeClock()
        sleeper = RunLog.create(self.store(uri, clock), heartbeat=False, **opened())
        sleeper.append("asked", trial=0, source="default", params={}, config={})
        other.now = 100.0
        with RunLog.resume(self.store(uri, other), heartbeat=False) as log:
            assert log.store.epoch == 2 and sum(other.slept) <= 15
            log.append("asked", trial=1, source="default", params={}, config={})
            for _ in range(2):
                with pytest.raises(LeaseLostError, match="another process|process pid="):
                    sleeper.append("asked", trial=1, source="default", params={}, config={})
            with pytest.raises(LeaseLostError):
                clock.now = 200.0
                sleeper.store.tick()
            sleeper.close()
            log.append("closed", exit_code=0)
        state = fold(self.store(uri).read())
        assert list(state.trials) == [0, 1] and state.closed == {"exit_code": 0}

    def test_a_lease_that_is_renewed_is_not_taken(self, uri: str) -> None:
        clock = FakeClock()
        owner = self.store(uri, clock)
        owner.acquire(heartbeat=False)
        for _ in range(20):
            clock.now += 10.0
            owner.tick()
        other = FakeClock(clock.offset)
        other.now = clock.now + 30.0
        with pytest.raises(LeaseHeldError, match="renewed 30 s ago"):
            self.store(uri, other).acquire(heartbeat=False)
        owner.release()

    @pytest.mark.fault(
        12,
        how="an owner whose wall clock is set back while another process waits for its lease",
        saw="the lease is watched, not believed: a live owner keeps the run",
        seam=True,
    )
    def test_a_live_owner_whose_clock_was_set_back(self, uri: str) -> None:
        """By the wall clock its lease is long over; but it renews while it is watched."""
        clock = FakeClock()
        owner = self.store(uri, clock)
        owner.acquire(heartbeat=False)
        clock.jump(-7200)
        clock.now += 10.0
        owner.tick()

        class Watching(FakeClock):
            def sleep(self, seconds: float) -> None:
                super().sleep(seconds)
                clock.now += seconds
                owner.tick()

        with pytest.raises(LeaseHeldError):
            self.store(uri, Watching()).acquire(heartbeat=False)
        assert owner.append("run_opened", opened()).epoch == 1
        owner.release()

    @pytest.mark.fault(
        12,
        how="the wall clock jumps back between two events",
        saw="events keep their order by number; the lease stays with its owner",
        seam=True,
    )
    def test_order_is_by_number_when_the_clock_jumps_back(self, uri: str) -> None:
        clock = FakeClock()
        with RunLog.create(self.store(uri, clock), heartbeat=False, **opened()) as log:
            log.append("asked", trial=0, source="default", params={}, config={})
            clock.jump(-7200)
            log.append("started", trial=0, attempt=1)
        events = list(self.store(uri).read())
        assert [event.type for event in events] == ["run_opened", "asked", "started"]
        assert events[2].time < events[1].time

    def test_two_that_take_over_at_once(self, uri: str) -> None:
        """Of several that find the lease stale, exactly one gets the run."""
        dead = FakeClock()
        self.store(uri, dead).acquire(heartbeat=False)
        won: list[Store] = []
        lost: list[Exception] = []
        barrier = threading.Barrier(4)

        def take() -> None:
            clock = FakeClock()
            clock.now = 1000.0
            store = self.store(uri, clock)
            barrier.wait()
            try:
                store.acquire(heartbeat=False)
                won.append(store)
            except LeaseHeldError as error:
                lost.append(error)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1 and len(lost) == 3
        won[0].append("run_opened", opened())
        assert [event.epoch for event in self.store(uri).read()] == [2]

    def test_a_lease_that_makes_no_sense_goes_stale(self, uri: str) -> None:
        self.store(uri).write_bytes("lease.json", b"\xff{]")
        clock = FakeClock(0.0)
        store = self.store(uri, clock)
        store.acquire(heartbeat=False)
        assert sum(clock.slept) >= 10
        store.append("run_opened", opened())
        store.release()

    def test_a_lease_that_was_removed_by_hand(self, uri: str) -> None:
        """The epoch goes on from the log, so the two owners cannot be mixed up."""
        clock = FakeClock()
        first = RunLog.create(self.store(uri, clock), heartbeat=False, **opened())
        self.store(uri).delete("lease.json")
        with RunLog.resume(self.store(uri), heartbeat=False) as log:
            assert log.store.epoch == 2
            with pytest.raises(LeaseLostError):
                first.append("closed", exit_code=0)
        assert [event.type for event in self.store(uri).read()] == ["run_opened", "resumed"]

    def test_the_heartbeat_renews(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("search.store.heartbeat.TICK_S", 0.01)
        monkeypatch.setattr("search.store.lease.RENEW_S", 0.01)
        store = self.store(uri)
        store.acquire()
        before = store.read_bytes("lease.json")
        for _ in range(500):
            if store.read_bytes("lease.json") != before:
                break
            threading.Event().wait(0.01)
        assert store.read_bytes("lease.json") != before
        store.release()
        assert b'"released": true' in store.read_bytes("lease.json")


class TestLocal(StoreContract):
    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        return str(tmp_path / "run")


class TestMemory(StoreContract):
    @pytest.fixture
    def uri(self) -> str:
        return f"memory://contract-{next(_counter)}"


class TestS3(StoreContract):
    cut_every = 5

    @pytest.fixture
    def uri(self, bucket: str) -> str:
        return f"{bucket}/runs/contract-{next(_counter)}"
