"""A run on object storage: what waits, what is merged, lost answers, outages, and two writers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from search.records import fold
from search.store import LogMoved, ObjectStore, RunLog, open_store
from search.store import bucket as buckets
from search.store.bucket import Bucket
from tests.support.clock import FakeClock
from tests.support.runs import drive, essence, opened, unbroken
from tests.support.s3 import S3Server, s3_server
from trainable.errors import ConfigError, LeaseLostError, StoreError
from trainable.faults import armed

_counter = iter(range(10**9))

ASK = {"source": "default", "params": {}, "config": {}}
ROW = {"attempt": 1, "objective": 0.5, "record": {"val/miou": 0.5}, "decision": {"action": "continue"}}


class _Stopped(Exception):
    pass


def _stop() -> None:
    raise _Stopped


@pytest.fixture(scope="module")
def _server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def server(_server: S3Server) -> Iterator[S3Server]:
    yield _server
    _server.refuse = _server.lose = 0
    _server.only = ""


@pytest.fixture
def s3(server: S3Server) -> str:
    return f"{server.uri}/run-{next(_counter)}"


@pytest.fixture
def memory() -> str:
    return f"memory://objects-{next(_counter)}"


def _events(uri: str) -> list[str]:
    return list(open_store(uri).list("events"))


def _names(*firsts: int) -> list[str]:
    return [f"events/{first:012d}.jsonl" for first in firsts]


# ---- what waits ----


def test_an_evaluation_waits_up_to_two_seconds(memory: str) -> None:
    clock = FakeClock()
    with RunLog.create(open_store(memory, clock), heartbeat=False, **opened()) as log:
        log.append("asked", trial=0, **ASK)
        for step in (1, 2, 3):
            log.append("evaluated", trial=0, step=step, **ROW)
        log.store.tick()
        assert fold(open_store(memory).read()).seq == 1
        clock.now += 1.5
        log.store.tick()
        assert fold(open_store(memory).read()).seq == 4
        assert _events(memory) == _names(0, 1, 2)


def test_a_decision_takes_along_what_waits(memory: str) -> None:
    with RunLog.create(open_store(memory, FakeClock()), heartbeat=False, **opened()) as log:
        log.append("asked", trial=0, **ASK)
        log.append("evaluated", trial=0, step=1, **ROW)
        log.append("evaluated", trial=0, step=2, **{**ROW, "decision": {"action": "prune"}})
        assert fold(open_store(memory).read()) == log.state
        assert _events(memory) == _names(0, 1, 2)
        log.append("evaluated", trial=0, step=3, **ROW)
    assert fold(open_store(memory).read()).seq == 4


# ---- merging ----


def test_a_thousand_small_objects_become_one(memory: str) -> None:
    clock = FakeClock()
    store = ObjectStore(memory, clock)
    with RunLog.create(store, heartbeat=False, **opened()) as log:
        for number in range(999):
            log.append("asked", trial=number, **ASK)
        assert len(_events(memory)) == 1000
        log.store.tick()
        assert _events(memory) == _names(0)
        log.append("closed", exit_code=0)
        assert _events(memory) == _names(0, 1000)
        assert fold(open_store(memory).read()) == log.state


def test_merging_again_and_again(memory: str) -> None:
    clock = FakeClock()
    for turn in range(4):
        store = ObjectStore(memory, clock, merge_at=7)
        opening = (
            RunLog.resume(store, heartbeat=False)
            if turn
            else RunLog.create(store, heartbeat=False, **opened())
        )
        with opening as log:
            for _ in range(20):
                log.append("asked", trial=log.state.next_number, **ASK)
                log.store.tick()
        assert len(_events(memory)) < 8
    assert fold(open_store(memory).read()) == log.state


@pytest.mark.parametrize("point", ["merge.put", "merge.written", "object.delete"])
def test_a_merge_that_stops_half_way(memory: str, point: str) -> None:
    """The merged object and its parts may stand side by side: every event still counts once."""
    clock = FakeClock()
    store = ObjectStore(memory, clock, merge_at=5)
    log = RunLog.create(store, heartbeat=False, **opened())
    for number in range(6):
        log.append("asked", trial=number, **ASK)
    with armed(point, _stop), pytest.raises(_Stopped):
        store.tick()
    assert fold(open_store(memory).read()) == log.state
    log.append("closed", exit_code=0)
    store.tick()
    assert fold(open_store(memory).read()) == log.state
    log.close()
    with RunLog.resume(ObjectStore(memory, merge_at=5), heartbeat=False) as log:
        log.store.tick()
        assert len(_events(memory)) <= 2
    assert fold(open_store(memory).read()) == log.state


def test_a_reader_whose_list_is_out_of_date(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its list and its reads the owner merged: it lists again."""
    store = ObjectStore(memory, FakeClock(), merge_at=5)
    with RunLog.create(store, heartbeat=False, **opened()) as log:
        for number in range(8):
            log.append("asked", trial=number, **ASK)
        reader = ObjectStore(memory, FakeClock())
        listed, real = reader._objects(), reader._objects
        answers = iter([listed])
        monkeypatch.setattr(reader, "_objects", lambda: next(answers, None) or real())
        store.tick()
        assert len(_events(memory)) == 1
        assert fold(reader.read()) == log.state


