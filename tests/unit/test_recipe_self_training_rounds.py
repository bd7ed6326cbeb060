"""Self-training in rounds: how the steps are shared, what becomes a target, what a round leaves behind."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load

from tests.support.images import Blocks, dots_dataset
from tests.support.recipe_rows import ROWS, run_row
from trainable import losses
from trainable.config import resolve
from trainable.data.augment import Views, make_views, normalize
from trainable.data.loaders import StreamSampler
from trainable.data.tone import standardized
from trainable.errors import ConfigError
from trainable.metrics.particles import find_centers, match_points
from trainable.optimizers import Optimizer
from trainable.recipes.interface import PhaseContext
from trainable.recipes.particles import ParticleExaminer
from trainable.recipes.rounds_config import SelfTrainingRoundsConfig
from trainable.recipes.self_training_rounds import SelfTrainingRounds
from trainable.state import Report
from trainable.task import Task

STILL: dict[str, Any] = {
    "rotate_p": 0.0, "elastic_p": 0.0, "flip": False, "contrast_p": 0.0, "blur_p": 0.0, "noise_p": 0.0, "ice_p": 0.0,
}  # fmt: skip
"""No change of an image at all."""
ROW = next(row for row in ROWS if row.recipe == "self_training_rounds")


def made(**train: Any) -> SelfTrainingRounds:
    tiny = {"architecture": "unet", "encoder": "tu-test_resnet", "encoder_weights": None}
    cfg = resolve(SelfTrainingRoundsConfig, train=tiny | train)
    assert isinstance(cfg, SelfTrainingRoundsConfig)
    return SelfTrainingRounds(cfg, SelfTrainingRounds.adapt(Task(("background", "particle"), (3, 1))))


@given(st.integers(1, 20), st.integers(1, 500), st.floats(0.01, 0.99))
def test_the_phases_share_all_steps_and_none_is_empty(number: int, more: int, share: float) -> None:
    lengths = made(steps=number + more, rounds={"number": number, "init_share": share}).lengths()
    assert sum(lengths) == number + more and len(lengths) == number + 1 and min(lengths) >= 1
    assert max(lengths[1:]) - min(lengths[1:]) <= 1


def test_fewer_steps_than_phases_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps must be above rounds.number"):
        made(steps=3, rounds={"number": 3})


def test_more_than_two_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="two classes"):
        SelfTrainingRounds.adapt(Task(("a", "b", "c"), (1, 1, 1)))


def test_the_rate_restarts_within_the_beginning_and_is_constant_in_the_rounds() -> None:
    recipe = made(steps=1000, rounds={"lr": 0.02}, optimizer={"lr": 0.1, "restart_steps": 100, "restart_floor": 0.01})
    rate = recipe.phases()[0].optimizers["net"].lr
    assert [rate(step) for step in (0, 100, 300)] == pytest.approx([0.1] * 3)
    assert rate(50) == pytest.approx(0.1 * (0.01 + 0.99 / 2)) and rate(99) == pytest.approx(0.001, rel=0.1)
    later = recipe.phases()[1].optimizers["net"]
    assert (later.name, later.lr(0), later.lr(99), later.weight_decay) == ("adam", 0.02, 0.02, 0.0)
    assert all(phase.fresh_optimizers for phase in recipe.phases())


def context(recipe: SelfTrainingRounds, phase: int, maps: dict[str, dict[int, np.ndarray[Any, Any]]],
            labels: dict[int, np.ndarray[Any, Any]], written: dict[int, Any]) -> PhaseContext:  # fmt: skip
    def predict(split: str) -> Any:
        return iter((i, np.stack([1 - p, p]).astype(np.float32)) for i, p in maps[split].items())

    return PhaseContext(
        nets=recipe.build(), phase=phase, predict=predict, image=lambda i: np.zeros((1, 4, 3), np.uint8),
        labels=labels.__getitem__, targets={}, write=written.__setitem__, save=lambda name, content: None, metrics={},
        remember={},
    )  # fmt: skip


@pytest.mark.parametrize("keep", [False, True])
def test_targets_follow_the_thresholds_of_the_round_and_marks_overrule(keep: bool) -> None:
    recipe = made(steps=100, rounds={"keep_original_negatives": keep})
    sure = np.array([[0.94, 0.5, 0.06, 0.06]])
    maps, labels = {"labeled": {4: sure}, "unlabeled": {7: sure}}, {4: np.array([[0, 0, 0, 1]], np.uint8)}
    expected = {1: [[255, 255, 255, 255]], 2: [[1, 255, 0, 0]]}
    for number, unlabeled in expected.items():
        written: dict[int, Any] = {}
        given = context(recipe, number, maps, labels, written)
        given.remember["lr_scale/net"] = 0.5
        recipe.begin_phase(recipe.phases()[number], given)
        assert given.remember["lr_scale/net"] == 1.0
        assert written[7].tolist() == unlabeled and written[7].dtype == np.uint8
        marked = [[0, 0, 0, 1]] if keep else [[*unlabeled[0][:3], 1]]
        assert written[4].tolist() == marked


def test_a_step_follows_the_formula() -> None:
    recipe = made(loss={"focal": 0.6, "dice": 0.4, "pos_weight": 3.0}, augment=STILL | {"standardize": False})
    torch.manual_seed(0)
    nets, spec = recipe.build(), recipe.phases()[0].optimizers["net"]
    label = torch.randint(0, 2, (2, 32, 32))
    label[0, :5] = 255
    view = Views(torch.randn(2, 3, 32, 32), label, torch.ones_like(label, dtype=torch.bool), (), (), torch.arange(2))
    nets["net"].train()
    state = {name: value.clone() for name, value in nets["net"].state_dict().items()}
    logit = nets["net"](view.image)[:, 0].double()
    nets["net"].load_state_dict(state)
    known, truth, p = label != 255, (label == 1).double(), logit.sigmoid()
    entropy = -3.0 * truth * p.log() - (1 - truth) * (1 - p).log()
    right = torch.where(truth > 0, p, 1 - p)
    focal = (torch.where(truth > 0, 0.25, 0.75) * (1 - right) ** 2 * entropy)[known].mean()
    dice = 1 - (2 * (p * truth)[known].sum() + 1) / (p[known].sum() + truth[known].sum() + 1)
    opt = {"net": Optimizer(spec, nets)}
    out = recipe.step(nets, {"labeled": view}, {}, opt)
    assert out.losses["loss/total"].item() == pytest.approx((0.6 * focal + 0.4 * dice).item(), rel=1e-4)
    assert out.target is None and out.losses["loss/sup"] is out.losses["loss/total"]
    again = recipe.step(nets, {"pseudo": view}, {}, opt)
    assert again.target is not None and int(again.target.stats["st/pixels_selected"]) == int(known.sum())
    assert "loss/st" in again.losses and "loss/sup" not in again.losses


def test_picks_are_matched_with_the_points_of_every_image() -> None:
    data, examiner = dots_dataset(), ParticleExaminer(5, 5, 0.5)
    positions = data.positions("val")
    seen, halves, found = [], [], 0
    for position in positions:
        mask = data.source.mask(position)
        seen.append(examiner.see(np.stack([1.0 - mask, mask]).astype(np.float32), mask, data.points[position]))
    whole = examiner.scores(seen)
    assert whole["val/particle_f1"] == 1.0 and whole["val/auc_binary"] == 1.0
    for position in positions:
        mask = data.source.mask(position).copy()
        mask[:, :32] = 0
        answer = np.stack([1.0 - mask, mask]).astype(np.float32)
        halves.append(examiner.see(answer, data.source.mask(position), data.points[position]))
        picked, _ = find_centers(mask.astype(np.float64), radius=5)
        found += len(match_points(picked, np.array(data.points[position]), 5).pairs)
    total = sum(len(data.points[position]) for position in positions)
    assert 0 < found < total and examiner.scores(halves)["val/particle_recall"] == found / total
    nothing = ParticleExaminer(0, 1, 0.5)
    blank = nothing.see(np.zeros((2, 4, 4), np.float32), np.full((4, 4), 255, np.uint8), None)
    assert set(nothing.scores([blank]).values()) == {None}


def test_every_round_leaves_weights_metrics_and_a_figure(tmp_path: Path) -> None:
    reports: list[Any] = []
    run_row(ROW, tmp_path, report=reports.append)
    by_step = {report.step: report.record for report in reports}
    widths = []
    for number, step in enumerate((6, 9, 12)):
        folder = tmp_path / "rounds" / f"round-{number}"
        kept = json.loads((folder / "metrics.json").read_text())
        assert kept["round"] == number and kept["val/f1"] == by_step[step]["val/f1"]
        assert ("threshold.positive" in kept) == (number > 0)
        assert load((folder / "weights.safetensors").read_bytes())
        widths.append(Image.open(io.BytesIO((folder / "panels.png").read_bytes())).width)
    assert widths[1] == widths[2] == pytest.approx(widths[0] * 4 / 3, abs=2)


def pseudo_view(count: int = 4) -> Views:
    """Labels 0 and 1 on the left, none on the right."""
    label = torch.randint(0, 2, (count, 32, 32), generator=torch.Generator().manual_seed(0))
    label[..., 20:] = 255
    image = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return Views(image, label, torch.ones_like(label, dtype=torch.bool), (), (), torch.arange(count))


def learned_labels(recipe: SelfTrainingRounds, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The labels that a step of a round learns."""
    seen: list[torch.Tensor] = []
    inner = losses.binary_focal_loss

    def watched(logits: Any, label: torch.Tensor, **kwargs: Any) -> Any:
        seen.append(label)
        return inner(logits, label, **kwargs)

    monkeypatch.setattr(losses, "binary_focal_loss", watched)
    nets = recipe.build()
    torch.manual_seed(5)
    recipe.step(nets, {"pseudo": pseudo_view()}, {}, {"net": Optimizer(recipe.phases()[1].optimizers["net"], nets)})
    return seen[0]


