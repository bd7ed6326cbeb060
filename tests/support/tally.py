"""The count of what kills did."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """What kills did.

    Attributes:
        kills: processes killed. recorded: results that had been acknowledged before one of them.
        lost: those missing afterwards. doubled: results that stand twice.
        resume_s: seconds from a start after a kill to the first thing that it acknowledged.
        rebuilt_s: seconds to read a run's whole log back.
        wrong: anything else that must not be.
    """

    kills: int = 0
    recorded: int = 0
    lost: int = 0
    doubled: int = 0
    resume_s: list[float] = field(default_factory=list)
    rebuilt_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)

    def add(self, other: Tally) -> None:
        """Counts both."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def to_json(self) -> dict[str, Any]:
        """As the results file shows it."""
        return {
            "kills": self.kills, "recorded": self.recorded, "lost": self.lost, "doubled": self.doubled,
            "resume_s_median": _rounded(statistics.median, self.resume_s),
            "resume_s_worst": _rounded(max, self.resume_s),
            "read_back_s_worst": _rounded(max, self.rebuilt_s), "wrong": self.wrong,
        }  # fmt: skip

    def line(self) -> str:
        found = self.to_json()
        return (
            f"{found['kills']} kills, {found['recorded']} results recorded, {found['lost']} lost, "
            f"{found['doubled']} doubled, seconds to resume: median {found['resume_s_median']}, worst "
            f"{found['resume_s_worst']}, wrong: {'; '.join(self.wrong) or 'nothing'}"
        )


def _rounded(pick: Callable[[list[float]], float], numbers: list[float]) -> float | None:
    return round(pick(numbers), 3) if numbers else None