def test_an_object_that_is_gone_is_named(memory: str) -> None:
    with RunLog.create(open_store(memory), heartbeat=False, **opened()) as log:
        for number in range(5):
            log.append("asked", trial=number, **ASK)
    open_store(memory).delete(_names(3)[0])
    with pytest.raises(StoreError, match="event 3 must come next"):
        list(open_store(memory, FakeClock()).read())


# ---- two writers ----


def test_of_two_writers_one_goes_on(memory: str) -> None:
    """The stale one was a moment faster: what it wrote is read before anything else is decided."""
    stale_clock, clock = FakeClock(), FakeClock()
    stale = RunLog.create(open_store(memory, stale_clock), heartbeat=False, **opened())
    clock.now = 1000.0
    log = RunLog(open_store(memory, clock))
    log.store.acquire(heartbeat=False)
    log.refresh()
    stale.append("asked", trial=0, **ASK)
    with pytest.raises(StoreError, match="trial 0 was asked before"):
        log.append("asked", trial=0, **ASK)
    assert log.state == stale.state
    log.append("asked", trial=1, **ASK)
    with pytest.raises(LeaseLostError, match="another process writes to it"):
        stale.append("asked", trial=1, **ASK)
    with pytest.raises(LeaseLostError):
        stale.append("asked", trial=1, **ASK)
    state = fold(open_store(memory).read())
    assert state == log.state and list(state.trials) == [0, 1]


def test_a_stale_writer_after_a_merge(memory: str) -> None:
    """The name that it would write to is free again; what it puts there does not count."""
    stale_clock, clock = FakeClock(), FakeClock()
    stale = RunLog.create(ObjectStore(memory, stale_clock), heartbeat=False, **opened())
    clock.now = 1000.0
    with RunLog.resume(ObjectStore(memory, clock, merge_at=5), heartbeat=False) as log:
        for number in range(6):
            log.append("asked", trial=number, **ASK)
        log.store.tick()
        assert _events(memory) == _names(0)
        stale.append("closed", exit_code=1)
        assert _events(memory) == _names(0, 1)
        assert fold(open_store(memory).read()) == log.state
        for number in range(6, 12):
            log.append("asked", trial=number, **ASK)
        log.store.tick()
        assert fold(open_store(memory).read()) == log.state


def test_a_writer_that_slept_asks_before_it_writes_to_a_name_that_a_merge_has_freed(memory: str) -> None:
    """It would put more than its successor has: what goes beyond that would be taken for the log's end."""
    clock, other = FakeClock(), FakeClock()
    stale = RunLog.create(ObjectStore(memory, clock), heartbeat=False, **opened())
    stale.append("asked", trial=0, **ASK)
    stale.append("started", trial=0, attempt=1)
    for step in range(1, 5):
        stale.append("evaluated", trial=0, step=step, **ROW)
    other.now = 1000.0
    with RunLog.resume(ObjectStore(memory, other, merge_at=2), heartbeat=False) as log:
        log.append("closed", exit_code=0)
    assert _events(memory) == _names(0)
    clock.now = 1000.0
    with pytest.raises(LeaseLostError):
        stale.append("closed", exit_code=1)
    assert _events(memory) == _names(0) and fold(open_store(memory).read()) == log.state


