"""Surface scores against the packages that define them, and their empty cases."""

from __future__ import annotations

from types import SimpleNamespace

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import variation_of_information

from trainable.metrics import surfaces
from trainable.metrics.surfaces import (
    Voi,
    surface_dice,
    surface_scores,
    topo_score_from_counts,
    variation,
    voi_score,
)

EMPTY = np.zeros((6, 8, 8), dtype=bool)
needs_surface_distance = pytest.mark.skipif(
    surfaces.surface_distance is None, reason="the package surface-distance is not installed"
)


def volume(seed: int, ndim: int, share: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).random((6, 8, 8)[-ndim:]) < share


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 3]), st.floats(0.02, 0.6))
def test_variation_equals_scikit_image_on_the_union(seed: int, ndim: int, share: float) -> None:
    prediction, truth = volume(seed, ndim, share), volume(seed + 1, ndim, share)
    union = prediction | truth
    voi = variation(prediction, truth)
    if not union.any():
        assert voi == Voi(0.0, 0.0)
        return
    structure = np.ones((3,) * ndim)
    parts = [ndimage.label(mask, structure)[0][union] for mask in (truth, prediction)]
    split, merge = variation_of_information(*parts)
    assert (voi.split, voi.merge) == pytest.approx((split, merge), abs=1e-9)
    assert voi_score(voi) == pytest.approx(1 / (1 + 0.3 * (split + merge)))
    assert variation(truth, prediction) == Voi(pytest.approx(merge), pytest.approx(split))


def test_joining_two_equal_parts_costs_one_bit_of_merge() -> None:
    truth = np.zeros((5, 9, 9), dtype=bool)
    truth[:, :, :4] = truth[:, :, 5:] = True
    prediction = truth.copy()
    prediction[2, 4, 4] = True
    voi = variation(prediction, truth)
    assert voi.merge == pytest.approx(1.0, abs=0.05)
    assert voi.split == pytest.approx(0.0, abs=0.05)
    assert variation(truth, prediction).split == voi.merge


def test_parts_that_touch_at_a_corner_are_one() -> None:
    diagonal = np.eye(4, dtype=bool)
    assert cc3d.connected_components(diagonal.astype(np.uint8), connectivity=4).max() == 4
    assert variation(diagonal, diagonal) == Voi(0.0, 0.0)
    halves = np.zeros((4, 4), dtype=bool)
    halves[:2, :2] = True
    assert variation(diagonal, diagonal | halves).total > 0


@needs_surface_distance
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 3]), st.floats(0.5, 3.0))
def test_surface_dice_is_symmetric_and_grows_with_the_tolerance(
    seed: int, ndim: int, tolerance: float
) -> None:
    prediction, truth = volume(seed, ndim), volume(seed + 1, ndim)
    value = surface_dice(prediction, truth, tolerance=tolerance)
    wider = surface_dice(prediction, truth, tolerance=tolerance + 1)
    assert value is not None
    assert wider is not None
    assert 0.0 <= value <= wider <= 1.0
    assert surface_dice(truth, prediction, tolerance=tolerance) == pytest.approx(value)
    assert surface_dice(truth, truth, tolerance=0.0) == 1.0


@needs_surface_distance
def test_surface_dice_forgives_a_shift_within_the_tolerance_only() -> None:
    truth, prediction = EMPTY.copy(), EMPTY.copy()
    truth[2:4, 1:7, 1:3] = True
    prediction[2:4, 1:7, 3:5] = True
    assert surface_dice(prediction, truth, tolerance=2.0) == 1.0
    off = surface_dice(prediction, truth, tolerance=1.0)
    assert off is not None
    assert off < 1.0


@needs_surface_distance
def test_empty_masks_follow_the_rules_of_the_challenge() -> None:
    full = ~EMPTY
    assert surface_dice(EMPTY, EMPTY) == 1.0
    assert surface_dice(full, EMPTY) == surface_dice(EMPTY, full) == 0.0
    assert variation(EMPTY, EMPTY).total == 0.0
    assert surface_scores(EMPTY, EMPTY)["val/voi_score"] == 1.0


def test_ignored_voxels_are_background_in_both() -> None:
    prediction, truth = volume(0, 3), volume(1, 3)
    ignore = volume(2, 3, 0.4)
    assert surface_scores(prediction, truth, ignore=ignore) == surface_scores(
        prediction & ~ignore, truth & ~ignore
    )
    assert surface_scores(prediction, truth, ignore=prediction ^ truth)["val/voi_score"] == 1.0


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({0: (0, 0, 0), 1: (0, 0, 0), 2: (0, 0, 0)}, 1.0),
        ({0: (2, 3, 5), 1: (0, 0, 0), 2: (0, 0, 0)}, 2 * 2 / 8),
        ({0: (0, 3, 0), 1: (0, 0, 0), 2: (0, 0, 0)}, 0.5 / 3.5),
        ({0: (1, 1, 1), 1: (0, 2, 2), 2: (0, 0, 0)}, 0.34 / 0.67),
        ({0: (1, 1, 1), 1: (1, 2, 2), 2: (0, 1, 0)}, 0.34 + 0.33 / 2 + 0.33 * 0.5 / 1.5),
    ],
)
def test_topo_score_weighs_the_active_dimensions(
    counts: dict[int, tuple[int, int, int]], expected: float
) -> None:
    assert topo_score_from_counts(counts) == pytest.approx(expected)


def test_without_its_package_topo_is_absent_and_nothing_is_renormalized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(surfaces, "topometrics", None)
    values = surface_scores(volume(0, 3), volume(1, 3))
    assert values["val/topo"] is None
    assert values["val/surface_score"] is None
    assert values["val/voi_score"] is not None
    assert any(line.startswith("topometrics") for line in surfaces.absent_packages())
    monkeypatch.setattr(surfaces, "surface_distance", None)
    assert surface_scores(EMPTY, EMPTY)["val/surface_dice"] is None


@needs_surface_distance
def test_with_its_package_topo_enters_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def score(**arguments):
        seen.update(arguments)
        return SimpleNamespace(topo=SimpleNamespace(counts_by_dim={0: (2, 3, 5), 1: (0, 0, 0), 2: (0, 0, 0)}))

    monkeypatch.setattr(surfaces, "topometrics", SimpleNamespace(compute_leaderboard_score=score))
    ignore = volume(2, 3)
    values = surface_scores(volume(0, 3), volume(1, 3), ignore=ignore)
    assert values["val/topo"] == 0.5
    parts = 0.30 * 0.5 + 0.35 * values["val/surface_dice"] + 0.35 * values["val/voi_score"]
    assert values["val/surface_score"] == pytest.approx(parts)
    assert not (seen["predictions"].astype(bool) & ignore).any()
    assert surface_scores(volume(0, 2), volume(1, 2))["val/topo"] is None


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape of 2 or 3 axes, but got"):
        surface_scores(np.zeros((3, 3), dtype=bool), np.zeros((3, 4), dtype=bool))
    with pytest.raises(ValueError, match="one shape of 2 or 3 axes, but got"):
        variation(np.zeros(3, dtype=bool), np.zeros(3, dtype=bool))
