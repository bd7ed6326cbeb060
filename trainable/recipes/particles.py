"""How good picked particles are, beside how good the pixels are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainable.data.points import Points
from trainable.metrics.particles import PointMatch, find_centers, match_points, point_scores
from trainable.task import IGNORE


class ParticleExaminer:
    """Scores picked centers against the coordinates, and the AUC of the hard answer beside that of probabilities.

    Args:
        radius: of the discs that the labels are, in pixels; also the farthest that a pick may lie from its point.
        pick_radius: of a particle. threshold: see `PickingConfig`.
    """

    def __init__(self, radius: int, pick_radius: int, threshold: float) -> None:
        self._radius, self._pick_radius, self._threshold = radius, pick_radius, threshold
        self._matches: list[PointMatch] = []
        self._counts = np.zeros((2, 2), np.int64)

    def see(
        self, probabilities: npt.NDArray[np.float32], label: npt.NDArray[np.uint8], points: Points | None
    ) -> None:
        """Take one image."""
        known = label != IGNORE
        hard = probabilities[1] > probabilities[0]
        self._counts += np.bincount(label[known] * 2 + hard[known], minlength=4)[:4].reshape(2, 2)
        if points is not None and self._radius:
            found, _ = find_centers(probabilities[1], radius=self._pick_radius, threshold=self._threshold)
            self._matches.append(match_points(found, np.array(points).reshape(-1, 2), self._radius))

    def scores(self) -> dict[str, float | None]:
        """val/particle_precision, _recall, _f1 over all images; val/auc_binary, which is balanced accuracy."""
        totals = self._counts.sum(1)
        binary = None
        if totals.all():
            binary = float((self._counts[1, 1] / totals[1] + self._counts[0, 0] / totals[0]) / 2)
        return {**point_scores(self._matches), "val/auc_binary": binary}
