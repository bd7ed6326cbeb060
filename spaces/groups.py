"""Groups of knobs that the spaces of several recipes search alike, each over the knob's own range."""

from __future__ import annotations

from typing import Any


def free(*names: str) -> dict[str, Any]:
    """Knobs over their own ranges, sampled in this order.

    >>> free("lr", "power")
    {'lr': {}, 'power': {}}
    """
    return {name: {} for name in names}


LIMITS = ("keep_ratio", "drop_share", "num_sigmas")
"""What threshold modes cut off by."""

FOLLOWED = ("follow", "quantile", "weighting", "weight_gamma", "weight_level")
"""What a threshold follows, and how much a chosen pixel counts."""

SELECTION = free("momentum", *LIMITS, *FOLLOWED)
"""What every recipe that chooses pixels by a threshold mode may be told."""

SELF_TRAINING = free("weight", "start_step", "ramp_steps")
OPTIMIZER = free("lr", "head_lr_mult", "weight_decay", "power")
RATE = {"low": 1e-4, "high": 3e-2}
"""The learning rate of a quick search."""

VIEWS = free("zoom_min", "zoom_max", "jitter_p", "jitter", "gray_p", "blur_p", "cutmix_p")
"""The weak view's zoom, and all of the strong view."""
