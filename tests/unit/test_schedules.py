"""Schedules: their values in the sources, their shape in general, and torch's own where it has them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainable import schedules

STEPS = st.integers(0, 100_000)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.0), (500, 1.25e-4), (1_000, 2.5e-4), (10_000, 2.298e-4), (25_000, 1.290e-4)]
)
def test_cosine_warmup_gives_the_rates_of_the_second_version(step: int, rate: float) -> None:
    assert 2.5e-4 * schedules.cosine_warmup(step, 50_000, 1_000) == pytest.approx(rate, abs=5e-8)


@given(STEPS, st.integers(1, 50_000), st.integers(0, 49_999))
def test_cosine_warmup_rises_then_falls(step: int, total: int, warmup: int) -> None:
    warmup = min(warmup, total - 1)
    now, after = (schedules.cosine_warmup(i, total, warmup) for i in (step, step + 1))
    assert 0.0 <= now <= 1.0
    assert after >= now if step < warmup else after <= now
    assert schedules.cosine_warmup(warmup, total, warmup) == 1.0
    assert schedules.cosine_warmup(total, total, warmup) == 0.0


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 2.5e-4), (5_000, 1.930e-4), (10_000, 1.340e-4), (19_990, 2.67e-7), (20_000, 0.0)]
)
def test_step_poly_gives_the_rates_of_the_first_version(step: int, rate: float) -> None:
    assert 2.5e-4 * schedules.step_poly(step, 20_000) == pytest.approx(rate, rel=2e-3)


@given(STEPS, st.integers(1, 50_000), st.integers(1, 50))
def test_step_poly_holds_between_changes_and_is_zero_beyond_its_horizon(
    step: int, iter_max: int, every: int
) -> None:
    value = schedules.step_poly(step, iter_max, every=every)
    if step >= iter_max:
        assert value == 0.0
    else:
        assert value == schedules.poly(step // every * every, iter_max)


@given(STEPS, st.integers(1, 50_000), st.floats(0.0, 3.0), st.floats(0.0, 0.5))
def test_poly_falls_to_its_floor(step: int, total: int, power: float, floor: float) -> None:
    value = schedules.poly(step, total, power, floor)
    expected = floor if step >= total else max((1 - step / total) ** power, floor)
    assert value == pytest.approx(expected)
    assert schedules.poly(step + 1, total, power, floor) <= value


@given(STEPS, st.floats(-5, 5), st.floats(-5, 5), st.integers(0, 5_000), st.integers(0, 5_000))
def test_linear_ramp_moves_between_its_ends(
    step: int, low: float, high: float, ramp: int, start: int
) -> None:
    value = schedules.linear_ramp(step, low, high, ramp, start)
    assert min(low, high) - 1e-9 <= value <= max(low, high) + 1e-9
    if step < start:
        assert value == low
    if step >= start + ramp:
        assert value == high
    halfway = schedules.linear_ramp(start + 50, low, high, 100, start)
    assert halfway == pytest.approx((low + high) / 2)


def test_linear_ramp_gives_the_threshold_of_the_second_version() -> None:
    values = [schedules.linear_ramp(i, 0.05, 0.10, 0.6 * 50_000) for i in (0, 12_500, 30_000, 50_000)]
    assert values == pytest.approx([0.05, 0.05 + 0.05 * 12_500 / 30_000, 0.10, 0.10])


@given(st.integers(0, 500), st.integers(0, 300), st.integers(0, 100))
def test_sigmoid_ramp_up_follows_its_formula(step: int, ramp: int, start: int) -> None:
    value = schedules.sigmoid_ramp_up(step, ramp, start)
    if step < start:
        assert value == 0.0
    else:
        share = 1.0 if ramp == 0 else min(max(step - start, 0), ramp) / ramp
        assert value == pytest.approx(math.exp(-5 * (1 - share) ** 2))


@given(st.integers(0, 200), st.integers(1, 20), st.integers(1, 3))
def test_warm_restarts_gives_what_torch_gives(step: int, first: int, multiplier: int) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, first, multiplier, eta_min=1e-6)
    optimizer.step()
    for _ in range(step):
        theirs.step()
    ours = 1e-3 * schedules.warm_restarts(step, first, multiplier, floor=1e-3)
    assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)


@given(STEPS, st.floats(0.0, 1.0))
def test_ema_decay_rises_from_zero_to_its_target(step: int, target: float) -> None:
    value = schedules.ema_decay(step, target)
    assert value == min(1 - 1 / (step + 1), target)
    assert value <= schedules.ema_decay(step + 1, target)


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=40),
    st.integers(0, 4),
    st.sampled_from(["min", "max"]),
    st.sampled_from([0.1, 0.5]),
)
def test_plateau_gives_what_torch_gives(values: list[float], patience: int, mode: str, reduce: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, reduce, patience, min_lr=1e-3, eps=0.0
    )
    ours = schedules.Plateau(reduce, patience, mode=mode, floor=1e-3)
    for step, value in enumerate(values):
        theirs.step(value)
        assert ours.observe(value, step) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_plateau_counts_nothing_bad_during_its_warmup() -> None:
    plateau = schedules.Plateau(0.5, patience=0, warmup=10)
    assert [plateau.observe(1.0, step) for step in (0, 3, 9)] == [1.0, 1.0, 1.0]
    assert [plateau.factor(step) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]
    assert plateau.observe(1.0, 10) == 0.5
    assert plateau.factor(20) == 0.5


def test_plateau_takes_no_non_finite_value_for_its_best_and_resumes_where_it_was() -> None:
    plateau = schedules.Plateau(0.5, patience=2)
    for value in (1.0, math.nan, -math.inf, 1.0):
        plateau.observe(value, 0)
    assert plateau.best == 1.0
    assert plateau.level == 0.5
    again = schedules.Plateau(0.5, patience=2)
    again.load_state_dict(plateau.state_dict())
    assert [again.observe(2.0, i) for i in range(4)] == [plateau.observe(2.0, i) for i in range(4)]


@pytest.mark.parametrize(
    "call",
    [
        lambda: schedules.cosine_warmup(-1, 10, 2),
        lambda: schedules.cosine_warmup(1, 10, 10),
        lambda: schedules.poly(1, 0),
        lambda: schedules.step_poly(1, 10, every=0),
        lambda: schedules.linear_ramp(1, 0.0, 1.0, -1),
        lambda: schedules.sigmoid_ramp_up(1, math.nan),
        lambda: schedules.warm_restarts(1, 0),
        lambda: schedules.ema_decay(1, 1.5),
        lambda: schedules.Plateau(reduce=1.0),
        lambda: schedules.Plateau(mode="low"),
        lambda: schedules.constant(-1),
    ],
)
def test_a_schedule_refuses_what_it_cannot_mean(call) -> None:
    with pytest.raises(ValueError, match="but got"):
        call()
