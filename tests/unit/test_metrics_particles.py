"""Particle scores: matching against every possible assignment, centers against discs that were drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.feature import peak_local_max

from trainable.metrics.particles import (
    PointMatch,
    _apart,
    _highest_within,
    find_centers,
    match_points,
    point_scores,
)

POINTS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=5)


def every_assignment(predicted: np.ndarray, truth: np.ndarray, radius: float) -> tuple[int, float]:
    """The largest number of pairs and their shortest sum, by trying all."""
    best = (0, 0.0)
    swapped = len(predicted) > len(truth)
    few, many = (truth, predicted) if swapped else (predicted, truth)
    for order in itertools.permutations(range(len(many)), len(few)):
        distances = [np.hypot(*(few[i] - many[j])) for i, j in enumerate(order)]
        near = [d for d in distances if d <= radius]
        if (len(near), -sum(near)) > (best[0], -best[1]):
            best = (len(near), sum(near))
    return best


@settings(max_examples=60, deadline=None)
@given(POINTS, POINTS, st.floats(0.5, 12.0))
def test_matching_is_the_best_of_all_assignments(predicted, truth, radius: float) -> None:
    p = np.array(predicted, dtype=float).reshape(-1, 2)
    t = np.array(truth, dtype=float).reshape(-1, 2)
    match = match_points(p, t, radius)
    count, total = every_assignment(p, t, radius)
    lengths = [np.hypot(*(p[i] - t[j])) for i, j in match.pairs]
    assert len({i for i, _ in match.pairs}) == len({j for _, j in match.pairs}) == len(match.pairs) == count
    assert all(length <= radius for length in lengths)
    assert sum(lengths) == pytest.approx(total)


def test_a_close_pair_does_not_cost_a_second_match() -> None:
    predicted = np.array([[0.0, 0.0], [4.0, 0.0]])
    truth = np.array([[3.0, 0.0], [-3.0, 0.0]])
    assert match_points(predicted, truth, radius=3.0).pairs == ((0, 1), (1, 0))


def test_picks_that_no_true_point_can_reach_change_nothing() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.0, 50.0, (20, 2))
    near = truth[::2] + rng.uniform(-1.0, 1.0, (10, 2))
    far = rng.uniform(100.0, 400.0, (500, 2))
    alone = match_points(near, truth, radius=2.0)
    among = match_points(np.concatenate([far, near]), truth, radius=2.0)
    assert among.pairs == tuple((i + len(far), j) for i, j in alone.pairs)
    assert len(alone.pairs) == 10
    assert (among.num_predicted, among.num_true) == (510, 20)


@settings(max_examples=40, deadline=None)
@given(POINTS, st.floats(0.5, 12.0))
def test_of_crowded_picks_the_first_stay(points, distance: float) -> None:
    array = np.array(points, dtype=float).reshape(-1, 2)
    kept: list[int] = []
    for index, point in enumerate(array):
        if all(np.hypot(*(point - array[other])) > distance for other in kept):
            kept.append(index)
    assert _apart(array, distance) == kept


def test_scores_add_up_over_images() -> None:
    matches = [PointMatch(((0, 0), (1, 1)), 3, 2), PointMatch((), 1, 2)]
    assert point_scores(matches) == {
        "val/particle_precision": 2 / 4,
        "val/particle_recall": 2 / 4,
        "val/particle_f1": 4 / 8,
    }


def test_scores_of_empty_lists() -> None:
    none_found = point_scores([match_points(np.zeros((0, 2)), np.ones((3, 2)), 5.0)])
    assert list(none_found.values()) == [0.0, 0.0, 0.0]
    none_there = point_scores([match_points(np.ones((3, 2)), np.zeros((0, 2)), 5.0)])
    assert list(none_there.values()) == [None, None, None]
    assert list(point_scores([]).values()) == [None, None, None]


def discs(centers: list[tuple[int, int]], radius: int, size: int = 96) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    drawn = np.zeros((size, size))
    for cx, cy in centers:
        drawn = np.maximum(drawn, (x - cx) ** 2 + (y - cy) ** 2 <= radius**2)
    return drawn


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), unique=True, max_size=8), st.integers(0, 1_000)
)
def test_centers_of_touching_discs_are_found(cells: list[tuple[int, int]], seed: int) -> None:
    radius = 8
    jitter = np.random.default_rng(seed).integers(-3, 4, (len(cells), 2))
    centers = [
        (12 + 23 * x + int(dx), 12 + 23 * y + int(dy)) for (x, y), (dx, dy) in zip(cells, jitter, strict=True)
    ]
    found, scores = find_centers(discs(centers, radius), radius=radius)
    match = match_points(found, np.array(centers, dtype=float).reshape(-1, 2), radius=1.5)
    assert len(match.pairs) == match.num_predicted == match.num_true
    assert all(0.9 < score <= 1.0 for score in scores)
    assert list(scores) == sorted(scores, reverse=True)


def test_centers_lie_apart_and_above_the_threshold() -> None:
    probability = np.random.default_rng(0).random((64, 64))
    found, scores = find_centers(probability, radius=4.0, threshold=0.55)
    gaps = [np.hypot(*(a - b)) for a, b in itertools.combinations(found, 2)]
    assert len(found) > 3
    assert min(gaps) > 4.0
    assert min(scores) > 0.55
    assert not len(find_centers(probability * 0.1, radius=4.0)[0])


def test_a_lone_disc_scores_its_own_probability_and_scikit_image_agrees_on_its_place() -> None:
    probability = 0.7 * discs([(40, 30)], 10)
    found, scores = find_centers(probability, radius=10.0, threshold=0.6)
    assert scores == pytest.approx([0.7], abs=0.02)
    assert not len(find_centers(probability, radius=10.0, threshold=0.75)[0])
    # peak_local_max neither smooths nor joins plateaus: it agrees where the map has one strict maximum.
    y, x = np.mgrid[:64, :64]
    cone = np.clip(1.0 - np.hypot(x - 40, y - 30) / 12, 0, 1)
    theirs = peak_local_max(cone, min_distance=10)
    assert find_centers(cone, radius=4.0)[0][0].tolist() == theirs[0][::-1].tolist()


@pytest.mark.parametrize("radius", [0.5, 1.0, 1.5, 4.3, 7.0])
@pytest.mark.parametrize(("levels", "threshold"), [(2, 0.3), (5, 0.3), (10**6, 0.3), (10**6, 0.98)])
@pytest.mark.parametrize("shape", [(1, 40), (9, 5), (48, 40)])
def test_what_is_highest_within_a_radius_is_what_a_filter_over_the_disc_says(
    radius: float, levels: int, threshold: float, shape: tuple[int, int]
) -> None:
    """Few levels make wide plateaus, many lone peaks; few pixels above the threshold are looked at one by one."""
    score = np.random.default_rng(3).integers(1, levels + 1, shape) / levels
    reach = np.arange(-int(np.ceil(radius)), int(np.ceil(radius)) + 1)
    disc = reach[:, None] ** 2 + reach[None] ** 2 <= radius**2
    expected = (score == ndimage.maximum_filter(score, footprint=disc)) & (score > threshold)
    assert np.array_equal(_highest_within(score, radius, score > threshold), expected)


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ValueError, match="radius must be positive"):
        match_points(np.zeros((1, 2)), np.zeros((1, 2)), 0.0)
    with pytest.raises(ValueError, match="radius must be positive and the map"):
        find_centers(np.zeros((2, 2, 2)), radius=1.0)
