"""Weights on top of a selection, and the options of the modes: each against its rule in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.linear_steps import CLASSES, made, numbers
from tests.unit.test_pseudo_labels_modes import SEEDS, C, batch, flat, kept
from trainable.pseudo_labels import (
    MODES,
    Numbers,
    alone,
    confidence_weighted,
    image_weighted,
    select_per_class,
)
from trainable.recipes.fixmatch import FixMatch
from trainable.recipes.mean_teacher import MeanTeacher


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.0, 5.0), st.floats(0.0, 0.9))
def test_confidence_weighs_the_chosen_pixels_and_keeps_their_sum(seed: int, gamma: float, threshold: float) -> None:
    probabilities, valid = batch(seed)
    target = select_per_class(probabilities, threshold, valid)
    found = confidence_weighted(target, probabilities, gamma)
    p = probabilities.double().amax(1).numpy() * 1.0
    chosen = target.weight.numpy() > 0
    expected = np.where(chosen, p**gamma, 0.0)
    expected *= chosen.sum() / max(expected.sum(), 1e-12)
    np.testing.assert_allclose(found.weight, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.label, target.label) and found.stats["st/pixels_selected"] == chosen.sum()
    assert found.stats["st/weight"].item() == pytest.approx(float(chosen.sum()), rel=1e-4)
    surer = found.weight[torch.from_numpy(chosen)]
    order = torch.from_numpy(p[chosen]).argsort()
    assert bool((surer[order].diff() >= -1e-6).all())
    if gamma == 0.0:
        torch.testing.assert_close(found.weight, target.weight)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.3, 0.99))
def test_an_image_weighs_as_much_as_it_is_sure(seed: int, level: float) -> None:
    probabilities, valid = batch(seed)
    target = select_per_class(probabilities, 0.5, valid)
    found = image_weighted(target, probabilities, level)
    for image in range(len(valid)):
        p = probabilities[image].amax(0)[valid[image]]
        share = float((p >= level).float().mean())
        torch.testing.assert_close(found.weight[image], target.weight[image] * share)
    nothing = image_weighted(select_per_class(probabilities, 0.5, valid & ~valid), probabilities, level)
    assert not bool(nothing.weight.any()) and bool(nothing.weight.isfinite().all())


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.floats(0.1, 0.95), st.floats(0.3, 0.99))
def test_freematch_may_follow_a_quantile(seed: int, quantile: float, cap: float) -> None:
    state, tau, mean = MODES["freematch"].init(C, "cpu"), 1 / C, np.full(C, 1 / C)
    for step in range(3):
        probabilities, valid = batch(seed + step)
        p = flat(probabilities, valid)
        told = Numbers(momentum=0.7, threshold=cap, quantile=quantile)
        target = MODES["freematch"].select(state, probabilities, valid, told, alone)
        tau = 0.7 * tau + 0.3 * np.quantile(p.max(1), quantile)
        mean = 0.7 * mean + 0.3 * p.mean(0)
        limits = min(tau, cap) * mean / mean.max()
        np.testing.assert_allclose(target.stats["threshold"], limits, rtol=1e-4)
        near = np.abs(p.max(1) - limits[p.argmax(1)]) < 1e-5
        assert ((p.max(1) > limits[p.argmax(1)]) == kept(target, valid))[~near].all()
    tensors = MODES["freematch"].init(C, "cpu")
    as_tensor = Numbers(momentum=0.7, threshold=cap, quantile=torch.tensor(quantile))
    for step in range(3):
        MODES["freematch"].select(tensors, *batch(seed + step), as_tensor, alone)
    torch.testing.assert_close(tensors["tau"], state["tau"])


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.floats(0.5, 4.0))
def test_softmatch_per_class(seed: int, num_sigmas: float) -> None:
    state = MODES["softmatch_per_class"].init(C, "cpu")
    mu, variance = np.full(C, 1 / C), np.ones(C)
    for step in range(3):
        probabilities, valid = batch(seed + step, size=4)
        p = flat(probabilities, valid)
        told = Numbers(momentum=0.7, num_sigmas=num_sigmas)
        target = MODES["softmatch_per_class"].select(state, probabilities, valid, told, alone)
        label = p.argmax(1)
        for c in range(C):
            own = p.max(1)[label == c]
            if len(own) > 0:
                mu[c] = 0.7 * mu[c] + 0.3 * own.mean()
            if len(own) > 1:
                variance[c] = 0.7 * variance[c] + 0.3 * own.var(ddof=1)
        short = np.minimum(p.max(1) - mu[label], 0)
        weight = np.exp(-(short**2) / (2 * variance[label] / num_sigmas**2))
        np.testing.assert_allclose(target.weight[valid], weight, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(state["mean"], mu, rtol=1e-4)
        assert kept(target, valid).all()


@pytest.mark.parametrize("kind", [FixMatch, MeanTeacher])
def test_any_recipe_with_pseudo_labels_may_weigh_them(kind: type) -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = (3 * torch.randn(2, len(CLASSES), 8, 8, generator=generator)).softmax(1)
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    found = {}
    for how in ("none", "confidence", "image"):
        recipe = made(kind, threshold=0.4, selection={"weighting": how, "weight_gamma": 3.0, "weight_level": 0.8})
        found[how] = recipe.select(probabilities, valid, numbers(recipe, 0))
    plain = found["none"]
    assert torch.equal(found["confidence"].weight, confidence_weighted(plain, probabilities, 3.0).weight)
    assert torch.equal(found["image"].weight, image_weighted(plain, probabilities, 0.8).weight)
    assert not torch.equal(found["confidence"].weight, plain.weight)