# ---- a network that fails ----


@pytest.mark.fault(
    16,
    how="an S3 server that answers 503 and loses answers to writes that it made",
    saw="bounded, jittered retries of at most 10 s; the search ends as an undisturbed one",
)
def test_a_flaky_network_is_waited_out(server: S3Server, s3: str) -> None:
    clock = FakeClock()
    wanted = essence(unbroken(open_store(f"memory://wanted-{next(_counter)}"), 3))
    with RunLog.create(open_store(s3, clock), heartbeat=False, **opened()) as log:
        for turn in range(1, 4):
            server.refuse, server.lose = 3, turn % 2
            drive(log, turn)
        assert essence(log.state) == wanted
    assert clock.slept and max(clock.slept) <= 10.0
    assert len(set(clock.slept)) == len(clock.slept)
    assert essence(fold(open_store(s3).read())) == wanted


@pytest.mark.fault(
    16,
    how="a put that was made but answered by 503",
    saw="the event counts once",
)
def test_a_put_whose_answer_got_lost_counts_once(server: S3Server, s3: str) -> None:
    with RunLog.create(open_store(s3, FakeClock()), heartbeat=False, **opened()) as log:
        log.append("asked", trial=0, **ASK)
        log.append("evaluated", trial=0, step=1, **ROW)
        server.only, server.lose = "events", 1
        log.append("asked", trial=1, **ASK)
        assert fold(open_store(s3).read()) == log.state


@pytest.mark.parametrize("same", [True, False])
def test_an_outage_in_which_a_put_was_made_after_all(server: S3Server, s3: str, same: bool) -> None:
    """The caller was told that it failed. Made again it is the same event; another one comes after it."""
    with RunLog.create(open_store(s3, FakeClock()), heartbeat=False, **opened()) as log:
        log.append("asked", trial=0, **ASK)
        log.append("evaluated", trial=0, step=1, **ROW)
        server.only, server.lose, server.refuse = "events", 1, 0
        with (
            armed("object.put", lambda: setattr(server, "refuse", 99), nth=2),
            pytest.raises(StoreError, match="reach"),
        ):
            log.append("asked", trial=1, **ASK)
        server.refuse = 0
        assert list(log.state.trials) == [0]
        if same:
            assert log.append("asked", trial=1, **ASK).seq == 3
        else:
            assert log.append("asked", trial=2, **ASK).seq == 4
        assert list(log.state.trials) == ([0, 1] if same else [0, 1, 2])
        log.append("evaluated", trial=0, step=2, **ROW)
    assert fold(open_store(s3).read()) == log.state


def test_what_the_thread_finds_in_the_log_is_not_lost(server: S3Server, s3: str) -> None:
    clock = FakeClock()
    with RunLog.create(open_store(s3, clock), heartbeat=False, **opened()) as log:
        log.append("asked", trial=0, **ASK)
        log.append("evaluated", trial=0, step=1, **ROW)
        server.only, server.lose = "events", 1
        with armed("object.put", lambda: setattr(server, "refuse", 99), nth=2), pytest.raises(StoreError):
            log.append("asked", trial=1, **ASK)
        server.refuse = 0
        clock.now += 5.0
        log.store.tick()
        log.append("closed", exit_code=0)
        assert list(log.state.trials) == [0, 1]
    assert fold(open_store(s3).read()) == log.state


