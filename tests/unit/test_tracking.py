"""wandb from the log: every evaluation once, retries, offline when nobody answers, and a death that changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from search.publisher_process import Tracking, local_folder, own_folder
from search.records import RunState
from search.schema import WandbConfig
from search.store import RunLog, open_store
from search.tracking import POSITION, Publisher, publish
from search.wandb_key import key_note, mode_of
from tests.support.fault_page import Observed
from tests.support.runs import opened, unbroken
from trainable.errors import StoreError


class FakeRun:
    """Keeps what a wandb run was told."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.rows, self.summary, self.finished = settings, [], {}, False

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        assert not self.finished
        self.rows.append((step, data))

    def finish(self, exit_code: int | None = None) -> None:
        self.finished = True


class FakeWandb:
    """Starts runs; refuses the first `refusals` times."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals, self.runs, self.modes = refusals, [], []

    def __call__(self, **settings: Any) -> FakeRun:
        self.modes.append(settings["mode"])
        if self.refusals:
            self.refusals -= 1
            raise TimeoutError("no answer")
        self.runs.append(FakeRun(settings))
        return self.runs[-1]


def write_run(folder: Path) -> str:
    """A finished run in a folder."""
    unbroken(open_store(str(folder)))
    return str(folder)


def seams(server: FakeWandb) -> dict[str, Any]:
    return {"start": server, "pause": lambda seconds: None, "let_go": lambda: None}


def test_every_evaluation_is_drawn_once_however_often_it_is_published(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    expected = {
        (t.number, e.step) for t in RunLog.open(open_store(run)).state.trials.values() for e in t.evaluations
    }
    server = FakeWandb()
    assert publish(run, WandbConfig(), "online", **seams(server))[1] == len(expected) > 0
    assert publish(run, WandbConfig(), "online", **seams(server)) == (0, 0)
    drawn = [(r.settings["config"]["trial"], step) for r in server.runs for step, _ in r.rows]
    assert sorted(drawn) == sorted(expected)
    assert all(r.settings["resume"] == "allow" and r.settings["group"] for r in server.runs)
    assert len({r.settings["id"] for r in server.runs}) == len(server.runs)


@pytest.mark.fault(
    34,
    how="a publisher that stopped in the middle of a trial",
    saw="the next draws the remaining evaluations, each once",
    seam=True,
)
def test_a_publisher_that_dies_goes_on_where_it_was(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    first = Publisher(run, WandbConfig(), "online", **seams(FakeWandb()))
    trial = next(t for t in first.log.state.trials.values() if len(t.evaluations) > 1)
    first.position.steps[trial.number] = trial.evaluations[0].step
    first.position.write(first.store)
    server = FakeWandb()
    publish(run, WandbConfig(), "online", **seams(server))
    again = next(r for r in server.runs if r.settings["config"]["trial"] == trial.number)
    assert [step for step, _ in again.rows] == [e.step for e in trial.evaluations[1:]]


def test_a_failed_trial_that_is_started_again_is_drawn_on(tmp_path: Path) -> None:
    run, ask = str(tmp_path / "run"), {"source": "sampled", "params": {}, "coords": {}, "config": {}}
    row = {"trial": 0, "time_s": 1.0, "objective": 0.5, "record": {"val/miou": 0.5}, "decision": {"action": "continue"}}
    server, log = FakeWandb(), RunLog.create(open_store(run), heartbeat=False, **opened())
    log.append("asked", trial=0, **ask)
    log.append("started", trial=0, attempt=1)
    log.append("evaluated", attempt=1, step=5, **row)
    log.append("ended", trial=0, attempt=1, state="FAILED")
    log.append("asked", **(ask | {"trial": 1}))
    log.append("ended", trial=1, attempt=1, state="FAILED")
    publisher = Publisher(run, WandbConfig(), "online", **seams(server))
    assert (publisher.catch_up(), publisher.catch_up(), publisher.position.finished) == (1, 0, {0, 1})
    log.append("started", trial=0, attempt=2)
    log.append("evaluated", attempt=2, step=10, **row)
    log.append("ended", trial=0, attempt=2, state="COMPLETE")
    log.close()
    assert (publisher.catch_up(), publisher.catch_up()) == (1, 0)
    assert [[step for step, _ in drawn.rows] for drawn in server.runs] == [[5], [], [10]]
    assert server.runs[2].summary["state"] == "COMPLETE" and server.runs[2].finished


def test_a_damaged_position_means_drawing_again_not_an_error(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    open_store(run).write_bytes(POSITION, b"{torn")
    assert publish(run, WandbConfig(), "online", **seams(FakeWandb()))[1] > 0


@pytest.mark.fault(
    34,
    how="wandb.init that times out three times",
    saw="offline from then on, said once",
    seam=True,
)
def test_when_nobody_answers_the_run_is_kept_offline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    server = FakeWandb(refusals=3)
    publish(run, WandbConfig(), "online", **seams(server))
    assert server.modes[:3] == ["online"] * 3 and set(server.modes[3:]) == {"offline"}
    assert capsys.readouterr().out.count("kept offline") == 1


def test_auto_is_online_only_with_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert mode_of(WandbConfig()) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert mode_of(WandbConfig()) == "online"
    assert mode_of(WandbConfig(mode="disabled")) == "disabled"


@pytest.mark.fault(35, how="mode online with no key, and with one that is too short, before a sweep starts")
def test_a_key_that_is_missing_or_wrong_is_named_before_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, observed: Observed
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert key_note(WandbConfig()) is None and key_note(WandbConfig(mode="offline")) is None
    missing = key_note(WandbConfig(mode="online"))
    assert missing is not None and "wandb login" in missing and "kept offline" in missing
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    short = key_note(WandbConfig())
    assert short is not None and "at least 40 characters" in short and "canary" not in short
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert key_note(WandbConfig()) is None
    observed(missing)
    observed(short)


class Refusing(BaseHTTPRequestHandler):
    """A wandb server that answers everything with one code."""

    code = 500

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.code)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def refusing(code: int | None) -> Iterator[str]:
    """Address of a server that always answers with this code; with None, of nobody."""
    handler = type("Handler", (Refusing,), {"code": code})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        if code is None:
            server.server_close()
            yield address
            return
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield address
        server.shutdown()
        thread.join()


PUBLISH = """
import sys
from search import tracking
from search.publisher_process import Tracking, local_folder, own_folder
from search.schema import WandbConfig
tracking.INIT_TIMEOUT_S, tracking.FIRST_WAIT_S, tracking.ATTEMPTS = 1.0, 0.1, int(sys.argv[2])
print(tracking.publish(sys.argv[1], WandbConfig(), "online"))
"""


@pytest.mark.fault(
    34, 35, how="the real wandb against servers that answer 500, 429 and 401, and against none"
)
def test_the_real_wandb_that_gets_no_answer_keeps_the_run_offline(tmp_path: Path, observed: Observed) -> None:
    key, started = "canary" + "0" * 34, []
    with ExitStack() as servers:
        # All at once: each spends its time waiting.
        for code in (500, 429, None, 401):
            run = str(tmp_path / str(code))
            rows = len(unbroken(open_store(run), 2).history)
            address = servers.enter_context(refusing(code))
            environment = os.environ | {"WANDB_API_KEY": key, "WANDB_BASE_URL": address}
            environment.pop("WANDB_MODE", None)
            process = subprocess.Popen(
                [sys.executable, "-c", PUBLISH, run, "2"], env=environment, text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            started.append((code, run, rows, process))
        said = [process.communicate(timeout=120)[0] for *_, process in started]
    for (code, run, rows, process), text in zip(started, said, strict=True):
        assert process.returncode == 0 and f"(2, {rows})" in text.splitlines(), text
        [notice] = [line for line in text.splitlines() if line.startswith("notice: ")]
        assert ("does not take the key" if code == 401 else "cannot be reached") in notice
        kept = {
            path.stem.removeprefix("run-") for path in (Path(run) / "wandb").rglob("offline-run-*/*.wandb")
        }
        assert len(kept) == 2 and key not in text
        shown = "no server" if code is None else str(code)
        what = f"{shown}: {notice.removeprefix('notice: ')}; every evaluation in offline runs"
        observed(what, row=35 if code == 401 else 34)


def test_notices_of_the_publisher_are_passed_on_once(tmp_path: Path) -> None:
    run, said = write_run(tmp_path / "run"), []
    log = Path(run) / "wandb" / "publisher.log"
    tracking = Tracking(run, WandbConfig(mode="disabled"), said.append)
    tracking._process = cast("Any", SimpleNamespace(poll=lambda: None))
    state = RunLog.open(open_store(run)).state
    tracking.update(state)
    log.parent.mkdir()
    log.write_text("wandb: noise\nnotice: wandb cannot be reached\nnotice: ha")
    tracking.update(state)
    tracking.close(state)
    assert said == ["wandb cannot be reached"]


@pytest.mark.fault(
    34,
    how="a sweep whose wandb folder is a file; on S3, one whose folder in the shared temporary one is another user's",
    saw="one line that names the folder and `thresher wandb-sync`; the search goes on without its publisher",
)
@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_folder_that_wandb_cannot_have_is_named_once_and_the_search_goes_on(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    run, said = "s3://bucket/run" if where == "remote" else write_run(tmp_path / "run"), list[str]()
    folder = local_folder(run)
    if where == "remote":
        folder.mkdir(mode=0o777)
        monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    else:
        folder.write_text("in its way")
    tracking = Tracking(run, WandbConfig(), said.append)
    assert said == []
    for _ in range(3):
        tracking.update(RunState())
    tracking.close(RunState())
    [line] = said
    assert f"cannot write {folder} (" in line and f"`thresher wandb-sync {run}`" in line
    assert where == "local" or list(folder.iterdir()) == []


def test_a_folder_of_our_own_in_the_temporary_one_is_for_us_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = own_folder("s3://bucket/run")
    assert own_folder("s3://bucket/run") == folder and folder.stat().st_mode & 0o077 == 0
    (tmp_path / "elsewhere").mkdir()
    local_folder("s3://bucket/other").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="a link"):
        own_folder("s3://bucket/other")


def test_a_publisher_has_a_folder_or_says_what_is_in_its_way(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    local_folder(run).write_text("in its way")
    with pytest.raises(StoreError, match=r"wandb: must be a folder that wandb can write, but File exists"):
        publish(run, WandbConfig(), "offline", **seams(FakeWandb()))


def test_a_publisher_that_ends_by_an_error_is_told_of_once(tmp_path: Path) -> None:
    run, said = write_run(tmp_path / "run"), list[str]()
    tracking = Tracking(run, WandbConfig(mode="disabled"), said.append)
    codes = iter([None, 0])
    tracking._process = cast("Any", SimpleNamespace(poll=lambda: next(codes)))
    for _ in range(2):
        tracking.update(RunState())
    assert said == []
    tracking._process = cast("Any", SimpleNamespace(poll=lambda: 1, returncode=1))
    for _ in range(3):
        tracking.update(RunState())
    [line] = said
    assert "has ended with exit code 1" in line and "publisher.log" in line


def test_the_real_wandb_offline_writes_one_run_per_trial_and_no_secret(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    secret = "canary" + "0" * 34
    code = (
        "from search.tracking import publish; from search.schema import WandbConfig; import sys;"
        "print(publish(sys.argv[1], WandbConfig(), 'offline'))"
    )
    environment = os.environ | {"WANDB_API_KEY": secret, "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    trials = [t for t in RunLog.open(open_store(str(run))).state.trials.values() if t.evaluations or t.ended]
    files = list((Path(run) / "wandb").rglob("*.wandb"))
    assert len(files) == len(trials)
    written = [p for p in Path(run).rglob("*") if p.is_file()]
    assert not [p for p in written if secret.encode() in p.read_bytes()]
    assert json.loads((Path(run) / POSITION).read_bytes())["finished"]
