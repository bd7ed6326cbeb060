"""The loop: exact resume, two optimizers and two phases, endings, and no wait for the device in a step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trainable.session
from tests.support.images import blocks_dataset
from tests.support.no_sync import no_host_sync
from tests.support.two_phase import TwoPhase
from trainable import checkpoint, train
from trainable.checkpoint import load_best, load_last
from trainable.config import RunConfig
from trainable.data.dataset import Dataset
from trainable.errors import CheckpointError, ConfigError
from trainable.recipes import RECIPES
from trainable.state import Outcome, Report, Snapshot

TINY = {
    "steps": 12, "eval_every_steps": 4, "batch_size": 2, "crop_size": 32, "patience": 0, "encoder_weights": None,
    "architecture": "deeplabv3plus", "encoder": "tu-test_resnet", "optimizer": {"lr": 0.02, "warmup_steps": 2},
}  # fmt: skip
PIXEL = TINY | {"scale_min": 32, "scale_max": 64, "scale_every_steps": 3, "st": {"start_step": 3}, "threshold": 0.34}


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trainable.session, "open_dataset", lambda cfg, base, **kwargs: blocks_dataset())
    monkeypatch.setitem(RECIPES, "two_phase", TwoPhase)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def configured(recipe: str, **train_values: Any) -> RunConfig:
    base = TINY if recipe == "two_phase" else PIXEL
    if recipe == "supervised":
        base = {k: v for k, v in base.items() if k not in ("st", "threshold")}
    return RunConfig(name="t", recipe=recipe, data={"root": "."}, train=base | train_values, seed=3)  # type: ignore[arg-type]


class StopAfter:
    """Asks to stop at the n-th question."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def __call__(self) -> str | None:
        self.left -= 1
        return "stop" if self.left < 0 else None


def run_whole(recipe: str, folder: Path, **values: Any) -> tuple[Outcome, list[Report]]:
    reports: list[Report] = []
    return train(configured(recipe, **values), folder, report=reports.append), reports


def curve(reports: list[Report]) -> dict[int, dict[str, float | None]]:
    return {r.step: r.record for r in reports}


@pytest.mark.parametrize("recipe", ["two_phase", "per_class", "supervised"])
@pytest.mark.parametrize("questions", [5, 14])
def test_resume_equals_unbroken_run_bit_for_bit(recipe: str, questions: int, tmp_path: Path) -> None:
    outcome, whole = run_whole(recipe, tmp_path / "whole")
    assert outcome.state == "COMPLETE" and outcome.step == 12
    reports: list[Report] = []
    states = []
    for _ in range(20):
        ended = train(
            configured(recipe), tmp_path / "broken", report=reports.append, should_stop=StopAfter(questions)
        )
        states.append(ended.state)
        if ended.state == "COMPLETE":
            break
    assert states[0] == "PAUSED" and states[-1] == "COMPLETE"
    assert curve(reports) == curve(whole)
    one, _ = load_last(tmp_path / "whole")
    two, _ = load_last(tmp_path / "broken")
    assert one is not None and two is not None
    for net, weights in one.nets.items():
        for name, tensor in weights.items():
            assert torch.equal(tensor, two.nets[net][name]), f"{net}.{name}"
    assert one.loop["best_value"] == two.loop["best_value"] and one.loop["recipe"] == two.loop["recipe"]
    for name, tensor in load_best(tmp_path / "whole")[1].items():
        assert torch.equal(tensor, load_best(tmp_path / "broken")[1][name])


def test_a_kill_after_the_report_and_before_the_checkpoint_redoes_one_interval_equally(tmp_path: Path) -> None:
    _, whole = run_whole("per_class", tmp_path / "whole")

    class Killed(Exception):
        pass

    def die(report: Report) -> None:
        reports.append(report)
        if report.step == 8:
            raise Killed

    reports: list[Report] = []
    with pytest.raises(Killed):
        train(configured("per_class"), tmp_path / "broken", report=die)
    again: list[Report] = []
    train(configured("per_class"), tmp_path / "broken", report=again.append)
    assert [r.step for r in again] == [8, 12]
    assert curve(reports + again) == curve(whole) and again[0].record == reports[-1].record


@pytest.mark.parametrize(("every", "steps"), [(None, [4, 8, 12]), (5, [5, 10, 12]), (6, [6, 12]), (50, [12])])
def test_checkpoints_come_at_every_multiple_of_their_interval_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int | None, steps: list[int]
) -> None:
    saved: list[int] = []
    save = checkpoint.save_last

    def noted(directory: Path, snapshot: Snapshot) -> Path:
        saved.append(snapshot.loop["step"])
        return save(directory, snapshot)

    monkeypatch.setattr(checkpoint, "save_last", noted)
    _, whole = run_whole("two_phase", tmp_path / "whole", checkpoint_every_steps=every)
    assert saved == steps

    def die(report: Report) -> None:
        if report.step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(configured("two_phase", checkpoint_every_steps=every), tmp_path / "broken", report=die)
    _, again = run_whole("two_phase", tmp_path / "broken", checkpoint_every_steps=every)
    assert curve(again) == {step: record for step, record in curve(whole).items() if step > ([0, *steps])[-2]}


