"""diverse_head: the heads, one step against plain loops, freezing, and the schedule."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support.steps import NAMES, Bench, bench, views
from trainable.config import resolve
from trainable.models import Segmenter
from trainable.optimizers import Optimizer
from trainable.recipes import get_recipe
from trainable.recipes.diverse_head import Keep
from trainable.task import Task

HEADS = {"num_heads": 4, "head_channels": 8, "freeze_start_step": 2, "freeze_draws": 2}
FIXED = {"optimizer": {"momentum": 0.0, "weight_decay": 0.0, "lr": 0.01}}
ALL = {"keep": [1.0] * 4, "head": [1.0]}


def batch() -> dict[str, Any]:
    return {"labeled": views(1), "unlabeled": views(2, 3)}


def network(made: Bench) -> Segmenter:
    net = made.nets["net"]
    assert isinstance(net, Segmenter)
    return net


def with_preset(preset: str | None, **train: Any) -> Any:
    kind = get_recipe("diverse_head")
    cfg = resolve(kind.config, preset=kind.preset_values(preset), train=train, class_names=NAMES)
    return kind(cfg, Task(NAMES, (10, 20, 30)))


def head_parameters(made: Bench) -> list[list[Tensor]]:
    return [[p.clone() for p in head.parameters()] for head in network(made).heads]


# -- networks --------------------------------------------------------------------------------------------------------


def test_heads_stand_on_the_joined_features_of_deeplabv3plus() -> None:
    made = bench("diverse_head", {"architecture": "deeplabv3plus", "encoder": "resnet50"})
    heads = network(made).heads
    assert len(heads) == 10
    for head in heads:
        assert isinstance(head, nn.Sequential)
        first, last = head[0], head[-1]
        assert isinstance(first, nn.Conv2d) and isinstance(last, nn.Conv2d)
        assert (first.in_channels, first.out_channels, first.kernel_size) == (304, 256, (3, 3))
        assert (last.in_channels, last.out_channels, last.kernel_size) == (256, 3, (1, 1))
    assert network(made).head_logits(views(1).image).shape == (10, 2, 3, 32, 32)


@pytest.mark.parametrize("architecture", ["unet", "deeplabv2", "fpn", "segformer"])
def test_heads_stand_on_any_decoder(architecture: str) -> None:
    made = bench("diverse_head", HEADS | {"architecture": architecture})
    out = made.step(batch(), 3)
    assert bool(out.losses["loss/total"].isfinite())


def test_every_head_begins_with_weights_of_its_own() -> None:
    firsts = [parameters[0] for parameters in head_parameters(bench("diverse_head", HEADS))]
    assert all(not torch.equal(firsts[0], other) for other in firsts[1:])


def test_only_the_encoders_batch_norm_gets_the_momentum() -> None:
    net = network(bench("diverse_head", HEADS | {"bn_momentum": 0.01}))
    inside = [m.momentum for m in net.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    outside = [m.momentum for m in net.heads.modules() if isinstance(m, nn.BatchNorm2d)]
    assert set(inside) == {0.01} and set(outside) == {0.1}


def test_the_answer_is_the_softmax_of_the_heads_sum() -> None:
    made = bench("diverse_head", HEADS)
    net, image = network(made).eval(), views(1).image
    with torch.no_grad():
        heads = net.head_logits(image)
        found = made.recipe.probabilities(made.nets, image)
    assert torch.allclose(found, sum(heads[k] for k in range(4)).softmax(1), atol=1e-6)  # type: ignore[union-attr]
    assert not torch.allclose(found, heads.mean(0).softmax(1), atol=1e-3)


# -- one step --------------------------------------------------------------------------------------------------------


def reference(made: Bench, data: dict[str, Any], head: int, mean_weight: float) -> dict[str, Tensor]:
    """The losses in plain loops."""
    net = copy.deepcopy(network(made))
    labeled, unlabeled = data["labeled"], data["unlabeled"]
    with torch.no_grad():
        heads = net.head_logits(torch.cat([labeled.image, unlabeled.image]))
        if not made.recipe.cfg.joint_forward:
            heads = torch.cat([net.head_logits(labeled.image), net.head_logits(unlabeled.image)], 1)
    number, images = heads.shape[:2]
    supervised = sum(
        F.cross_entropy(heads[k, : len(labeled.image)], labeled.label, ignore_index=255) for k in range(number)
    )
    valid = torch.cat([labeled.valid, unlabeled.valid])
    target = torch.full(valid.shape, 255)
    summed = heads.sum(0)
    for i in range(images):
        for y in range(valid.shape[1]):
            for x in range(valid.shape[2]):
                votes = [0.0] * 3
                for k in range(number):
                    votes[int(heads[k, i, :, y, x].argmax())] += 1
                votes[int(summed[i, :, y, x].argmax())] += mean_weight
                if valid[i, y, x]:
                    target[i, y, x] = int(np.argmax(votes))
    return {"sup": torch.as_tensor(supervised), "st": F.cross_entropy(heads[head], target, ignore_index=255)}


@pytest.mark.parametrize(("head", "mean_weight", "joint"), [(0, 5.0, True), (3, 0.5, False)])
def test_losses_are_those_of_plain_loops(head: int, mean_weight: float, joint: bool) -> None:
    own = {"vote_mean_weight": mean_weight, "st": {"weight": 7.5}, "joint_forward": joint}
    made = bench("diverse_head", HEADS | own)
    expected = reference(made, batch(), head, mean_weight)
    out = made.step(batch(), 1, keep=[1.0] * 4, head=[float(head)])
    assert out.losses["loss/sup"].item() == pytest.approx(expected["sup"].item(), rel=1e-4)
    assert out.losses["loss/st"].item() == pytest.approx(expected["st"].item(), rel=1e-4)
    total = expected["sup"] + 7.5 * expected["st"]
    assert out.losses["loss/total"].item() == pytest.approx(total.item(), rel=1e-4)
    assert out.target is not None
    assert out.target.stats["st/pixels_selected"].item() == 5 * 32 * 31 == out.target.stats["st/pixels_seen"].item()


def test_one_head_learns_the_vote() -> None:
    """Without labels, the heads that are not drawn get no gradient."""
    made = bench("diverse_head", HEADS | {"optimizer": FIXED["optimizer"] | {"lr": 1.0}})
    data = batch()
    data["labeled"].label.fill_(255)
    before = head_parameters(made)
    made.step(data, 1, keep=[1.0] * 4, head=[2.0])
    pairs = zip(before, head_parameters(made), strict=True)
    moved = [not all(map(torch.equal, old, new)) for old, new in pairs]
    assert moved == [False, False, True, False]


def test_frozen_heads_stay_and_everything_else_moves() -> None:
    made, free = bench("diverse_head", HEADS | FIXED), bench("diverse_head", HEADS | FIXED)
    before = head_parameters(made)
    made.step(batch(), 3, keep=[0.0, 1.0, 0.0, 1.0], head=[0.0])
    free.step(batch(), 3, **ALL | {"head": [0.0]})  # type: ignore[arg-type]
    after, unfrozen = head_parameters(made), head_parameters(free)
    for k in range(4):
        for old, new, other in zip(before[k], after[k], unfrozen[k], strict=True):
            assert torch.equal(new, old if k in (0, 2) else other)
    # The heads' own losses still reach the encoder through the frozen heads.
    for a, b in zip(network(made).encoder.parameters(), network(free).encoder.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_neither_momentum_nor_decay_moves_a_frozen_head(name: str) -> None:
    """Against a plain optimizer that never hears of the frozen heads' parameters in that step."""
    train = HEADS | {"optimizer": {"name": name, "momentum": 0.9, "weight_decay": 0.1}}
    made, other = bench("diverse_head", train), bench("diverse_head", train | {"freeze_draws": 0})
    keeps = ([1.0] * 4, [0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0])
    for step, keep in enumerate(keeps, 1):
        before = head_parameters(made)
        made.step(batch(), step, keep=keep, head=[0.0])
        after = head_parameters(made)
        stayed = [all(map(torch.equal, old, new)) for old, new in zip(before, after, strict=True)]
        assert stayed == [k == 0 for k in keep]
        for head, learns in zip(network(other).heads, keep, strict=True):
            head.requires_grad_(learns == 1)
        other.step(batch(), step, keep=[1.0] * 4, head=[0.0])
        network(other).heads.requires_grad_(True)
    for a, b in zip(network(made).heads.parameters(), network(other).heads.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_before_its_start_the_vote_takes_no_part() -> None:
    made = bench("diverse_head", HEADS)
    out = made.step({"labeled": views(1)}, 0, **ALL)  # type: ignore[arg-type]
    assert out.target is None and "loss/st" not in out.losses
    assert out.losses["loss/total"] == out.losses["loss/sup"]


# -- draws and schedules ---------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_as_many_heads_freeze_as_were_drawn_or_fewer(heads: int, draws: int, seed: int) -> None:
    keep = Keep(heads, draws, 5)
    assert keep(np.random.default_rng(seed), 4).tolist() == [1.0] * heads
    found = keep(np.random.default_rng(seed), 5)
    frozen = int((found == 0).sum())
    assert set(found.tolist()) <= {0.0, 1.0} and min(draws, 1) <= frozen <= min(draws, heads)
    assert found.dtype == np.float32


def test_draws_repeat_and_spare_no_head() -> None:
    keep = Keep(10, 5, 0)
    rng = np.random.default_rng(0)
    frozen = np.stack([keep(rng, 0) == 0 for _ in range(4000)])
    assert frozen.mean(0) == pytest.approx(1 - 0.9**5, abs=0.03)
    assert set(frozen.sum(1)) == {1, 2, 3, 4, 5} or set(frozen.sum(1)) == {2, 3, 4, 5}


def test_the_drawn_head_is_any_of_them() -> None:
    (phase,) = with_preset("DF").phases()
    rng = np.random.default_rng(0)
    assert {int(phase.draws["head"](rng, 0)[0]) for _ in range(300)} == set(range(10))


def test_presets_are_those_of_the_two_scripts() -> None:
    freezing, dropout = with_preset("DF").cfg, with_preset("DT").cfg
    assert (freezing.st.weight, freezing.freeze_draws, freezing.head_dropout) == (7.5, 5, 0.0)
    assert freezing.freeze_start_step == 3500
    assert (dropout.st.weight, dropout.freeze_draws, dropout.head_dropout) == (15.0, 0, 0.5)
    for cfg in (freezing, dropout):
        assert (cfg.steps, cfg.batch_size, cfg.num_heads, cfg.vote_mean_weight) == (15_000, 5, 10, 5.0)
        assert cfg.bn_momentum == 0.01 and not cfg.joint_forward
        assert cfg.optimizer.lr * cfg.optimizer.head_lr_mult == pytest.approx(0.01)


def test_the_rates_of_the_encoder_and_of_the_heads_each_fall_to_the_floor() -> None:
    spec = with_preset("DF").phases()[0].optimizers["net"]
    net = nn.Module()
    net.encoder, net.heads = nn.Linear(1, 1), nn.Linear(1, 1)
    made, last = Optimizer(spec, {"net": net}), 1e-2 * (1 / 15_000) ** 0.9
    expected = {0: [1e-3, 1e-2], 7_500: [1e-3 * 0.5**0.9, 1e-2 * 0.5**0.9], 14_999: [1e-6, last], 15_000: [1e-6] * 2}
    for step, rates in expected.items():
        made.set_lr(spec.lr(step))
        assert [group["lr"].item() for group in made.state_dict()["param_groups"]] == pytest.approx(rates)
        assert made.lr.item() == pytest.approx(rates[0])


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_other_schedules_have_no_floor(schedule: str) -> None:
    spec = with_preset(None, optimizer={"schedule": schedule, "warmup_steps": 10}).phases()[0].optimizers["net"]
    assert spec.lr_floor == spec.lr(0) == 0 and spec.lr(10) == pytest.approx(1e-3)
    assert (spec.lr(14_999) < 1e-9) == (schedule == "cosine")
