"""Spaces of the recipe `self_training_rounds`."""

from __future__ import annotations

from spaces.named import register

_LOSS = {"simplex": ["focal", "dice"]}

register(
    "self_training_rounds/quick",
    "both thresholds and how fast they relax, the number of rounds, both rates, the loss's parts",
    {
        "threshold": {"positive": {}, "negative": {}, "decay": {}},
        "rounds": {"number": {}, "lr": {}},
        "optimizer.lr": {"low": 1e-4, "high": 1e-2},
        "loss": _LOSS,
    },
)

register(
    "self_training_rounds/full",
    "thresholds and their ends, rounds, lengths, restarts, rates, every number of the loss, augmentation",
    {
        "threshold": {
            "positive": {},
            "negative": {},
            "decay": {},
            "positive_floor": {},
            "negative_ceiling": {},
        },
        "rounds": {"number": {}, "init_share": {}, "lr": {}, "reinit": {}, "keep_original_negatives": {}},
        "optimizer": {"lr": {}, "weight_decay": {}, "restart_steps": {}, "restart_growth": {}, "restart_floor": {}},
        "loss": {
            **_LOSS,
            "focal_alpha": {},
            "focal_gamma": {},
            "pos_weight": {},
            "region": {},
            "tversky_alpha": {},
            "tversky_beta": {},
        },
        "augment": {
            "zoom_min": {"low": 0.7},
            "zoom_max": {"high": 1.5},
            "contrast_p": {},
            "contrast": {},
            "brightness": {},
            "blur_p": {},
            "noise_p": {},
            "noise_max": {},
            "rotate_p": {},
            "rotate_degrees": {},
            "elastic_p": {},
            "elastic_alpha": {},
            "elastic_sigma": {},
            "ice_p": {},
            "standardize": {},
        },
    },
)
