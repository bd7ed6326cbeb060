"""Threshold modes: each against its published rule in numpy, and what all of them must do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainable.pseudo_labels import MODES, Numbers, alone, select_per_class
from trainable.pseudo_labels.mode import State

SEEDS = st.integers(0, 2**31)
C = 4
SOFT = Numbers(momentum=0.7)


def batch(seed: int, size: int = 10, num_classes: int = C) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    sharpness = 1 + 4 * torch.rand(2, 1, size, size, generator=rng)
    logits = sharpness * torch.randn(2, num_classes, size, size, generator=rng)
    return logits.softmax(1), torch.rand(2, size, size, generator=rng) < 0.8


def flat(probabilities: Tensor, valid: Tensor) -> np.ndarray:
    """float64[N, C] of the valid pixels."""
    return probabilities.double().movedim(1, -1)[valid].numpy()


def kept(target, valid: Tensor) -> np.ndarray:
    return (target.label != 255)[valid].numpy()


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.floats(0.5, 0.99))
def test_freematch(seed: int, cap: float) -> None:
    state = MODES["freematch"].init(C, "cpu")
    tau, mean, share = 1 / C, np.full(C, 1 / C), np.full(C, 1 / C)
    for step in range(3):
        probabilities, valid = batch(seed + step)
        p = flat(probabilities, valid)
        numbers = Numbers(momentum=0.7, threshold=cap)
        target = MODES["freematch"].select(state, probabilities, valid, numbers, alone)
        tau = 0.7 * tau + 0.3 * p.max(1).mean()
        mean = 0.7 * mean + 0.3 * p.mean(0)
        share = 0.7 * share + 0.3 * np.bincount(p.argmax(1), minlength=C) / len(p)
        limits = min(tau, cap) * mean / mean.max()
        np.testing.assert_allclose(target.stats["threshold"], limits, rtol=1e-5)
        np.testing.assert_allclose(state["histogram"], share, rtol=1e-5)
        near = np.abs(p.max(1) - limits[p.argmax(1)]) < 1e-5
        assert ((p.max(1) > limits[p.argmax(1)]) == kept(target, valid))[~near].all()


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_flexmatch(seed: int) -> None:
    state = MODES["flexmatch"].init(C, "cpu")
    shares = np.array([0.0] * C + [1.0])
    for step in range(3):
        probabilities, valid = batch(seed + step)
        p = flat(probabilities, valid)
        target = MODES["flexmatch"].select(state, probabilities, valid, Numbers(0.9, 0.7), alone)
        learned = shares[:C] / shares.max()
        limits = 0.9 * learned / (2 - learned)
        np.testing.assert_allclose(target.stats["threshold"], limits, rtol=1e-5, atol=1e-7)
        passed = p.max(1) > 0.9
        counts = np.bincount(p.argmax(1)[passed], minlength=C)
        shares = 0.7 * shares + 0.3 * np.append(counts, (~passed).sum()) / len(p)
        np.testing.assert_allclose(state["share"], shares, rtol=1e-5)
        if step == 0:
            assert kept(target, valid).all()


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.floats(0.5, 4.0))
def test_softmatch(seed: int, num_sigmas: float) -> None:
    state = MODES["softmatch"].init(C, "cpu")
    mu, variance = 1 / C, 1.0
    for step in range(3):
        probabilities, valid = batch(seed + step)
        p = flat(probabilities, valid).max(1)
        numbers = Numbers(momentum=0.7, num_sigmas=num_sigmas)
        target = MODES["softmatch"].select(state, probabilities, valid, numbers, alone)
        mu, variance = 0.7 * mu + 0.3 * p.mean(), 0.7 * variance + 0.3 * p.var(ddof=1)
        weight = np.exp(-(np.minimum(p - mu, 0) ** 2) / (2 * variance / num_sigmas**2))
        np.testing.assert_allclose(target.weight[valid], weight, rtol=1e-4, atol=1e-6)
        assert kept(target, valid).all()
        assert target.weight[~valid].sum() == 0
        assert target.stats["st/weight"].item() == pytest.approx(weight.sum(), rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.05, 0.95))
def test_class_ratio_keeps_the_share_of_each_class(seed: int, ratio: float) -> None:
    state = MODES["class_ratio"].init(C, "cpu")
    probabilities, valid = batch(seed, size=24)
    numbers = Numbers(momentum=0.0, keep_ratio=ratio)
    target = MODES["class_ratio"].select(state, probabilities, valid, numbers, alone)
    p = flat(probabilities, valid)
    for c in range(C):
        confidences = np.sort(p.max(1)[p.argmax(1) == c])[::-1]
        count = int(np.ceil(ratio * len(confidences)))
        got = int((target.label == c).sum())
        # At least the share; beyond it only what lies in the cut's own bin.
        assert got >= ratio * len(confidences)
        cut = confidences[count - 1]
        width = 1 - 2 ** (-24 / 2048)
        assert got <= (confidences >= cut - 2 * width * (1 - cut) - 1e-6).sum()
        assert target.stats["threshold"][c].item() <= cut + 1e-6


def test_class_ratio_follows_the_predictions_of_earlier_steps() -> None:
    state = MODES["class_ratio"].init(2, "cpu")
    sure = torch.tensor([[[0.99] * 90 + [0.6] * 10, [0.01] * 90 + [0.4] * 10]])
    unsure = torch.tensor([[[0.6] * 100, [0.4] * 100]])
    numbers = Numbers(momentum=0.9, keep_ratio=0.5)
    for _ in range(5):
        MODES["class_ratio"].select(state, sure, None, numbers, alone)
    target = MODES["class_ratio"].select(state, unsure, None, numbers, alone)
    assert target.stats["st/pixels_selected"] == 0
    fresh = MODES["class_ratio"].init(2, "cpu")
    assert MODES["class_ratio"].select(fresh, unsure, None, numbers, alone).stats["st/pixels_selected"] == 100


def test_class_ratio_tells_saturated_confidences_apart() -> None:
    state = MODES["class_ratio"].init(2, "cpu")
    first = torch.tensor([1 - 1e-3, 1 - 1e-4, 1 - 1e-5, 1.0])
    target = MODES["class_ratio"].select(
        state, torch.stack((first, 1 - first))[None], None, Numbers(0, 0, 0.5), alone
    )
    assert target.label.tolist() == [[255, 255, 0, 0]]


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_corr_global(seed: int) -> None:
    state = MODES["corr_global"].init(C, "cpu")
    tau = 0.85
    for step in range(3):
        probabilities, valid = batch(seed + step, size=3)
        p = flat(probabilities, valid)
        target = MODES["corr_global"].select(state, probabilities, valid, SOFT, alone)
        best = [p.max(1)[p.argmax(1) == c].max() for c in set(p.argmax(1).tolist())]
        tau = 0.7 * tau + 0.3 * np.mean(best) if best else tau
        np.testing.assert_allclose(target.stats["threshold"], [tau] * C, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.0, 0.9))
def test_entropy_pct_drops_the_most_uncertain(seed: int, drop: float) -> None:
    probabilities, valid = batch(seed)
    target = MODES["entropy_pct"].select({}, probabilities, valid, Numbers(drop_share=drop), alone)
    p = flat(probabilities, valid)
    entropy = -(p * np.log(p)).sum(1)
    limit = np.percentile(entropy, 100 * (1 - drop))
    assert target.stats["st/entropy_limit"].item() == pytest.approx(limit, rel=1e-3, abs=1e-5)
    near = np.abs(entropy - limit) < 1e-4
    assert ((entropy <= limit) == kept(target, valid))[~near].all()
    share = valid.sum().item() / kept(target, valid).sum()
    assert target.weight.max().item() == pytest.approx(share)
    assert target.weight.sum().item() == pytest.approx(valid.sum().item(), rel=1e-4)


def test_entropy_pct_has_one_limit_and_one_weight_for_all_workers() -> None:
    (one, valid), (two, rest) = batch(1), batch(2)
    rest[:, :5] = False
    entropies = [-(p * np.log(p)).sum(1) for p in (flat(one, valid), flat(two, rest))]
    limit = np.mean([np.percentile(entropy, 80) for entropy in entropies])
    kept_of_both = sum(int((entropy <= limit).sum()) for entropy in entropies)
    sums = iter([torch.tensor([2 * limit, 2.0]), torch.tensor([float(valid.sum() + rest.sum()), float(kept_of_both)])])
    target = MODES["entropy_pct"].select({}, one, valid, Numbers(drop_share=0.2), lambda own: next(sums).to(own))
    assert target.stats["st/entropy_limit"].item() == pytest.approx(limit, rel=1e-5)
    own = np.percentile(entropies[0], 80)
    assert kept(target, valid).sum() == (entropies[0] <= limit).sum() != (entropies[0] <= own).sum()
    assert target.weight.max().item() == pytest.approx((valid.sum() + rest.sum()).item() / kept_of_both, rel=1e-5)
    sent: list[Tensor] = []

    def alone_and_heard(statistics: Tensor) -> Tensor:
        sent.append(statistics)
        return statistics

    MODES["entropy_pct"].select({}, one, valid, Numbers(drop_share=0.2), alone_and_heard)
    assert sent[0].tolist() == pytest.approx([own, 1.0], rel=1e-5)
    assert sent[1].tolist() == [float(valid.sum()), float((entropies[0] <= own).sum())]


def test_freematch_forgets_what_was_above_its_cap() -> None:
    state, numbers = MODES["freematch"].init(2, "cpu"), Numbers(momentum=0.5, threshold=0.6)
    sure, unsure = (torch.tensor([[[p], [1 - p]]]) for p in (0.98, 0.55))
    taus = []
    for probabilities in (sure, sure, unsure):
        MODES["freematch"].select(state, probabilities, None, numbers, alone)
        taus.append(state["tau"].item())
    assert taus == pytest.approx([0.6, 0.6, 0.575])


@pytest.mark.parametrize("name", ["fixed", "per_class", "linear_ramp"])
def test_given_thresholds_act_as_they_are(name: str) -> None:
    probabilities, valid = batch(3)
    limits = torch.tensor([0.3, 0.5, 0.7, 0.9])
    target = MODES[name].select({}, probabilities, valid, Numbers(threshold=limits), alone)
    assert torch.equal(target.label, select_per_class(probabilities, limits, valid).label)
    assert MODES[name].init(C, "cpu") == {}


def run(name: str, state: State, seeds: range, numbers: Numbers = SOFT) -> list[Tensor]:
    return [MODES[name].select(state, *batch(seed), numbers, alone).label for seed in seeds]


@pytest.mark.parametrize("name", MODES)
def test_every_mode_resumes_from_its_state_to_the_bit(name: str) -> None:
    whole = MODES[name].init(C, "cpu")
    expected = run(name, whole, range(6))
    first = MODES[name].init(C, "cpu")
    run(name, first, range(3))
    second = MODES[name].init(C, "cpu")
    for key, value in first.items():
        second[key].copy_(value)
    for a, b in zip(run(name, second, range(3, 6)), expected[3:], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", MODES)
def test_every_mode_keeps_its_tensors_and_ignores_a_step_without_a_pixel(name: str) -> None:
    state = MODES[name].init(C, "cpu")
    run(name, state, range(2))
    before = {key: (value.data_ptr(), value.clone()) for key, value in state.items()}
    probabilities, valid = batch(7)
    target = MODES[name].select(state, probabilities, torch.zeros_like(valid), SOFT, alone)
    assert target.stats["st/pixels_selected"] == target.weight.sum() == 0
    assert all(value.isfinite().all() for value in target.stats.values())
    for key, value in state.items():
        assert value.data_ptr() == before[key][0]
        assert torch.equal(value, before[key][1])


@pytest.mark.parametrize("name", MODES)
def test_every_mode_never_selects_padding_and_takes_tensors_for_numbers(name: str) -> None:
    probabilities, valid = batch(11)
    plain, as_tensors = MODES[name].init(C, "cpu"), MODES[name].init(C, "cpu")
    numbers = Numbers(0.8, 0.5, 0.5, 0.25, 2.0)
    tensors = Numbers(*(torch.tensor(value) for value in (0.8, 0.5, 0.5, 0.25, 2.0)))
    a = MODES[name].select(plain, probabilities, valid, numbers, alone)
    b = MODES[name].select(as_tensors, probabilities, valid, tensors, alone)
    assert torch.equal(a.label, b.label)
    assert (a.label[~valid] == 255).all()
    assert (a.weight[~valid] == 0).all()
    assert ((a.label != 255) == (a.weight > 0)).all()
    assert MODES[name].help


@pytest.mark.parametrize("name", sorted(set(MODES) - {"corr_global", "entropy_pct"}))
def test_two_workers_hold_the_state_that_one_would(name: str) -> None:
    together, apart = MODES[name].init(C, "cpu"), [MODES[name].init(C, "cpu") for _ in range(2)]
    for step in range(3):
        probabilities, valid = batch(step)
        MODES[name].select(together, probabilities, valid, SOFT, alone)
        sent: list[Tensor] = []

        def listen(statistics: Tensor, sent: list[Tensor] = sent) -> Tensor:
            sent.append(statistics)
            return statistics

        for b in range(2):
            scratch = {key: value.clone() for key, value in apart[b].items()}
            MODES[name].select(scratch, probabilities[b : b + 1], valid[b : b + 1], SOFT, listen)
        total = torch.stack(sent).sum(0) if sent else torch.zeros(())
        for b in range(2):
            MODES[name].select(
                apart[b], probabilities[b : b + 1], valid[b : b + 1], SOFT, lambda _, total=total: total
            )
        for key, value in together.items():
            torch.testing.assert_close(apart[0][key], value, rtol=1e-4, atol=1e-6)
            assert torch.equal(apart[0][key], apart[1][key])
