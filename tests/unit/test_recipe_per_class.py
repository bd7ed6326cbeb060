"""per_class: the documented configurations, and one step against the formulas in plain loops."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.steps import NAMES, Bench, bench, views
from trainable.config import per_class, resolve
from trainable.errors import ConfigError
from trainable.models import Segmenter
from trainable.recipes import get_recipe
from trainable.task import Task

LAND = ("background", "Badan Air", "Bangunan", "Jalan", "Pohon Berinang", "Snake Fruit", "Tanah Terbuka")
AS_SEEN = {"strong_view": False, "teacher": "student", "joint_forward": False, "st": {"start_step": 2, "weight": 1.5}}
EXACT = {"head_dropout": 0.0, "head_dropout_step": 0.0, "num_heads": 2, "threshold": {"a": 0.0, "b": 0.36, "c": 0.34}}
PLAIN = {"optimizer": {"momentum": 0.0, "weight_decay": 0.0, "lr": 0.01, "warmup_steps": 0}, "grad_clip": 0.0}


def documented(preset: str) -> Any:
    kind = get_recipe("per_class")
    cfg = resolve(kind.config, preset=kind.preset_values(preset), class_names=LAND)
    return kind(cfg, Task(LAND, (10,) * 7))


def test_the_documented_thresholds_stand_by_class_in_order() -> None:
    v30, v31 = (per_class(documented(name).cfg.threshold, LAND) for name in ("V3.0", "V3.1"))
    assert v30 == (0.0, 0.60, 0.65, 0.70, 0.65, 0.55, 0.60)
    assert v31 == (0.0, 0.50, 0.55, 0.60, 0.55, 0.45, 0.50)


def test_the_documented_rates_and_weights_by_step() -> None:
    v30, v31 = documented("V3.0"), documented("V3.1")
    for recipe, steps, lr, warmup in ((v30, 50_000, 2.5e-4, 1000), (v31, 75_000, 3e-4, 1500)):
        (phase,) = recipe.phases()
        spec = phase.optimizers["net"]
        assert phase.steps == steps and (spec.head_lr_mult, spec.momentum, spec.weight_decay) == (10, 0.9, 5e-4)
        assert spec.clip == 10 and spec.name == "sgd"
        assert [spec.lr(step) for step in (0, warmup // 2, warmup)] == pytest.approx([0, lr / 2, lr])
        assert spec.lr(warmup + (steps - warmup) // 2) == pytest.approx(lr / 2)
        assert phase.schedules["ema_decay"](0) == phase.schedules["ema_decay"](steps - 1) == 0.9995
    assert [v30.st_weight(step) for step in (499, 500, 49_999)] == [0.0, 1.0, 1.0]
    assert [v31.st_weight(step) for step in (499, 500, 74_999)] == [0.0, 1.5, 1.5]
    scales = [
        (stream.multiscale.low, stream.multiscale.high, stream.multiscale.every)
        for stream in (v30.labeled_stream(), v31.labeled_stream())
        if stream.multiscale is not None
    ]
    assert scales == [(256, 384, 10), (256, 320, 10)]
    assert [recipe.cfg.patience for recipe in (v30, v31)] == [15, 40]


def test_three_heads_drop_0_10_0_15_and_0_20() -> None:
    cfg = documented("V3.1").cfg
    made = bench("per_class", {name: getattr(cfg, name) for name in ("num_heads", "head_dropout", "head_dropout_step")})
    net = made.nets["net"]
    assert isinstance(net, Segmenter)
    shares = [module.p for module in net.head_dropout if isinstance(module, nn.Dropout)]
    assert shares == pytest.approx([0.1, 0.15, 0.2])


def composite(logits: Tensor, label: Tensor, class_weight: Tensor) -> Tensor:
    """0.4 CE + 0.4 Dice + 0.2 Focal in plain loops over images, classes and pixels."""
    probability, ce, weights, focal, counted = logits.softmax(1), torch.zeros(()), 0.0, torch.zeros(()), 0
    dice = []
    for n in range(len(label)):
        known = label[n] != 255
        for c in range(logits.shape[1]):
            truth, p = ((label[n] == c) & known).float(), probability[n, c] * known
            dice.append((2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1))
        for y, x in known.nonzero().tolist():
            c = int(label[n, y, x])
            p_t = probability[n, c, y, x]
            ce, weights = ce - class_weight[c] * p_t.log(), weights + class_weight[c].item()
            focal, counted = focal - 0.25 * (1 - p_t) ** 2 * p_t.log(), counted + 1
    return 0.4 * ce / max(weights, 1e-12) + 0.4 * (1 - torch.stack(dice).mean()) + 0.2 * focal / max(counted, 1)


def balanced() -> Tensor:
    """N / (C n_c) of the three classes' 10, 20 and 30 pixels."""
    return torch.tensor([60 / (3 * n) for n in (10.0, 20.0, 30.0)])


