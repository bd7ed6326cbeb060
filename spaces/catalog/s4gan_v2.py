"""Spaces of the recipe `s4gan_v2`."""

from __future__ import annotations

from spaces.named import register

register(
    "s4gan_v2/quick",
    "both ends of the score threshold, self-training weight, EMA decay, and both learning rates",
    {
        "d_threshold": {},
        "d_threshold_init": {},
        "st.weight": {},
        "ema_decay": {},
        "optimizer.lr": {},
        "d_lr": {},
    },
)

# Patience never lowers a best-so-far value: it is here to be weighed against what a trial costs.
register(
    "s4gan_v2/full",
    "every enhancement: threshold and weight ramps, warm-ups, clipping, EMA, images, patience; rates and zoom",
    {
        "d_threshold": {},
        "d_threshold_init": {},
        "d_threshold_ramp_steps": {},
        "fm_weight": {},
        "st": {"weight": {}, "weight_init": {}, "start_step": {}, "ramp_steps": {}},
        "ema_decay": {},
        "ema_buffers": {},
        "grad_clip": {},
        "d_lr": {},
        "d_beta1": {},
        "d_beta2": {},
        "d_dropout": {},
        "d_image_norm": {"choices": ["batch_minmax", "per_image_minmax"]},
        "d_warmup_steps": {},
        "optimizer": {
            "lr": {},
            "head_lr_mult": {},
            "weight_decay": {},
            "momentum": {},
            "warmup_steps": {},
            "schedule": {},
        },
        "bn_momentum": {},
        "freeze_bn_affine": {},
        "patience": {},
        "augment": {"zoom_min": {}, "zoom_max": {}, "flip": {}},
    },
)
