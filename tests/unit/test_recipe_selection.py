"""Threshold modes inside a recipe: whose thresholds, which state, what by step, and what the loss runs over."""

from __future__ import annotations

import re
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.linear_steps import CLASSES, made, numbers
from trainable import losses
from trainable.config import resolve
from trainable.errors import ConfigError
from trainable.pseudo_labels import MODES, Numbers, alone
from trainable.recipes.cps import CPS
from trainable.recipes.per_class import PerClassThresholds
from trainable.recipes.selection import ThresholdMode, one_threshold

GIVEN = {"a": 0.5, "b": 0.6, "c": 0.7}


def predictions(seed: int) -> torch.Tensor:
    return (2 * torch.randn(2, len(CLASSES), 8, 8, generator=torch.Generator().manual_seed(seed))).softmax(1)


VALID = torch.ones(2, 8, 8, dtype=torch.bool)


def test_every_mode_can_be_configured_and_no_other() -> None:
    assert set(get_args(ThresholdMode)) == set(MODES)


@given(st.lists(st.floats(0.0, 0.999), min_size=1, max_size=9))
def test_one_threshold_lies_among_those_above_zero(thresholds: list[float]) -> None:
    value = one_threshold(tuple(thresholds))
    counted = [t for t in thresholds if t > 0]
    assert min(counted) <= value <= max(counted) if counted else value == 0.0


def test_fixed_takes_one_threshold_for_all_classes_and_per_class_each_its_own() -> None:
    assert made(PerClassThresholds, threshold=GIVEN).thresholds().tolist() == pytest.approx([0.5, 0.6, 0.7])
    fixed = made(PerClassThresholds, threshold=GIVEN, threshold_mode="fixed")
    assert fixed.thresholds().tolist() == pytest.approx([0.6, 0.6, 0.6])
    assert fixed._named_thresholds() == [(c, pytest.approx(0.6)) for c in CLASSES]


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_recipe_selects_as_its_mode_does_from_step_to_step(mode: str) -> None:
    recipe = made(
        PerClassThresholds,
        threshold=GIVEN,
        threshold_mode=mode,
        selection={"momentum": 0.6, "ramp_share": 0.1},
    )
    state = MODES[mode].init(len(CLASSES), "cpu")
    for step in (0, 5, 10, 50):
        sched = numbers(recipe, step)
        limits = recipe.thresholds()
        if mode == "linear_ramp":
            limits = 0.05 + (limits - 0.05) * min(step / 10, 1.0)
        told = Numbers(limits, 0.6, 0.5, 0.2 * (1 - step / 100), 2.0)
        expected = MODES[mode].select(state, predictions(step), VALID, told, alone)
        found = recipe.select(predictions(step), VALID, sched)
        assert torch.equal(found.label, expected.label) and torch.allclose(found.weight, expected.weight)
        assert found.stats.keys() == expected.stats.keys()
    for name, tensor in state.items():
        assert torch.allclose(recipe.state[f"selection/labels/{name}"], tensor)


def test_what_a_mode_learned_is_in_the_state_that_a_checkpoint_keeps() -> None:
    recipe = made(PerClassThresholds, threshold_mode="freematch", selection={"momentum": 0.5})
    before = {name: tensor.clone() for name, tensor in recipe.state.items()}
    recipe.select(predictions(0), VALID, numbers(recipe, 0))
    changed = {name for name, tensor in recipe.state.items() if not torch.equal(tensor, before[name])}
    assert changed == {"selection/labels/tau", "selection/labels/probability", "selection/labels/histogram"}
    other = made(PerClassThresholds, threshold_mode="freematch", selection={"momentum": 0.5})
    other.use_device_state({name: tensor.clone() for name, tensor in recipe.state.items()})
    one, two = (r.select(predictions(1), VALID, numbers(r, 1)) for r in (recipe, other))
    assert torch.equal(one.label, two.label) and torch.equal(one.stats["threshold"], two.stats["threshold"])


def test_each_labeler_has_a_state_of_its_own() -> None:
    recipe = made(CPS, threshold_mode="corr_global", selection={"momentum": 0.5})
    recipe.select(predictions(0), VALID, numbers(recipe, 0), "second")
    assert recipe.state["selection/net/tau"].item() == pytest.approx(0.85)
    assert recipe.state["selection/second/tau"].item() != pytest.approx(0.85)


