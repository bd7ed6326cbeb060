"""Spaces of the recipe `mean_teacher`."""

from __future__ import annotations

from spaces.named import register

register(
    "mean_teacher/quick",
    "weight of the consistency, the teacher's decay, rate, and how strong the strong view is",
    {
        "st.weight": {},
        "ema_decay": {"low": 0.95},
        "optimizer.lr": {"low": 1e-4, "high": 3e-2},
        "augment": {"jitter": {}, "cutmix_p": {}},
    },
)

register(
    "mean_teacher/full",
    "weight, start and ramp of the consistency, a threshold mode, the teacher's decay, rates, views",
    {
        "st": {"weight": {}, "start_step": {}, "ramp_steps": {}},
        "ema_decay": {},
        "threshold_mode": {},
        "threshold": {"mode": "shared"},
        "selection": {
            "momentum": {},
            "keep_ratio": {},
            "drop_share": {},
            "num_sigmas": {},
            "follow": {},
            "quantile": {},
            "weighting": {},
            "weight_gamma": {},
            "weight_level": {},
        },
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
    },
)
