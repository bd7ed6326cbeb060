"""Mean Teacher: the distance, its ramp, and the average."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from tests.support.linear_steps import labeled_views, made, take_step, unlabeled_views
from tests.unit.test_recipe_fixmatch import mean_entropy
from trainable.data.augment import mix
from trainable.recipes.mean_teacher import MeanTeacher


def test_a_step_follows_the_formula() -> None:
    recipe = made(
        MeanTeacher,
        st={"weight": 20.0, "ramp_steps": 0},
        ema_decay=0.999,
        optimizer={"weight_decay": 0.0, "head_lr_mult": 1.0},
    )
    torch.manual_seed(5)
    nets, labeled, unlabeled = recipe.build(), labeled_views(), unlabeled_views(1)
    with torch.no_grad():
        for parameter in nets["ema"].parameters():
            parameter += 0.3
    student, teacher = copy.deepcopy(nets["net"]), copy.deepcopy(nets["ema"])
    box = unlabeled.boxes[0]
    wanted, valid = mix(teacher(unlabeled.image).softmax(1).detach(), box), mix(unlabeled.valid, box)
    squared = (student(unlabeled.strong[0]).softmax(1) - wanted).square().mean(1)
    distance = squared[valid].mean()
    loss = mean_entropy(student(labeled.image), labeled.label) + 20.0 * distance
    loss.backward()
    out = take_step(recipe, nets, {"labeled": labeled, "unlabeled": unlabeled}, step=4)
    assert out.losses["loss/st"].item() == pytest.approx(distance.item(), rel=1e-5)
    assert out.losses["loss/total"].item() == pytest.approx(loss.item(), rel=1e-5)
    pairs = zip(
        student.parameters(),
        nets["net"].parameters(),
        teacher.parameters(),
        nets["ema"].parameters(),
        strict=True,
    )
    for before, after, average, moved in pairs:
        assert before.grad is not None and torch.allclose(after, before - 0.1 * before.grad, atol=1e-5)
        assert torch.allclose(moved, 0.8 * average + 0.2 * after, atol=1e-6)


def test_the_weight_rises_along_its_ramp() -> None:
    recipe = made(MeanTeacher, st={"weight": 10.0, "start_step": 5, "ramp_steps": 20})
    weights = [recipe.st_weight(step) for step in (0, 4, 5, 15, 25, 90)]
    assert weights == pytest.approx([0.0, 0.0, 10 * math.exp(-5), 10 * math.exp(-1.25), 10.0, 10.0])


def test_a_threshold_leaves_out_the_pixels_that_the_teacher_is_not_sure_of() -> None:
    batch = {"labeled": labeled_views(), "unlabeled": unlabeled_views(1)}
    found = {}
    for threshold in (0.0, 0.45, 0.999):
        recipe = made(MeanTeacher, threshold=threshold, st={"ramp_steps": 0})
        torch.manual_seed(5)
        found[threshold] = take_step(recipe, recipe.build(), batch)
    shares = [out.target.weight.sum() for out in found.values() if out.target is not None]
    assert shares[0] == batch["unlabeled"].valid.sum() and shares[0] > shares[1] > shares[2] == 0
    assert found[0.999].losses["loss/st"] == 0