def test_a_resume_needs_none_of_the_weights_that_the_run_began_with(tmp_path: Path) -> None:
    run_whole("supervised", tmp_path / "first", steps=4)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(next((tmp_path / "first" / "checkpoints").glob("best-*.safetensors")).read_bytes())
    _, whole = run_whole("supervised", tmp_path / "whole", init_from=str(weights))
    paused = train(
        configured("supervised", init_from=str(weights)), tmp_path / "broken", should_stop=StopAfter(12)
    )
    assert paused.state == "PAUSED" and paused.step > 0
    weights.unlink()
    outcome, reports = run_whole("supervised", tmp_path / "broken", init_from=str(weights))
    assert outcome.state == "COMPLETE" and reports[-1].record == whole[-1].record
    with pytest.raises(CheckpointError, match="weights"):
        run_whole("supervised", tmp_path / "anew", init_from=str(weights))


def test_phases_begin_once_and_write_targets_that_a_resume_reads(tmp_path: Path) -> None:
    train(configured("two_phase"), tmp_path, should_stop=StopAfter(14))
    train(configured("two_phase"), tmp_path)
    snapshot, _ = load_last(tmp_path)
    assert snapshot is not None
    assert snapshot.loop["recipe"]["began/first"] == snapshot.loop["recipe"]["began/second"] == 1
    assert snapshot.loop["recipe"]["lr_scale/net"] == pytest.approx(0.9**3)
    assert snapshot.device_state["calls"].item() == 12
    assert (tmp_path / "targets" / "phase-1.npz").exists()


def test_a_minimized_objective_keeps_the_lowest(tmp_path: Path) -> None:
    outcome, reports = run_whole("two_phase", tmp_path)
    assert outcome.best_value == min(r.objective for r in reports if r.objective is not None)


@pytest.mark.parametrize(("metric", "pick"), [("val/f1", max), ("gap", min), ("loss/total", min)])
def test_best_model_and_report_follow_the_metric_that_the_run_names(
    tmp_path: Path, metric: str, pick: Any
) -> None:
    reports: list[Report] = []
    run = configured("supervised", eval_every_steps=2).model_copy(update={"objective": metric})
    outcome = train(run, tmp_path, report=reports.append)
    curve = {r.step: r.record[metric] for r in reports}
    assert [r.objective for r in reports] == list(curve.values())
    assert len(set(curve.values())) > 1 and curve != {r.step: r.record["val/miou"] for r in reports}
    assert outcome.best_value == pick(curve.values()) == curve[outcome.best_step or 0]
    assert load_best(tmp_path)[0].step == outcome.best_step


def test_patience_counts_by_the_metric_that_the_run_names(tmp_path: Path) -> None:
    run = configured("supervised", eval_every_steps=1, patience=1)
    frozen = [r.step for r in _until_patience(run.model_copy(update={"objective": "loss/total"}), tmp_path / "a")]
    plain = [r.step for r in _until_patience(run, tmp_path / "b")]
    assert frozen != plain


def _until_patience(run: RunConfig, folder: Path) -> list[Report]:
    reports: list[Report] = []
    train(run, folder, report=reports.append)
    values = [r.objective for r in reports]
    better = min if run.objective == "loss/total" else max
    stale = next((i for i in range(1, len(values)) if better(values[: i + 1]) in values[:i]), len(values) - 1)
    assert len(values) == stale + 1
    return reports


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": "val/mio"}, "did you mean 'val/miou'"),
        ({"objective": "loss/total", "direction": "max"}, "direction must be min for loss/total"),
        ({"direction": "min"}, "direction must be max for val/miou"),
    ],
)
def test_a_metric_that_is_not_reported_or_turned_around_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        train(configured("supervised").model_copy(update=changes), tmp_path)


def test_a_checkpoint_that_went_by_another_metric_is_refused(tmp_path: Path) -> None:
    train(configured("supervised"), tmp_path, should_stop=StopAfter(20))
    with pytest.raises(CheckpointError, match="objective is None there and .*val/f1.* here"):
        train(configured("supervised").model_copy(update={"objective": "val/f1"}), tmp_path)
    named = configured("supervised").model_copy(update={"objective": "val/miou", "direction": "max"})
    assert train(named, tmp_path).state == "COMPLETE"