def test_the_mean_over_all_pixels_weighs_few_labels_little() -> None:
    logits = torch.randn(2, 3, 8, 8)
    plain = {"ce": 1.0, "dice": 0.0, "focal": 0.0, "class_weights": "none"}
    few, over_all = (
        made(PerClassThresholds, threshold=0.8, loss=plain, selection={"normalize": how})
        for how in ("valid", "all")
    )
    target = few.select(predictions(3), VALID, numbers(few, 0))
    share = target.weight.mean()
    assert 0 < share < 1
    assert torch.allclose(
        over_all.self_training_loss(logits, target), share * few.self_training_loss(logits, target)
    )


def test_the_fairness_loss_acts_in_freematch_alone() -> None:
    logits = torch.randn(2, 3, 8, 8)
    for mode in ("fixed", "freematch"):
        without, with_it = (
            made(PerClassThresholds, threshold=0.8, threshold_mode=mode, selection={"fairness": f})
            for f in (0.0, 0.5)
        )
        for recipe in (without, with_it):
            target = recipe.select(predictions(3), VALID, numbers(recipe, 0))
        extra = with_it.self_training_loss(logits, target) - without.self_training_loss(logits, target)
        if mode == "fixed":
            assert extra == 0
            continue
        state = with_it.state
        fair = losses.fairness_loss(
            logits,
            target.weight > 0,
            state["selection/labels/probability"],
            state["selection/labels/histogram"],
        )
        assert fair < 0 and torch.allclose(extra, 0.5 * fair, atol=1e-5)


def test_a_threshold_that_every_pixel_passes_is_named_unless_it_is_0_on_purpose() -> None:
    def warned(**train: object) -> list[str | None]:
        return [r.check({}, {}) for r in made(PerClassThresholds, **train).rules() if r.name == "vacuous_threshold"]

    (text,) = warned(threshold={"a": 0.3, "b": 0.9, "c": 0.0})
    assert text is not None and "threshold.a=0.3" in text and "threshold.b" not in text and "threshold.c" not in text
    assert warned(threshold=0.34) == [] and warned(threshold=0.0) == []
    assert warned(threshold=0.3, threshold_mode="freematch") == []


@pytest.mark.parametrize("mode", ["fixed", "softmatch", "entropy_pct"])
def test_an_excluded_class_gives_no_pseudo_label_and_the_others_stay(mode: str) -> None:
    probabilities, valid = predictions(3), VALID.clone()
    valid[0, 0] = False
    plain, without = (
        made(PerClassThresholds, threshold=0.5, threshold_mode=mode, selection={"exclude_classes": names})
        for names in ((), ("b",))
    )
    full, found = (r.select(probabilities, valid, numbers(r, 3)) for r in (plain, without))
    gone = full.label == 1
    assert bool(gone.any()) and bool((found.label[gone] == 255).all()) and bool((found.weight[gone] == 0).all())
    assert torch.equal(found.label[~gone], full.label[~gone]) and torch.equal(found.weight[~gone], full.weight[~gone])
    stats = found.stats
    assert stats["st/selected"].tolist() == [(found.label == c).sum().item() for c in range(len(CLASSES))]
    assert stats["st/pixels_selected"] == (found.label != 255).sum() == stats["st/selected"].sum()
    assert torch.equal(stats["st/predicted"], full.stats["st/predicted"])
    if mode == "softmatch":
        assert stats["st/weight"] == found.weight.sum()
    everything = made(PerClassThresholds, threshold=0.0, selection={"exclude_classes": CLASSES})
    nothing = everything.select(probabilities, valid, numbers(everything, 3))
    assert nothing.stats["st/images_selected"] == 0 == nothing.weight.sum()


@pytest.mark.parametrize("knob", ["exclude_classes", "selection.exclude_classes"])
def test_only_classes_of_the_data_can_be_excluded(knob: str) -> None:
    message = f"train:{knob}: {knob} must name classes of the data (a, b, c), but got 'd'"
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve(PerClassThresholds.config, train={knob: ["a", "d"]}, class_names=CLASSES)
