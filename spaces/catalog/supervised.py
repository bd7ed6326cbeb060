"""Spaces of the recipe `supervised`: what the labeled images alone depend on."""

from __future__ import annotations

from spaces.named import register

_LOSS = {"simplex": ["ce", "dice", "focal"]}

register(
    "supervised/quick",
    "learning rate, EMA decay, and the weights of the loss's parts",
    {"optimizer.lr": {}, "ema_decay": {}, "loss": _LOSS},
)

register(
    "supervised/full",
    "rates, decay, EMA, clipping, patience, loss, scales, and zoom",
    {
        "optimizer": {"lr": {}, "head_lr_mult": {}, "weight_decay": {}, "warmup_steps": {}},
        "ema_decay": {},
        "grad_clip": {},
        "patience": {},
        "loss": {**_LOSS, "focal_gamma": {}, "class_weights": {}},
        "scale_min": {},
        "scale_max": {},
        "augment": {"zoom_min": {}, "zoom_max": {}, "flip": {}},
    },
)