def test_patience_stops_and_says_so(tmp_path: Path) -> None:
    outcome, reports = run_whole("supervised", tmp_path, patience=1, optimizer={"lr": 0.0, "warmup_steps": 0})
    assert (outcome.state, outcome.stop_reason) == ("STOPPED", "patience")
    assert outcome.step < 12


def test_every_report_says_which_rules_are_broken_and_how_much_memory_it_took(tmp_path: Path) -> None:
    health = {"action": "warn", "plateau_evals": 1}
    outcome, reports = run_whole("supervised", tmp_path, health=health, optimizer={"lr": 0.0, "warmup_steps": 0})
    assert outcome.health and reports[-1].health == outcome.health
    for report in reports:
        assert report.health == {name: at for name, at in outcome.health.items() if at <= report.step}
        assert report.peak_memory_mb is not None and 0 < report.peak_memory_mb <= outcome.peak_memory_mb


def test_patience_may_only_warn(tmp_path: Path) -> None:
    outcome, _ = run_whole(
        "supervised", tmp_path, patience=1, patience_action="warn", optimizer={"lr": 0.0, "warmup_steps": 0}
    )
    assert outcome.state == "COMPLETE"


@pytest.mark.fault(
    28,
    how="real training with a learning rate of 10 and no gradient clip",
    saw="DIVERGED within 60 steps, with step, lr and every part of the loss",
)
def test_a_loss_that_is_not_finite_ends_the_run_and_is_never_best(tmp_path: Path) -> None:
    exploding = {"lr": 10.0, "warmup_steps": 0, "weight_decay": 1.0}
    outcome, _ = run_whole("supervised", tmp_path, optimizer=exploding, grad_clip=0, steps=60)
    assert outcome.state == "DIVERGED"
    assert outcome.error is not None and "loss/sup" in outcome.error and "lr=" in outcome.error
    assert outcome.step < 60


@pytest.mark.fault(
    30,
    how="real training with a threshold of 0.999999",
    saw="a warning at the first empty evaluation, STOPPED (st_inactive) at the second; both name threshold.a=0.999999",
)
def test_self_training_that_selects_nothing_is_stopped_with_the_threshold_named(tmp_path: Path) -> None:
    messages: list[str] = []
    outcome = train(
        configured("per_class", threshold=0.999999, health={"st_inactive_evals": 2}), tmp_path,
        observer=lambda progress: messages.append(progress.message),
    )  # fmt: skip
    assert (outcome.state, outcome.stop_reason) == ("STOPPED", "st_inactive")
    assert outcome.health["st_inactive"] == 8
    warned, broken = [m for m in messages if m.startswith("st_inactive")]
    assert "after 2 evaluations like this one the run stops" in warned and "2 evaluations in a row" in broken
    assert "threshold.a=0.999999" in warned and "threshold.a=0.999999" in broken


@pytest.mark.parametrize("recipe", ["two_phase", "per_class", "supervised"])
def test_no_step_waits_for_the_device(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = RECIPES[recipe]
    inner = kind.step
    steps = []

    def watched(self: Any, *args: Any) -> Any:
        steps.append(1)
        with no_host_sync():
            return inner(self, *args)

    monkeypatch.setattr(kind, "step", watched)
    run_whole(recipe, tmp_path, steps=6)
    assert len(steps) == 6


def test_training_never_reads_the_mask_of_an_unlabeled_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Dataset] = []

    def remember(cfg: Any, base: Any, **kwargs: Any) -> Dataset:
        opened.append(blocks_dataset())
        return opened[-1]

    monkeypatch.setattr(trainable.session, "open_dataset", remember)
    run_whole("per_class", tmp_path)
    read = set(opened[0].source.read)  # type: ignore[attr-defined]
    assert read and not read & set(opened[0].splits["unlabeled"])


@pytest.mark.fault(
    19,
    how="a run folder whose checkpoint was made with another batch size",
    saw="refused: `train.batch_size is 2 there and 4 here`",
)
def test_a_checkpoint_of_another_configuration_is_refused_with_both_values(tmp_path: Path) -> None:
    run_whole("supervised", tmp_path)
    with pytest.raises(Exception, match=r"train\.batch_size is 2 there and 4 here"):
        train(configured("supervised", batch_size=4), tmp_path)


def test_per_class_learns_the_blocks(tmp_path: Path) -> None:
    outcome, _ = run_whole(
        "per_class", tmp_path, steps=60, eval_every_steps=20, batch_size=4, loss={"class_weights": "none"},
        ema_decay=0.8, optimizer={"lr": 0.05, "warmup_steps": 5, "head_lr_mult": 1.0},
    )  # fmt: skip
    assert outcome.best_value is not None and outcome.best_value > 0.6
