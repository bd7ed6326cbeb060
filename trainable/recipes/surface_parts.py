"""The composite loss of thin surfaces, and the scores that say how good one is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import model_validator
from torch import Tensor

from trainable import losses
from trainable.data.points import Points
from trainable.knob import Section, knob
from trainable.metrics.cleaning import clean_mask
from trainable.metrics.surfaces import surface_scores
from trainable.task import IGNORE

PARTS = ("dice", "focal", "boundary", "cldice", "connectivity", "skeleton")
SCORES = ("surface_dice", "voi", "voi_split", "voi_merge", "voi_score", "topo", "surface_score")
_CONSTANTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


class SurfaceLossConfig(Section):
    """Weights of the composite loss's parts, and their shapes."""

    dice: float = knob(0.3, legal=(0.0, 100.0), search=(0.0, 1.0), help="Weight of the Dice loss.")
    focal: float = knob(0.4, legal=(0.0, 100.0), search=(0.0, 1.0), help="Weight of the focal loss.")
    boundary: float = knob(0.15, legal=(0.0, 100.0), search=(0.0, 1.0), help="Weight of cross-entropy near the border.")
    cldice: float = knob(0.10, legal=(0.0, 100.0), search=(0.0, 1.0), help="Weight of the center-line Dice loss.")
    connectivity: float = knob(0.05, legal=(0.0, 100.0), search=(0.0, 1.0), help="Weight of the connectivity loss.")
    skeleton: float = knob(0.0, legal=(0.0, 100.0), search=(0.0, 1.0), help="Weight of the skeleton recall loss.")
    focal_alpha: float = knob(0.34, legal=(0.0, 1.0), search=(0.1, 0.9), help="Focal weight of the positive class.")
    focal_gamma: float = knob(2.0, legal=(0.0, 10.0), search=(0.0, 5.0), help="Focusing exponent of the focal loss.")
    focal_balanced: bool = knob(
        True,
        help="Whether alpha weighs the classes against each other; else it is a plain factor, and class weights rest.",
    )  # fmt: skip
    background_weight: float = knob(
        1.94, legal=(0.0, 1000.0), search=(0.2, 10.0), scale="log",
        help="Class weight of the background in the focal loss.",
        caution="alpha and the class weights correct for the same imbalance",
    )  # fmt: skip
    foreground_weight: float = knob(
        0.52, legal=(0.0, 1000.0), search=(0.2, 10.0), scale="log",
        help="Class weight of the foreground in the focal loss.",
        caution="alpha and the class weights correct for the same imbalance",
    )  # fmt: skip
    boundary_inner: float = knob(
        3.0, legal=(0.0, 100.0), search=(1.0, 5.0), unit="voxels",
        help="Distance from the border up to which voxels count fully.",
    )  # fmt: skip
    boundary_fade: float = knob(
        2.0, legal=(0.01, 100.0), search=(0.5, 5.0), unit="voxels",
        help="Further distance over which their weight falls to 0.",
    )  # fmt: skip
    cldice_iterations: int = knob(3, legal=(1, 100), search=(1, 15), help="Erosions of the soft skeleton.")
    cldice_smooth: float = knob(
        1e-5, legal=(1e-12, 100.0), search=(1e-6, 1.0), scale="log",
        help="What clDice adds above and below its fractions.",
    )  # fmt: skip
    connectivity_kernel: Literal[3, 5, 7] = knob(3, help="Side of the neighborhood of the connectivity loss.")

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if sum(getattr(self, part) for part in PARTS) <= 0:
            raise ValueError(f"the weights {', '.join(PARTS)} must not all be 0; set at least one above 0")
        return self


class SurfacePostConfig(Section):
    """What is done to a prediction before its surface is scored."""

    threshold: float = knob(
        0.5, legal=(0.0, 1.0), search=(0.1, 0.7), unit="probability", help="Voxels above it are surface.",
        caution="acts on the surface scores alone, not on the objective",
    )  # fmt: skip
    min_component: int = knob(
        100, legal=(0, 10**9), search=(10, 10_000), scale="log", unit="voxels", help="Smaller parts are dropped.",
        caution="acts on the surface scores alone, not on the objective",
    )  # fmt: skip
    max_hole: int = knob(
        50, legal=(0, 10**9), search=(0, 500), unit="voxels", help="Holes up to this size are filled.",
        caution="acts on the surface scores alone, not on the objective",
    )  # fmt: skip
    tolerance: float = knob(
        2.0, legal=(0.0, 100.0), searchable=False, why_not="it is the yardstick", unit="voxels",
        help="Distance at which two surfaces still agree.",
    )  # fmt: skip


