"""Spaces of the recipe `fixmatch`."""

from __future__ import annotations

from typing import Any

from spaces.groups import FOLLOWED, LIMITS, OPTIMIZER, RATE, SELF_TRAINING, VIEWS, free
from spaces.named import register

register(
    "fixmatch/quick",
    "one threshold for all classes, self-training weight, rate, and how strong the strong view is",
    {
        "threshold": {"mode": "shared", "low": 0.5},
        "st.weight": {},
        "optimizer.lr": RATE,
        "augment": {"jitter": {}, "cutmix_p": {}},
    },
)

FULL: dict[str, Any] = {
    "threshold_mode": {},
    "threshold": {"mode": "base_slope"},
    "selection": free("normalize", "momentum", "ramp_share", *LIMITS, "fairness", *FOLLOWED),
    "st": SELF_TRAINING,
    "teacher": {},
    "ema_decay": {},
    "optimizer": OPTIMIZER,
    "augment": VIEWS,
    "patience": {},
}
"""What every recipe with strong views may search."""

register(
    "fixmatch/full",
    "threshold modes and what they may be told, weight and start of self-training, rates, strong view",
    FULL,
)
