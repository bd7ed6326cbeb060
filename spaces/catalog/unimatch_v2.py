"""Spaces of the recipe `unimatch_v2`."""

from __future__ import annotations

from spaces.groups import OPTIMIZER
from spaces.named import named, register

register(
    "unimatch_v2/quick",
    "one threshold for all classes, self-training weight, rate, the teacher's decay, and complementary channels",
    {
        "threshold": {"mode": "shared", "low": 0.5},
        "st.weight": {},
        "optimizer.lr": {"low": 1e-5, "high": 1e-3},
        "ema_decay": {"low": 0.99},
        "complementary": {},
    },
)

register(
    "unimatch_v2/full",
    "all of fixmatch's, the teacher's decay, and complementary channels",
    {
        **named("fixmatch/full").spec,
        "optimizer": {**OPTIMIZER, "lr": {"low": 1e-5, "high": 1e-3}},
        "complementary": {},
        "keep_share": {},
    },
)