def test_what_has_no_label_moves_with_the_image_unless_the_flaw_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    only_mirrored = STILL | {"flip": True}
    right = learned_labels(made(augment=only_mirrored), monkeypatch)
    torch.manual_seed(5)
    moved = made(augment=only_mirrored).augmented(pseudo_view()).label
    assert torch.equal(right, moved)
    left = (right[..., :12] == 255).flatten(1).all(1)
    assert bool(left.any()) and bool((right[~left][..., 20:] == 255).all())
    wrong = learned_labels(made(augment=only_mirrored, rounds={"legacy_static_ignore": True}), monkeypatch)
    assert bool((wrong[..., 20:] == 255).all()) and bool((wrong[..., :20] != 255).all())
    assert bool((wrong[left][..., :12] == 0).all())


@pytest.mark.parametrize("flaw", [False, True])
def test_targets_are_predicted_on_images_as_stored_unless_the_flaw_is_asked_for(flaw: bool) -> None:
    recipe = made(rounds={"legacy_augmented_targets": flaw}, threshold={"positive": 0.6, "negative": 0.4})
    nets = recipe.build()
    nets["net"].eval()
    image = pseudo_view(1).image
    plain = recipe.probabilities(nets, image)
    found: list[torch.Tensor] = []

    def predict(split: str) -> Any:
        found.append(recipe.probabilities(nets, image))
        return iter([(0, found[-1][0].detach().numpy())])

    labels = {0: np.zeros((32, 32), np.uint8)}
    ctx = context(recipe, 1, {}, labels, {})
    ctx = PhaseContext(**{**vars(ctx), "predict": predict, "nets": nets})
    torch.manual_seed(2)
    recipe.begin_phase(recipe.phases()[1], ctx)
    assert len(found) == 2 and all(torch.equal(one, plain) != flaw for one in found)
    assert torch.equal(recipe.probabilities(nets, image), plain)


