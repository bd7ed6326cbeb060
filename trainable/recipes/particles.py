"""How good picked particles are, beside how good the pixels are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from trainable.data.points import Points
from trainable.metrics import auc_binary
from trainable.metrics.particles import counted_scores, find_centers, match_points
from trainable.task import IGNORE

_NUMBERS = 7


class ParticleExaminer:
    """Scores picked centers against the coordinates, and the AUC of the hard answer beside that of probabilities.

    Args:
        radius: of the discs that the labels are, in pixels; also the farthest that a pick may lie from its point.
        pick_radius: of a particle. threshold: see `PickingConfig`.
    """

    def __init__(self, radius: int, pick_radius: int, threshold: float) -> None:
        self._radius, self._pick_radius, self._threshold = radius, pick_radius, threshold

    def see(
        self, probabilities: npt.NDArray[np.float32], label: npt.NDArray[np.uint8], points: Points | None
    ) -> Sequence[float | None]:
        """Pixels by (label, hard answer); and pairs, picks and points where there are coordinates."""
        known = label != IGNORE
        hard = probabilities[1] > probabilities[0]
        pixels = np.bincount(label[known] * 2 + hard[known], minlength=4)[:4].tolist()
        if points is None or not self._radius:
            return (*pixels, None, None, None)
        found, _ = find_centers(probabilities[1], radius=self._pick_radius, threshold=self._threshold)
        match = match_points(found, np.array(points).reshape(-1, 2), self._radius)
        return (*pixels, len(match.pairs), match.num_predicted, match.num_true)

    def scores(self, seen: Sequence[Sequence[float | None]]) -> dict[str, float | None]:
        """val/particle_precision, _recall, _f1 over all images; val/auc_binary, which is balanced accuracy."""
        sums = [int(sum(value or 0 for value in column)) for column in zip([0] * _NUMBERS, *seen, strict=True)]
        binary = auc_binary(torch.tensor(sums[:4]).view(2, 2))
        return {**counted_scores(*sums[4:]), "val/auc_binary": binary}
