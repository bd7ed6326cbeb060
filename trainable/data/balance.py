"""Which of several random crops is taken: one that holds enough of a thin class, and not too much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Balance:
    """The first of several random crops whose positive share is in a range, else the one that comes nearest.

    Attributes:
        tries: crops that are looked at. low: least share. high: largest.
        positive: labels that count as positive. negative: labels that count against them; all others count nowhere.
    """

    tries: int = 10
    low: float = 0.3
    high: float = 0.7
    positive: tuple[int, ...] = (1,)
    negative: tuple[int, ...] = (0,)

    def miss(self, labels: npt.NDArray[np.uint8]) -> float:
        """By how much a crop's positive share misses the range; a crop without a label misses it as one of share 0.

        >>> labels = np.array([0, 0, 0, 1, 255], np.uint8)
        >>> Balance(low=0.25).miss(labels), Balance(low=0.5).miss(labels), Balance(low=0.0, high=0.125).miss(labels)
        (0.0, 0.25, 0.125)
        """
        positive = sum(np.count_nonzero(labels == value) for value in self.positive)
        negative = sum(np.count_nonzero(labels == value) for value in self.negative)
        share = float(positive / (positive + negative)) if positive else 0.0
        return max(self.low - share, share - self.high, 0.0)