@pytest.mark.parametrize("selecting", [True, False])
def test_a_step_is_the_formula(selecting: bool) -> None:
    thresholds = EXACT["threshold"] if selecting else {"a": 0.99, "b": 0.99, "c": 0.99}
    made = bench("per_class", AS_SEEN | EXACT | PLAIN | {"threshold": thresholds, "deep_supervision": 0.5})
    net = copy.deepcopy(made.nets["net"])
    data = {"labeled": views(1, side=16), "unlabeled": without_strong()}
    labeled, unlabeled = data["labeled"], data["unlabeled"]
    net.eval()
    with torch.no_grad():
        mean = net.head_logits(unlabeled.image).softmax(2).mean(0)  # type: ignore[operator]
    confidence, label = mean.max(1)
    limits = torch.tensor([thresholds[name] for name in NAMES])  # type: ignore[index]
    target = torch.where((confidence > limits[label]) & unlabeled.valid, label, 255)
    net.train()
    heads = net.head_logits(labeled.image)  # type: ignore[operator]
    supervised = composite(heads.mean(0), labeled.label, balanced())
    supervised = supervised + 0.5 * sum(composite(one, labeled.label, balanced()) for one in heads)
    taught = composite(net(unlabeled.image), target, balanced())
    (supervised + 1.5 * taught).backward()
    out = made.step(data, 2)
    assert out.losses["loss/sup"].item() == pytest.approx(supervised.item(), rel=1e-4)
    assert out.losses["loss/st"].item() == pytest.approx(taught.item(), rel=1e-4, abs=1e-7)
    assert out.losses["loss/total"].item() == pytest.approx((supervised + 1.5 * taught).item(), rel=1e-4)
    assert out.target is not None and torch.equal(out.target.label, target)
    assert bool((target != 255).any()) == selecting and (selecting or out.losses["loss/st"] == 0)
    rate = made.recipe.phases()[0].optimizers["net"].lr(2)
    for (name, new), old in zip(made.nets["net"].named_parameters(), net.parameters(), strict=True):
        factor = rate * (1 if name.startswith("encoder.") else 10)
        assert torch.allclose(new, old - factor * old.grad, atol=1e-5), name  # type: ignore[operator]


def without_strong() -> Any:
    view = views(2, 3, side=16)
    return type(view)(view.image, view.label, view.valid, (), (), view.index)


def test_before_its_start_there_is_the_labeled_loss_alone() -> None:
    made = bench("per_class", AS_SEEN | EXACT)
    out = made.step({"labeled": views(1)}, 1)
    assert out.target is None and "loss/st" not in out.losses and out.losses["loss/total"] == out.losses["loss/sup"]


def averaged(made: Bench, buffers: str) -> dict[str, Tensor]:
    """What the average must be after a step at decay 0.75, from the networks before and after."""
    before = {name: value.clone() for name, value in made.nets["ema"].state_dict().items()}
    made.step({"labeled": views(1)}, 1, ema_decay=0.75)
    found = made.nets["net"].state_dict()
    statistics = {name for name, _ in made.nets["net"].named_buffers()}
    return {
        name: value if buffers == "copy" and name in statistics or not value.is_floating_point()
        else 0.75 * before[name] + 0.25 * value
        for name, value in found.items()
    }  # fmt: skip


@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_the_average_follows_weights_and_running_statistics_as_told(buffers: str) -> None:
    made = bench("per_class", AS_SEEN | EXACT | {"ema_buffers": buffers})
    expected = averaged(made, buffers)
    for name, value in made.nets["ema"].state_dict().items():
        assert torch.allclose(value.double(), expected[name].double(), atol=1e-6), name
    assert made.recipe.evaluated == "ema" and not made.nets["ema"].training


def test_the_average_labels_in_evaluation_mode_for_the_strong_view() -> None:
    made = bench("per_class", EXACT | PLAIN | {"teacher": "ema", "st": {"start_step": 0}, "head_dropout": 0.5})
    with torch.no_grad():
        for parameter in made.nets["ema"].parameters():
            parameter.mul_(1.1)
        mean = made.nets["ema"].head_logits(views(2, 3).image).softmax(2).mean(0)  # type: ignore[operator]
    out = made.step({"labeled": views(1), "unlabeled": views(2, 3)}, 0, seed=5)
    assert out.target is not None
    chosen = out.target.label != 255
    assert torch.equal(out.target.label[chosen], mean.argmax(1)[chosen]) and bool(chosen.any())
    assert out.losses["loss/st"] > 0


def test_an_output_stride_of_8_needs_deeplabv3plus() -> None:
    kind = get_recipe("per_class")
    assert resolve(kind.config, train={"output_stride": 8}).output_stride == 8  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="output_stride must be 16 unless the architecture is deeplabv3plus"):
        resolve(kind.config, train={"output_stride": 8, "architecture": "unet"})
