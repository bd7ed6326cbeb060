"""Spaces of the recipe `diverse_head`."""

from __future__ import annotations

from spaces.named import register

register(
    "diverse_head/quick",
    "weight of the vote's loss, votes of the sum, frozen draws, dropout, and the learning rate",
    {"st.weight": {}, "vote_mean_weight": {}, "freeze_draws": {}, "head_dropout": {}, "optimizer.lr": {}},
)

register(
    "diverse_head/full",
    "number and width of the heads, freezing and dropout, the vote and its start, rates, decay, zoom",
    {
        "num_heads": {},
        "head_channels": {},
        "head_dropout": {},
        "freeze_draws": {},
        "freeze_start_step": {},
        "vote_mean_weight": {},
        "st": {"weight": {}, "start_step": {}, "ramp_steps": {}},
        "optimizer": {
            "lr": {},
            "head_lr_mult": {},
            "momentum": {},
            "weight_decay": {},
            "warmup_steps": {},
            "schedule": {},
            "lr_floor": {},
        },
        "grad_clip": {},
        "bn_momentum": {},
        "patience": {},
        "augment": {"zoom_min": {}, "zoom_max": {}, "flip": {}},
    },
)
