"""Spaces of the recipe `s4gan`."""

from __future__ import annotations

from typing import Any

from spaces.named import register

_QUICK: dict[str, Any] = {"d_threshold": {}, "fm_weight": {}, "st.weight": {}, "optimizer.lr": {}, "d_lr": {}}

register("s4gan/quick", "the score threshold, the two loss weights, and both learning rates", _QUICK)

register(
    "s4gan/full",
    "the discriminator's optimizer, dropout, images and warm-up, self-training's start and ramp, rates, zoom",
    {
        "d_threshold": {},
        "fm_weight": {},
        "st": {"weight": {}, "start_step": {}, "ramp_steps": {}},
        "d_lr": {},
        "d_beta1": {},
        "d_beta2": {},
        "d_dropout": {},
        "d_image_norm": {"choices": ["batch_minmax", "per_image_minmax"]},
        "d_warmup_steps": {},
        "optimizer": {
            "lr": {},
            "head_lr_mult": {},
            "head_bias_lr_mult": {},
            "weight_decay": {},
            "momentum": {},
            "schedule": {},
            "power": {},
        },
        "grad_clip": {},
        "bn_momentum": {},
        "freeze_bn_affine": {},
        "patience": {},
        "augment": {"zoom_min": {}, "zoom_max": {}, "flip": {}},
    },
)

register(
    "s4gan/mlmt",
    "those of quick, with the multi-label branch and its own",
    {
        **_QUICK,
        "mlmt": {
            "enabled": True,
            "presence_threshold": {},
            "lr": {},
            "weight_decay": {},
            "ema_decay": {},
            "start_step": {},
            "ramp_steps": {},
        },
    },
)