def test_an_image_is_scaled_by_itself_in_training_and_in_prediction() -> None:
    recipe = made(augment=STILL)
    nets = recipe.build()
    nets["net"].eval()
    seen = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    one, dark = recipe.probabilities(nets, normalize(seen)), recipe.probabilities(nets, normalize(0.2 + 0.3 * seen))
    torch.testing.assert_close(one, dark, rtol=1e-3, atol=1e-4)
    whole = torch.ones(2, 32, 32, dtype=torch.bool)
    view = Views(normalize(seen), whole.long(), whole, (), (), torch.arange(2))
    learned = recipe.augmented(view).image
    torch.testing.assert_close(learned, standardized(seen, whole), rtol=1e-3, atol=1e-4)
    net = nets["net"]
    torch.testing.assert_close(one[:, 1:], net(learned).sigmoid(), rtol=1e-3, atol=1e-4)
    other = made(augment=STILL | {"standardize": False})
    assert torch.equal(other.probabilities(nets, normalize(seen))[:, 1:], net(other.augmented(view).image).sigmoid())


def test_a_crop_is_learned_as_it_is_predicted_within_its_image() -> None:
    source = Blocks([(64, 64)] * 2, 2)
    for image in source.images:
        image[:, :32], image[:, 32:] = 60, 200
    recipe = made(augment=STILL, crop_size=32, batch_size=8)
    for phase in recipe.phases()[:2]:
        (stream,) = phase.streams
        targets = dict(enumerate(source.masks))
        view = make_views(StreamSampler(stream, source, [0, 1], [(64, 64)] * 2, seed=1, targets=targets).batch(0))
        learned = recipe.augmented(view).image
        # Of the whole images every value is -1 or 1; of a crop that is uneven they would be others.
        assert ((learned.abs() - 1).abs() < 1e-3).float().mean() > 0.9
        assert learned.mean((1, 2, 3)).abs().max() > 0.3
    assert not made(augment=STILL | {"standardize": False}).phases()[0].streams[0].levels


