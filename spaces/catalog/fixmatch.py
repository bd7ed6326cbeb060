"""Spaces of the recipe `fixmatch`."""

from __future__ import annotations

from typing import Any

from spaces.named import register

register(
    "fixmatch/quick",
    "one threshold for all classes, self-training weight, rate, and how strong the strong view is",
    {
        "threshold": {"mode": "shared", "low": 0.5},
        "st.weight": {},
        "optimizer.lr": {"low": 1e-4, "high": 3e-2},
        "augment": {"jitter": {}, "cutmix_p": {}},
    },
)

FULL: dict[str, Any] = {
    "threshold_mode": {},
    "threshold": {"mode": "base_slope"},
    "selection": {
        "normalize": {},
        "momentum": {},
        "ramp_share": {},
        "keep_ratio": {},
        "drop_share": {},
        "num_sigmas": {},
        "fairness": {},
        "follow": {},
        "quantile": {},
        "weighting": {},
        "weight_gamma": {},
        "weight_level": {},
    },
    "st": {"weight": {}, "start_step": {}, "ramp_steps": {}},
    "teacher": {},
    "ema_decay": {},
    "optimizer": {"lr": {}, "head_lr_mult": {}, "weight_decay": {}, "power": {}},
    "augment": {
        "zoom_min": {},
        "zoom_max": {},
        "jitter_p": {},
        "jitter": {},
        "gray_p": {},
        "blur_p": {},
        "cutmix_p": {},
    },
    "patience": {},
}
"""What every recipe with strong views may search."""

register(
    "fixmatch/full",
    "threshold modes and what they may be told, weight and start of self-training, rates, strong view",
    FULL,
)
