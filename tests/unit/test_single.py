"""A run of one configuration: its record, however the training leaves it. The training here is a formula."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search import single
from search.records import TrialState
from search.single import Look, resume_single, train_single
from search.status import read_run
from trainable.config import DataConfig, RunConfig
from trainable.data.synth import write_scenes
from trainable.errors import ConfigError, DataError
from trainable.state import Outcome, Report

Training = Callable[..., Outcome]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("single") / "scenes"
    write_scenes(made, photos=4, patches_per_photo=4, size=32, labeled=4)
    return made


@pytest.fixture
def config(scenes: Path) -> RunConfig:
    data = DataConfig(
        root=str(scenes), group_by=r"^(p\d+)", labeled="splits/labelled.txt", unlabeled="splits/unlabelled.txt",
        val="splits/val.txt",
    )  # fmt: skip
    train = {"steps": 4, "eval_every_steps": 2, "encoder_weights": None, "crop_size": 32, "st": {"start_step": 1}}
    return RunConfig(name="one", recipe="per_class", data=data, train=train)


def fake(monkeypatch: pytest.MonkeyPatch, training: Callable[[dict[str, Any]], Outcome]) -> None:
    def train(config: RunConfig, directory: Path, **given: Any) -> Outcome:
        return training({"directory": Path(directory), **given})

    monkeypatch.setattr(single, "train", train)


def evaluated(step: int) -> Report:
    return Report(step, float(step), step / 10, {"val/miou": step / 10})


def completes(given: dict[str, Any]) -> Outcome:
    for step in (2, 4):
        given["report"](evaluated(step))
    return Outcome("COMPLETE", None, 4, 4.0, 0.4, 4, peak_memory_mb=7.0)


def waits_to_be_told(given: dict[str, Any]) -> Outcome:
    given["report"](evaluated(2))
    end = time.monotonic() + 30
    while (reason := given["should_stop"]()) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    return Outcome("PAUSED", reason, 2, 2.0, 0.2, 2)


def test_a_run_that_completes_leaves_its_record(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, completes)
    said: list[str] = []
    assert train_single(config, str(tmp_path), look=Look(said.append)) == 0
    _, state = read_run(str(tmp_path / "one"))
    [trial] = state.trials.values()
    assert (trial.state, trial.best_value, trial.best_step, trial.source) == (TrialState.COMPLETE, 0.4, 4, "train")
    assert trial.config["train"]["steps"] == 4
    assert trial.config["train"]["threshold"] == {"default": 0.6}
    assert state.closed == {"exit_code": 0, "reason": None}
    assert said[-1] == "COMPLETE at step 4: best val/miou 0.4000 at step 4"
    assert (tmp_path / "one" / "trials.parquet").is_file()


@pytest.mark.parametrize(("reports", "code"), [(0, 1), (1, 3)])
def test_an_exception_becomes_a_failed_trial(
    reports: int, code: int, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(given: dict[str, Any]) -> Outcome:
        for _ in range(reports):
            given["report"](evaluated(2))
        raise RuntimeError("the tap ran dry of canary-0123456789")

    monkeypatch.setenv("SOME_TOKEN", "canary-0123456789")
    fake(monkeypatch, fails)
    said: list[str] = []
    assert train_single(config, str(tmp_path), look=Look(said.append)) == code
    _, state = read_run(str(tmp_path / "one"))
    assert state.trials[0].state is TrialState.FAILED
    assert "the tap ran dry of ***" in str(state.trials[0].error) and "canary" not in str(state.trials[0].error)
    assert "the tap ran dry" in (tmp_path / "one" / "trials" / "0" / "train.log").read_text()
    assert any("the tap ran dry" in line for line in said)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_pauses_and_resume_goes_on(
    number: signal.Signals, code: int, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_by_a_signal(given: dict[str, Any]) -> Outcome:
        os.kill(os.getpid(), number)
        return waits_to_be_told(given)

    fake(monkeypatch, told_by_a_signal)
    run = str(tmp_path / "one")
    assert train_single(config, str(tmp_path), look=Look(lambda line: None)) == code
    assert read_run(run)[1].trials[0].state is TrialState.PAUSED
    (tmp_path / "one" / "control").mkdir(exist_ok=True)
    (tmp_path / "one" / "control" / "stop").write_text("of somebody whom nobody heard any more\n")
    fake(monkeypatch, completes)
    assert resume_single(run, Look(lambda line: None)) == 0
    _, state = read_run(run)
    assert state.trials[0].state is TrialState.COMPLETE
    assert state.trials[0].attempts == 2 and not (tmp_path / "one" / "control" / "stop").exists()
    assert [row.step for row in state.trials[0].evaluations] == [2, 4]


def test_a_stop_from_elsewhere_pauses_with_code_0(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_by_a_file(given: dict[str, Any]) -> Outcome:
        control = given["directory"].parents[1] / "control"
        control.mkdir(exist_ok=True)
        (control / "stop").write_text("stop\n")
        return waits_to_be_told(given)

    fake(monkeypatch, told_by_a_file)
    assert train_single(config, str(tmp_path), look=Look(lambda line: None)) == 0
    assert read_run(str(tmp_path / "one"))[1].trials[0].state is TrialState.PAUSED


def test_other_data_are_refused_at_resume(
    config: RunConfig, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, lambda given: Outcome("PAUSED", "stop", 0, 0.0))
    train_single(config, str(tmp_path), look=Look(lambda line: None))
    first = (scenes / "splits" / "val.txt").read_text()
    try:
        (scenes / "splits" / "val.txt").write_text("\n".join(first.split()[:-1]) + "\n")
        with pytest.raises(DataError, match="must be those that the run began with"):
            resume_single(str(tmp_path / "one"))
    finally:
        (scenes / "splits" / "val.txt").write_text(first)


def test_bad_data_or_knobs_are_found_before_a_run_is_made(config: RunConfig, tmp_path: Path) -> None:
    wrong = config.model_copy(update={"data": config.data.model_copy(update={"val": "splits/unlabelled.txt"})})
    with pytest.raises(DataError):
        train_single(wrong, str(tmp_path))
    with pytest.raises(ConfigError):
        train_single(config.model_copy(update={"train": {"steps": 0}}), str(tmp_path))
    assert not (tmp_path / "one" / "events").exists()


def test_a_configuration_that_cannot_begin_leaves_the_run_of_its_name_where_it_is(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, completes)
    assert train_single(config, str(tmp_path), look=Look(lambda line: None)) == 0
    wrong = config.model_copy(update={"data": config.data.model_copy(update={"val": "splits/unlabelled.txt"})})
    with pytest.raises(DataError):
        train_single(wrong, str(tmp_path), fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert train_single(config, str(tmp_path), fresh=True, look=Look(lambda line: None)) == 0
    assert len(list(tmp_path.iterdir())) == 2
