"""What is to be segmented, apart from any data set's files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

IGNORE = 255


@dataclass(frozen=True)
class Task:
    """The task that networks, losses and metrics are built for.

    Attributes:
        class_names: name of class i at position i.
        class_pixels: labeled pixels of each class; zeros where nothing is labeled.
        ignore_index: label value that counts nowhere.
        activation: `softmax` over the classes, or `sigmoid` of one logit (class 1 is the positive one).
        ndim: 2 for images, 3 for volumes.

    >>> Task(("land", "road"), (30, 10)).class_freq
    (0.75, 0.25)
    """

    class_names: tuple[str, ...]
    class_pixels: tuple[int, ...]
    ignore_index: int = IGNORE
    activation: Literal["softmax", "sigmoid"] = "softmax"
    ndim: Literal[2, 3] = 2

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def class_freq(self) -> tuple[float, ...]:
        """Share of each class among the labeled pixels; 0 everywhere where there are none."""
        total = sum(self.class_pixels)
        return tuple(n / total if total else 0.0 for n in self.class_pixels)

    @property
    def binary(self) -> bool:
        """Whether there is a positive and a negative class."""
        return self.num_classes == 2

    @property
    def num_logits(self) -> int:
        """Channels that a network gives."""
        return 1 if self.activation == "sigmoid" else self.num_classes
