"""Coordinates and natural values: there, back, and what Optuna is given."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spaces.derive import Axis, distribution, ranged, same, to_coordinate, to_natural

BOUNDS = {"linear": (-3.0, 7.5), "log": (1e-5, 1e-1), "log1m": (0.9, 0.9999)}


@given(st.sampled_from(sorted(BOUNDS)), st.floats(0, 1, exclude_max=True))
def test_a_number_goes_there_and_back(scale: str, share: float) -> None:
    low, high = BOUNDS[scale]
    axis = ranged("k", "float", low, high, scale)
    natural = to_natural(axis, scale, axis.at(share))
    assert low - 1e-12 <= natural <= high + 1e-12
    assert same(to_natural(axis, scale, to_coordinate(axis, scale, natural)), natural)


@given(st.integers(1, 50), st.integers(0, 50), st.booleans(), st.floats(0, 1))
def test_a_whole_number_stays_whole_and_inside(low: int, width: int, log: bool, share: float) -> None:
    axis = ranged("k", "int", low, low + width, "log" if log else "linear")
    value = axis.at(share)
    assert type(value) is int
    assert low <= value <= low + width
    assert to_coordinate(axis, "linear", value) == value


def test_whole_numbers_are_equally_likely() -> None:
    axis = Axis("k", "int", 3, 6)
    drawn = [axis.at(i / 4000) for i in range(4000)]
    assert {value: drawn.count(value) for value in (3, 4, 5, 6)} == dict.fromkeys((3, 4, 5, 6), 1000)


def test_log1m_walks_the_distance_to_one_by_ratios() -> None:
    axis = ranged("ema_decay", "float", 0.9, 0.9999, "log1m")
    assert axis.name == "1-ema_decay"
    natural = [to_natural(axis, "log1m", axis.at(share)) for share in (0.0, 1 / 3, 2 / 3, 1.0)]
    assert natural == pytest.approx([0.9999, 0.999, 0.99, 0.9], rel=1e-9)
    for bound in (0.9, 0.9999, 0.999):
        assert to_natural(axis, "log1m", to_coordinate(axis, "log1m", bound)) == bound


@pytest.mark.parametrize("given_value", [0.19, 0.991, math.nan, math.inf, None, "0.5", True])
def test_what_is_not_on_an_axis_has_no_coordinate(given_value: object) -> None:
    with pytest.raises(ValueError, match="t must"):
        to_coordinate(Axis("t", "float", 0.2, 0.99), "linear", given_value)


def test_a_choice_is_its_place_and_keeps_types_apart() -> None:
    axis = Axis("c", "choice", choices=(None, "a", False, 0, 1.5))
    for place, value in enumerate(axis.choices):
        assert to_coordinate(axis, "linear", value) == place
        assert to_natural(axis, "linear", place) is value
    with pytest.raises(ValueError, match="must be one of"):
        to_coordinate(axis, "linear", "b")


def test_optuna_gets_the_same_range() -> None:
    assert distribution(Axis("a", "float", 1e-4, 0.1, log=True)) == FloatDistribution(1e-4, 0.1, log=True)
    assert distribution(Axis("a", "int", 2, 32, log=True)) == IntDistribution(2, 32, log=True)
    assert distribution(Axis("a", "choice", choices=("x", None, True))) == CategoricalDistribution((0, 1, 2))


@pytest.mark.parametrize(
    ("kind", "low", "high", "scale"),
    [
        ("float", 0.0, 1.0, "log"),
        ("float", -1.0, 1.0, "log"),
        ("float", 0.0, 1.0, "log1m"),
        ("int", 0, 0, "log1m"),
    ],
)
def test_a_scale_must_fit_the_range(kind: str, low: float, high: float, scale: str) -> None:
    with pytest.raises(ValueError, match="scale needs"):
        ranged("k", kind, low, high, scale)
