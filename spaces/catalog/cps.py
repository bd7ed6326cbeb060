"""Spaces of the recipe `cps`."""

from __future__ import annotations

from spaces.named import register

register(
    "cps/quick",
    "weight of the cross supervision, rate, and CutMix",
    {"st.weight": {}, "optimizer.lr": {"low": 1e-4, "high": 3e-2}, "augment.cutmix_p": {}},
)

register(
    "cps/full",
    "weight, start and ramp of the cross supervision, a threshold mode, rates, zoom, strong view",
    {
        "st": {"weight": {}, "start_step": {}, "ramp_steps": {}},
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
        "augment": {"zoom_min": {}, "zoom_max": {}, "jitter_p": {}, "blur_p": {}, "cutmix_p": {}},
        "patience": {},
    },
)