@pytest.mark.fault(
    16,
    how="an S3 server that answers nothing but 503",
    saw=(
        "evaluations wait in memory, a decision raises after 6 tries; when the server is back everything "
        "is written once"
    ),
)
def test_an_outage_is_bounded_and_what_waits_survives_it(server: S3Server, s3: str) -> None:
    clock = FakeClock()
    with RunLog.create(open_store(s3, clock), heartbeat=False, **opened()) as log:
        log.append("asked", trial=0, **ASK)
        server.refuse = 10**6
        for step in range(1, 6):
            log.append("evaluated", trial=0, step=step, **ROW)
        clock.now += 5.0
        with pytest.raises(
            StoreError, match="must be reachable, but cannot write events/000000000002.jsonl after 6"
        ):
            log.store.tick()
        with pytest.raises(StoreError, match="after 6 tries"):
            log.append("closed", exit_code=0)
        assert sum(clock.slept) < 60 and log.state.closed is None
        server.refuse = 0
        log.append("closed", exit_code=0)
        assert fold(open_store(s3).read()) == log.state


def test_a_lease_whose_renewal_was_made_but_not_answered(server: S3Server, s3: str) -> None:
    clock = FakeClock()
    store = open_store(s3, clock)
    store.acquire(heartbeat=False)
    server.only, server.lose = "lease", 1
    clock.now += 11
    store.tick()
    clock.now += 11
    store.tick()
    store.append("run_opened", opened())
    store.release()


class _SlowLine(BaseHTTPRequestHandler):
    """Keeps objects; half a second passes before all of one has come or gone."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, bytes]] = {}

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.5)
        with contextlib.suppress(OSError):  # Who asked may be gone.
            self.answer(b"", 0)

    def do_GET(self) -> None:
        data = self.objects[self.path]
        self.answer(data[:1], len(data))
        time.sleep(0.5)
        self.wfile.write(data[1:])

    def answer(self, data: bytes, length: int) -> None:
        self.send_response(200)
        for name, value in (("Content-Length", str(length)), ("ETag", '"1"'),
                            ("Last-Modified", "Sat, 01 Jan 2000 00:00:00 GMT")):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_checkpoint_may_take_its_time_and_nothing_else_may(monkeypatch: pytest.MonkeyPatch, s3: str) -> None:
    http = ThreadingHTTPServer(("127.0.0.1", 0), _SlowLine)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{http.server_port}")
    monkeypatch.setattr(buckets, "REQUEST_S", 0.2)
    monkeypatch.setattr(buckets, "BIG_BYTES", 1000)
    try:
        bucket = Bucket(s3, FakeClock(), tries=1)
        bucket.put("last.pt", bytes(2000))
        assert bucket.get("last.pt")[0] == bytes(2000)
        with pytest.raises(StoreError, match="after 1 tries"):
            bucket.put("lease.json", bytes(10))
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


# ---- addresses, credentials ----


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://key:sEcReT@bucket/x", "must hold no credentials"),
        ("s3://bucket/x?secret=sEcReT", "must hold no credentials"),
        ("ftp://host/x", "must be a folder or s3://"),
        ("s3:///x", "must be a folder or s3://"),
    ],
)
def test_addresses_that_cannot_be_used(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_store(uri)
    assert "sEcReT" not in str(caught.value)


def test_a_folder_by_its_address(tmp_path: object) -> None:
    assert open_store(f"file://{tmp_path}/a b").path is not None
    assert str(open_store(f"file://{tmp_path}/a%20b").path) == f"{tmp_path}/a b"


def test_a_bucket_that_does_not_exist(server: S3Server) -> None:
    with pytest.raises(StoreError, match="the bucket must exist"):
        open_store("s3://nowhere/run", FakeClock()).preflight()


def test_no_key_stands_in_an_error(server: S3Server, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "CANARYKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARYSECRET")
    server.refuse = 99
    with pytest.raises(StoreError) as caught:
        open_store(s3, FakeClock()).preflight()
    assert "CANARY" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_store_that_ignores_conditions_is_refused(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Bucket.put
    monkeypatch.setattr(Bucket, "put", lambda self, name, data, **_: put(self, name, data))
    with pytest.raises(StoreError, match="must refuse a put over an object"):
        open_store(memory).preflight()
    assert open_store(memory).list() == []


def test_a_moved_log_says_what_it_holds() -> None:
    moved = LogMoved("x: holds events that were not known", [])
    assert str(moved) == "x: holds events that were not known" and moved.events == []
