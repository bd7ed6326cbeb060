"""One configuration trained to object storage: its folder is there whenever its record is, also for another machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search import single
from search.single import Look, resume_single, train_single
from search.status import read_run
from search.store import Store, open_store
from search.tables import load_trials
from search.trial_folder import SCRATCH
from tests.support.s3 import s3_server
from tests.unit.test_single import completes, config, evaluated, fake, scenes
from trainable.config import RunConfig
from trainable.state import Outcome

__all__ = ["config", "scenes"]
CHECKPOINT = "checkpoints/last.pt"


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with s3_server() as server:
        yield f"{server.uri}/runs"


def quietly() -> Look:
    return Look(lambda line: None)


def write(given: dict[str, Any], content: str) -> None:
    path = given["directory"] / CHECKPOINT
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)


def in_store(run: Store) -> str:
    return run.read_bytes(f"trials/0/{CHECKPOINT}").decode()


def test_a_run_that_completes_is_whole_in_the_bucket_and_gone_from_this_machine(
    config: RunConfig, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = open_store(f"{storage}/one"), []

    def trains(given: dict[str, Any]) -> Outcome:
        assert given["directory"].is_relative_to(tmp_path)
        write(given, "first")
        given["report"](evaluated(2))
        seen.append(in_store(run))
        write(given, "second")
        given["report"](evaluated(4))
        write(given, "last words")
        return Outcome("COMPLETE", None, 4, 4.0, 0.4, 4)

    fake(monkeypatch, trains)
    assert train_single(config, storage, look=quietly()) == 0
    assert seen == ["first"] and in_store(run) == "last words"
    assert list(load_trials(f"{storage}/one")["state"]) == ["COMPLETE"]
    assert {"trials/0/config.yaml", "trials/0/train.log", "sweep.yaml", "trials.parquet"} <= set(run.list())
    [scratch] = tmp_path.glob(f"{SCRATCH}*")
    assert list(scratch.iterdir()) == []


def test_a_paused_run_goes_on_where_nothing_but_its_address_is_known(
    config: RunConfig, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pauses(given: dict[str, Any]) -> Outcome:
        given["report"](evaluated(2))
        write(given, "step 3")
        return Outcome("PAUSED", "stop", 3, 3.0, 0.2, 2)

    fake(monkeypatch, pauses)
    assert train_single(config, storage, look=quietly()) == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    found: list[str] = []

    def goes_on(given: dict[str, Any]) -> Outcome:
        found.append((given["directory"] / CHECKPOINT).read_text())
        return completes(given)

    fake(monkeypatch, goes_on)
    assert resume_single(f"{storage}/one", quietly()) == 0
    assert train_single(config, storage, go_on=True, look=quietly()) == 0
    assert found == ["step 3"]
    _, state = read_run(f"{storage}/one")
    assert [(row.step, row.attempt) for row in state.trials[0].evaluations] == [(2, 1), (4, 2)]


def test_a_process_that_lost_the_run_writes_nothing_any_more(
    config: RunConfig, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_store(f"{storage}/one")

    def is_overtaken(given: dict[str, Any]) -> Outcome:
        write(given, "mine")
        given["report"](evaluated(2))
        monkeypatch.setattr(single, "_still_ours", lambda store: False)
        write(given, "too late")
        return Outcome("PAUSED", "stop", 3, 3.0, 0.2, 2)

    fake(monkeypatch, is_overtaken)
    train_single(config, storage, look=quietly())
    assert in_store(run) == "mine"