def composite_loss(
    probability: Tensor, truth: Tensor, known: Tensor, cfg: SurfaceLossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the parts whose weight is above 0, and each of them.

    Args:
        probability: float[B, 1, *S]. truth: float[B, 1, *S], 0 or 1. known: bool[B, 1, *S]. cfg: weights and shapes.
    """
    made = {
        "dice": lambda: losses.probability_dice_loss(probability, truth, mask=known),
        "focal": lambda: losses.probability_focal_loss(
            probability, truth, alpha=cfg.focal_alpha, gamma=cfg.focal_gamma, balanced=cfg.focal_balanced,
            background_weight=cfg.background_weight, foreground_weight=cfg.foreground_weight, mask=known,
        ),
        "boundary": lambda: losses.boundary_loss(
            probability, truth, inner=cfg.boundary_inner, outer=cfg.boundary_inner + cfg.boundary_fade, mask=known
        ),
        "cldice": lambda: losses.cldice_loss(
            probability, truth, iterations=cfg.cldice_iterations, smooth=cfg.cldice_smooth, mask=known
        ),
        "connectivity": lambda: losses.connectivity_loss(
            probability, truth, kernel=cfg.connectivity_kernel, mask=known
        ),
        "skeleton": lambda: losses.skeleton_recall_loss(probability, losses.skeleton_target(truth), mask=known),
    }  # fmt: skip
    total, parts = torch.zeros((), device=probability.device), {}
    for name in PARTS:
        weight = getattr(cfg, name)
        if weight > 0:
            parts[name] = made[name]()
            total = total + weight * parts[name]
    return total, parts


class SurfaceExaminer:
    """The composite loss of every validation image, that of constant answers, and the surface scores.

    Args:
        loss: weights and shapes. post: what is done to a prediction first.
        constants: loss of each constant answer, or None where they are still to be measured.
    """

    def __init__(self, loss: SurfaceLossConfig, post: SurfacePostConfig, constants: list[float] | None) -> None:
        self._loss, self._post = loss, post
        self.constants = constants

    def see(
        self, probabilities: npt.NDArray[np.float32], label: npt.NDArray[np.uint8], points: Points | None
    ) -> Sequence[float | None]:
        """The loss, the surface scores, and the losses of constant answers; none where nothing is labeled."""
        answers = _CONSTANTS if self.constants is None else ()
        if not (label != IGNORE).any():
            return [None] * (1 + len(SCORES) + len(answers))
        found = torch.from_numpy(probabilities[1])[None, None]
        labels = torch.from_numpy(label.astype(np.int64))[None, None]
        truth, known = (labels == 1).float(), labels != IGNORE
        given = (found, *(torch.full_like(found, value) for value in answers))
        loss, *constant = (float(composite_loss(answer, truth, known, self._loss)[0]) for answer in given)
        post = self._post
        mask = clean_mask(
            probabilities[1] > post.threshold, min_component=post.min_component, max_hole=post.max_hole
        )
        values = surface_scores(mask, label == 1, tolerance=post.tolerance, ignore=label == IGNORE, prefix="val")
        return [loss, *(values[f"val/{name}"] for name in SCORES), *constant]

    def scores(self, seen: Sequence[Sequence[float | None]]) -> dict[str, float | None]:
        """Means over the images with labels; a score that one of them lacks is None."""
        rows = [row for row in seen if row[0] is not None]
        loss, *found = [_mean(column) for column in zip(*rows, strict=True)] or [None] * (1 + len(SCORES))
        if self.constants is None and rows:
            self.constants = [value for value in found[len(SCORES) :] if value is not None]
        floor = min(self.constants) if self.constants else None
        named = {f"val/{name}": value for name, value in zip(SCORES, found, strict=False)}
        return {"val/loss": loss, "val/loss_constant": floor, **named}


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one of them is; the sum is exact, so that their order does not matter."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None
