"""Scores of picked particles: points against points, not pixels. On the host."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize, spatial

Floats = NDArray[np.float64]
# What a Gaussian of half the radius finds in the middle of a full disc.
_DISC_RESPONSE = 1.0 - math.exp(-2.0)
# Looking around one pixel costs as much as filtering so many.
_FEW = 32
_AT_ONCE = 4096


@dataclass(frozen=True)
class PointMatch:
    """Which predicted points are which true ones, in one image.

    Attributes:
        pairs: (predicted index, true index), each index at most once.
        num_predicted: predicted points in the image.
        num_true: true points in the image.
    """

    pairs: tuple[tuple[int, int], ...]
    num_predicted: int
    num_true: int


def match_points(predicted: Floats, truth: Floats, radius: float) -> PointMatch:
    """Pair points one to one within a radius: as many pairs as possible, and of those the shortest in sum.

    Args:
        predicted: float[P, 2], x and y in pixels.
        truth: float[T, 2].
        radius: the largest distance of a pair, inclusive, in pixels.

    Returns:
        The pairs, in the order of the predicted points; none where either list is empty.

    Raises:
        ValueError: if `radius` is not positive or the points are not pairs of numbers.

    >>> truth = np.array([[1.0, 0.0], [50.0, 0.0]])
    >>> match_points(np.array([[0.0, 0.0], [9.0, 0.0]]), truth, radius=3.0).pairs
    ((0, 0),)

    Source: optimal assignment (Crouse, 2016) by `scipy.optimize.linear_sum_assignment`.
    """
    predicted, truth = (np.asarray(points, dtype=np.float64).reshape(-1, 2) for points in (predicted, truth))
    if not radius > 0.0:
        raise ValueError(f"match_points: radius must be positive, but got {radius=}")
    predicted_count = len(predicted)
    reachable = _within_reach(predicted, truth, radius)
    predicted = predicted[reachable]
    distance = np.sqrt(((predicted[:, None] - truth[None]) ** 2).sum(2))
    near = distance <= radius
    # Every pair within reach is worth more than all distances together, so that their number comes first.
    worth = radius * (min(distance.shape) + 1)
    rows, columns = optimize.linear_sum_assignment(np.where(near, distance - worth, 0.0))
    pairs = tuple((int(reachable[i]), int(j)) for i, j in zip(rows, columns, strict=True) if near[i, j])
    return PointMatch(pairs, predicted_count, len(truth))


def _within_reach(predicted: Floats, truth: Floats, radius: float) -> NDArray[np.intp]:
    """Predicted points that some true one may be paired with: a network that knows nothing yet picks thousands."""
    if not len(predicted) or not len(truth):
        return np.zeros(0, np.intp)
    # A hair more than the radius, so that rounding in the tree loses none; what is near is decided afterwards.
    nearest, _ = spatial.cKDTree(truth).query(predicted, distance_upper_bound=radius * 1.001)
    return np.flatnonzero(np.isfinite(nearest))


def point_scores(matches: Iterable[PointMatch], *, prefix: str = "val") -> dict[str, float | None]:
    """Precision, recall and F1 over all images together.

    TP = pairs; precision = TP / predicted points, recall = TP / true points, f1 = 2 TP / (predicted + true).

    Args:
        matches: one per image.
        prefix: what stands before the slash in the metrics' names.

    Returns:
        `<prefix>/particle_precision`, `_recall`, `_f1`; all None where the split has no true point, and
        precision 0 where it has some and none was predicted.

    >>> point_scores([PointMatch(((0, 0),), num_predicted=1, num_true=2)])["val/particle_f1"]
    0.6666666666666666
    """
    counts = [(len(match.pairs), match.num_predicted, match.num_true) for match in matches]
    return counted_scores(*(sum(column) for column in zip((0, 0, 0), *counts, strict=True)), prefix=prefix)


def counted_scores(hits: int, predicted: int, truth: int, *, prefix: str = "val") -> dict[str, float | None]:
    """The same from counts over all images.

    Args:
        hits: pairs.
        predicted: predicted points.
        truth: true points.
        prefix: what stands before the slash in the metrics' names.

    >>> counted_scores(1, 1, 2)["val/particle_recall"]
    0.5
    """
    values: dict[str, float | None] = {
        "precision": hits / max(predicted, 1),
        "recall": hits / max(truth, 1),
        "f1": 2 * hits / max(predicted + truth, 1),
    }
    return {f"{prefix}/particle_{name}": value if truth else None for name, value in values.items()}


def find_centers(
    probability: NDArray[np.floating], *, radius: float, threshold: float = 0.5
) -> tuple[Floats, Floats]:
    """Pick the centers of discs from a probability map.

    The map is smoothed by a Gaussian of half the radius, scaled so that a lone disc of constant probability p
    scores p; a pixel is a center when nothing within the radius scores higher and its score is above the
    threshold. Equal neighbors count once, at their mean position.

    Args:
        probability: float[H, W], in [0, 1].
        radius: of a particle, in pixels; also the least distance of two centers.
        threshold: the least score, strictly.

    Returns:
        float[N, 2], x and y in pixels from the middle of the first pixel, and float[N], their scores; the
        highest score first. Both empty where nothing scores enough.

    Raises:
        ValueError: if `radius` is not positive or the map has not two axes.

    >>> y, x = np.mgrid[:41, :61]
    >>> disc = ((x - 30) ** 2 + (y - 20) ** 2 <= 8**2).astype(np.float64)
    >>> find_centers(disc, radius=8)[0].tolist()
    [[30.0, 20.0]]
    """
    if not radius > 0.0 or probability.ndim != 2:
        got = f"{radius=}, {probability.shape=}"
        raise ValueError(f"find_centers: radius must be positive and the map [H, W], but got {got}")
    score = (
        ndimage.gaussian_filter(probability.astype(np.float64), radius / 2.0, mode="nearest") / _DISC_RESPONSE
    )
    # Rounding makes neighbors of one plateau differ in the last digit.
    score = score.round(9)
    peak = _highest_within(score, radius, score > threshold)
    plateau, count = ndimage.label(peak, structure=np.ones((3, 3)))
    if not count:
        return np.zeros((0, 2)), np.zeros(0)
    numbers = np.arange(1, count + 1)
    center = np.array(ndimage.center_of_mass(peak, plateau, numbers)).reshape(-1, 2)[:, ::-1]
    height = np.asarray(ndimage.maximum(score, plateau, numbers), dtype=np.float64)
    order = np.lexsort((center[:, 0], center[:, 1], -height))
    kept = _apart(center[order], radius)
    return center[order][kept], np.minimum(height[order][kept], 1.0)


def _highest_within(score: Floats, radius: float, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the wanted pixels have none within the radius that is higher, bool[H, W]."""
    reach = math.ceil(radius)
    offset = np.arange(-reach, reach + 1)
    disc = offset[:, None] ** 2 + offset[None] ** 2 <= radius**2
    beyond = np.pad(score, reach, constant_values=-np.inf)
    peak = wanted.copy()
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)) if radius >= 1.0 else ():
        # Few are as high as their four neighbors, and only those are compared with all others.
        peak &= score >= np.roll(beyond, step, axis)[reach:-reach, reach:-reach]
    rows, columns = np.nonzero(peak)
    if len(rows) > score.size // _FEW:
        filtered: NDArray[np.bool_] = peak & (score == ndimage.maximum_filter(score, footprint=disc))
        return filtered
    down, right = np.nonzero(disc)
    around = down * beyond.shape[1] + right
    for start in range(0, len(rows), _AT_ONCE):
        y, x = rows[start : start + _AT_ONCE], columns[start : start + _AT_ONCE]
        highest = beyond.ravel()[(y * beyond.shape[1] + x)[:, None] + around].max(1)
        peak[y, x] = score[y, x] >= highest
    return peak


def _apart(points: Floats, distance: float) -> list[int]:
    """Points farther than a distance from every earlier one that is kept."""
    tree = spatial.cKDTree(points)
    free = np.ones(len(points), bool)
    kept: list[int] = []
    for index, point in enumerate(points):
        if free[index]:
            kept.append(index)
            free[tree.query_ball_point(point, distance)] = False
    return kept