def test_tversky_takes_the_place_of_dice() -> None:
    recipe = made(augment=STILL, loss={"region": "tversky", "tversky_alpha": 0.2, "tversky_beta": 0.9, "focal": 0.5})
    torch.manual_seed(0)
    nets = recipe.build()
    view = pseudo_view()
    state = {name: value.clone() for name, value in nets["net"].state_dict().items()}
    p = nets["net"](recipe.augmented(view).image)[:, 0].double().sigmoid()
    nets["net"].load_state_dict(state)
    known, truth = view.label != 255, (view.label == 1).double()
    hit = (p * truth)[known].sum()
    wrong = 0.2 * (p * (1 - truth))[known].sum() + 0.9 * ((1 - p) * truth)[known].sum()
    found = recipe.step(
        nets, {"labeled": view}, {}, {"net": Optimizer(recipe.phases()[0].optimizers["net"], nets)}
    ).losses
    assert found["loss/tversky"].item() == pytest.approx((1 - (hit + 1) / (hit + wrong + 1)).item(), rel=1e-4)
    total = 0.5 * found["loss/focal"] + 0.3 * found["loss/tversky"]
    assert found["loss/total"].item() == pytest.approx(total.item(), rel=1e-5) and "loss/dice" not in found


def test_asked_to_stop_while_targets_are_written_it_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[Report] = []
    run_row(ROW, tmp_path / "whole", report=whole.append)
    writing = False
    begin = SelfTrainingRounds.begin_phase

    def watched(self: Any, phase: Any, context: PhaseContext) -> None:
        nonlocal writing
        writing = context.phase == 1
        begin(self, phase, context)
        writing = False

    monkeypatch.setattr(SelfTrainingRounds, "begin_phase", watched)
    reports: list[Report] = []
    paused = run_row(
        ROW, tmp_path / "broken", report=reports.append, should_stop=lambda: "stop" if writing else None
    )
    assert (paused.state, paused.step) == ("PAUSED", reports[-1].step) and writing
    monkeypatch.undo()
    assert run_row(ROW, tmp_path / "broken", report=reports.append).state == "COMPLETE"
    assert {r.step: r.record for r in reports} == {r.step: r.record for r in whole}
