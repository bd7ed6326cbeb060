"""Spaces of the recipe `per_class`."""

from __future__ import annotations

from spaces.groups import FOLLOWED, LIMITS, free
from spaces.named import register

_LOSS = {"simplex": ["ce", "dice", "focal"]}

register(
    "per_class/thresholds",
    "the threshold of every class on its own, and nothing else",
    {"threshold": {"mode": "free"}},
)

register(
    "per_class/quick",
    "thresholds by a base and a slope on class frequency, and the four knobs that matter most beside them",
    {
        "threshold": {"mode": "base_slope"},
        "st.weight": {},
        "ema_decay": {},
        "optimizer.lr": {},
        "loss": _LOSS,
    },
)

# Patience never lowers a best-so-far value: it is here to be weighed against what a trial costs.
register(
    "per_class/full",
    "threshold modes, thresholds of every class, self-training weight and schedule, EMA, patience, loss, rates, scales",
    {
        "threshold_mode": {},
        "threshold": {"mode": "free"},
        "selection": free("momentum", *LIMITS, "fairness", *FOLLOWED),
        "st.weight": {},
        "st.start_step": {},
        "st.ramp_steps": {},
        "ema_decay": {},
        "patience": {},
        "loss": {**_LOSS, "focal_gamma": {}, "class_weights": {}},
        "optimizer.lr": {},
        "optimizer.weight_decay": {},
        "optimizer.warmup_steps": {},
        "scale_min": {},
        "scale_max": {},
        "augment": free("zoom_min", "zoom_max", "cutmix_p"),
    },
)
