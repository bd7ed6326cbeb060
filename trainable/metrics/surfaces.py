"""Scores of thin structures in two or three dimensions: how near, how connected, of what shape. On the host.
 `topometrics`, which the topological part needs, is built from source and therefore optional. Where a package
is
absent its score is None, and so is every score that would contain it: nothing is renormalized in silence.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import cc3d
import numpy as np
from numpy.typing import NDArray


def _optional(name: str) -> ModuleType | None:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


surface_distance = _optional("surface_distance")
topometrics = _optional("topometrics")

Mask = NDArray[np.bool_]
WEIGHTS = {"topo": 0.30, "surface_dice": 0.35, "voi_score": 0.35}
_TOPO_WEIGHTS = {0: 0.34, 1: 0.33, 2: 0.33}


@dataclass(frozen=True)
class Voi:
    """Variation of information between the connected parts of two masks, in bits.

    Attributes:
        split: conditional entropy of the prediction's parts given the true ones; above 0 where a true part is
            broken.
        merge: conditional entropy of the true parts given the prediction's; above 0 where true parts are
            joined.
    """

    split: float
    merge: float

    @property
    def total(self) -> float:
        """The sum of both."""
        return self.split + self.merge


def absent_packages() -> list[str]:
    """Names of the optional packages that are not installed, each with the score that needs it.

    >>> all(": needed for " in line for line in absent_packages())
    True
    """
    needed = {
        "surface-distance: needed for surface_dice": surface_distance,
        "topometrics: needed for topo": topometrics,
    }
    return [line for line, package in needed.items() if package is None]


def surface_dice(
    prediction: Mask, truth: Mask, *, tolerance: float = 2.0, ignore: Mask | None = None
) -> float | None:
    """Share of the two surfaces that lies within the tolerance of the other one.

    Args:
        prediction: bool[*S], two or three axes.
        truth: bool[*S].
        tolerance: in voxels.
        ignore: bool[*S], voxels without a label, background in both.

    Returns:
        A value in [0, 1]; 1 where both masks are empty, 0 where one is; None without the package.

    Raises:
        ValueError: if the shapes differ.

    >>> box = np.zeros((6, 6), dtype=bool)
    >>> box[2:4, 2:4] = True
    >>> surface_dice(box, box) in (1.0, None)
    True

    Source: the `surface-distance` package, which gives NaN where both masks are empty.
    """
    prediction, truth = _without(prediction, truth, ignore)
    if surface_distance is None:
        return None
    if not prediction.any() and not truth.any():
        return 1.0
    if not prediction.any() or not truth.any():
        return 0.0
    distances = surface_distance.compute_surface_distances(truth, prediction, (1.0,) * truth.ndim)
    return float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance))


def variation(prediction: Mask, truth: Mask, *, ignore: Mask | None = None) -> Voi:
    """Variation of information between the connected parts, over the voxels that either mask covers.

    Voxels belong together when they share a face, an edge or a corner. Outside its parts a mask counts as one
    more part.

    Args:
        prediction: bool[*S], two or three axes.
        truth: bool[*S].
        ignore: bool[*S], voxels without a label, background in both.

    Returns:
        Both entropies, in bits; 0 where both masks are empty.

    Raises:
        ValueError: if the shapes differ.

    >>> truth = np.array([[1, 1, 0, 1, 1]], dtype=bool)
    >>> round(variation(np.ones((1, 5), dtype=bool), truth).merge, 3)
    1.522

    Source: Meila (2003); the components are those of `connected-components-3d`.
    """
    prediction, truth = _without(prediction, truth, ignore)
    union = prediction | truth
    if not union.any():
        return Voi(0.0, 0.0)
    connectivity: Literal[8, 26] = 26 if truth.ndim == 3 else 8
    true_parts, parts = (
        cc3d.connected_components(mask.astype(np.uint8), connectivity=connectivity)[union].astype(np.int64)
        for mask in (truth, prediction)
    )
    return Voi(_conditional_entropy(parts, true_parts), _conditional_entropy(true_parts, parts))


def voi_score(voi: Voi, alpha: float = 0.3) -> float:
    """Variation of information as a score, `1 / (1 + alpha (split + merge))`.

    Args:
        voi: of `variation`, in bits.
        alpha: how much a bit costs. The library that defines the score has 1.0, its challenge passes 0.3.

    Returns:
        A value in (0, 1]; 1 for equal parts.

    >>> voi_score(Voi(split=0.0, merge=0.0))
    1.0
    """
    return 1.0 / (1.0 + alpha * voi.total)


def topo_score_from_counts(counts: Mapping[int, tuple[int, int, int]]) -> float:
    """Weighted F1 of matched topological features: components, tunnels, cavities.

    For dimension k with (matched m, predicted p, true g): f1 = 2 m / (p + g), or 0.5 / (p + 0.5) where g = 0.
    The weights .34, .33, .33 are scaled to the dimensions where p + g is above 0.

    Args:
        counts: (m, p, g) per dimension 0, 1, 2.

    Returns:
        A value in [0, 1]; 1 where no dimension has a feature.

    >>> topo_score_from_counts({0: (1, 1, 1), 1: (0, 0, 0), 2: (0, 0, 0)})
    1.0

    Source: the surface detection challenge's metric, after Betti matching (arXiv 2211.15272).
    """
    active = {k: value for k, value in counts.items() if value[1] + value[2] > 0 and k in _TOPO_WEIGHTS}
    if not active:
        return 1.0
    score = sum(
        _TOPO_WEIGHTS[k] * (2.0 * matched / (predicted + truth) if truth else 0.5 / (predicted + 0.5))
        for k, (matched, predicted, truth) in active.items()
    )
    return score / sum(_TOPO_WEIGHTS[k] for k in active)


def surface_scores(
    prediction: Mask,
    truth: Mask,
    *,
    tolerance: float = 2.0,
    alpha: float = 0.3,
    ignore: Mask | None = None,
    prefix: str = "val",
) -> dict[str, float | None]:
    """Return all scores of a volume, and .30 topo + .35 surface_dice + .35 voi_score.

    Args:
        prediction: bool[*S], two or three axes.
        truth: bool[*S].
        tolerance: of `surface_dice`, in voxels.
        alpha: of `voi_score`.
        ignore: bool[*S], voxels without a label, background in both.
        prefix: what stands before the slash in the metrics' names.

    Returns:
        `<prefix>/surface_dice`, `/voi`, `/voi_split`, `/voi_merge`, `/voi_score`, `/topo`, `/surface_score`.
        topo is None without its package and for two axes; surface_score is None where one of its parts is.

    Raises:
        ValueError: if the shapes differ.

    >>> empty = np.zeros((4, 4), dtype=bool)
    >>> scores = surface_scores(empty, empty)
    >>> scores["val/voi_score"], scores["val/topo"], scores["val/surface_score"]
    (1.0, None, None)
    """
    voi = variation(prediction, truth, ignore=ignore)
    values: dict[str, float | None] = {
        "surface_dice": surface_dice(prediction, truth, tolerance=tolerance, ignore=ignore),
        "voi": voi.total,
        "voi_split": voi.split,
        "voi_merge": voi.merge,
        "voi_score": voi_score(voi, alpha),
        "topo": _topo(prediction, truth, ignore),
    }
    parts = [(weight, values[name]) for name, weight in WEIGHTS.items()]
    known = [weight * value for weight, value in parts if value is not None]
    values["surface_score"] = sum(known) if len(known) == len(parts) else None
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _conditional_entropy(of: NDArray[np.int64], given: NDArray[np.int64]) -> float:
    base = of.max() + 1
    pairs, joint = np.unique(given * base + of, return_counts=True)
    condition = pairs // base
    marginal = np.bincount(condition, weights=joint)[condition]
    return float((joint / joint.sum() * np.log2(marginal / joint)).sum())


def _topo(prediction: Mask, truth: Mask, ignore: Mask | None) -> float | None:
    if topometrics is None or truth.ndim != 3:
        return None
    prediction, truth = _without(prediction, truth, ignore)
    report: Any = topometrics.compute_leaderboard_score(
        predictions=prediction.astype(np.uint8), labels=truth.astype(np.uint8), ignore_label=None
    )
    return topo_score_from_counts(report.topo.counts_by_dim)


def _without(prediction: Mask, truth: Mask, ignore: Mask | None) -> tuple[Mask, Mask]:
    if prediction.shape != truth.shape or truth.ndim not in (2, 3):
        shapes = f"prediction {prediction.shape}, truth {truth.shape}"
        raise ValueError(f"surface scores: both masks must have one shape of 2 or 3 axes, but got {shapes}")
    prediction, truth = prediction.astype(bool), truth.astype(bool)
    return (prediction, truth) if ignore is None else (prediction & ~ignore, truth & ~ignore)
