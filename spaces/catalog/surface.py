"""Spaces of the recipe `surface`."""

from __future__ import annotations

from spaces.groups import RATE
from spaces.named import register

_LOSS = {"simplex": ["dice", "focal", "boundary", "cldice", "connectivity"]}

register(
    "surface/quick",
    "learning rate, and the weights of the loss's five parts",
    {"optimizer.lr": RATE, "loss": {**_LOSS, "focal_alpha": {}}},
)

register(
    "surface/full",
    "rates, plateau, clipping, every number of the loss, and augmentation",
    {
        "optimizer": {"lr": {}, "weight_decay": {}, "warmup_steps": {}, "plateau_factor": {}, "plateau_patience": {}},
        "grad_clip": {},
        "loss": {
            **_LOSS,
            "focal_alpha": {},
            "focal_gamma": {},
            "focal_balanced": {},
            "background_weight": {},
            "foreground_weight": {},
            "boundary_inner": {},
            "boundary_fade": {},
            "cldice_iterations": {},
            "cldice_smooth": {},
            "connectivity_kernel": {},
        },
        "augment": {
            "contrast_p": {},
            "contrast": {},
            "brightness": {},
            "noise_p": {},
            "noise_max": {},
            "rot90_p": {},
            "flip": {},
            "clip_percent": {},
            "balance_tries": {},
            "balance_min": {},
            "balance_max": {},
        },
        "patience": {},
    },
)

register(
    "surface/volume",
    "those of quick, with the network for volumes",
    {
        "optimizer.lr": RATE,
        "loss": {**_LOSS, "focal_alpha": {}},
        "volume": {"filters": {}, "depth": {}},
    },
)
