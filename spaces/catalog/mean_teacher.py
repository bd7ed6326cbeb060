"""Spaces of the recipe `mean_teacher`."""

from __future__ import annotations

from spaces.groups import OPTIMIZER, RATE, SELECTION, SELF_TRAINING, VIEWS
from spaces.named import register

register(
    "mean_teacher/quick",
    "weight of the consistency, the teacher's decay, rate, and how strong the strong view is",
    {
        "st.weight": {},
        "ema_decay": {"low": 0.95},
        "optimizer.lr": RATE,
        "augment": {"jitter": {}, "cutmix_p": {}},
    },
)

register(
    "mean_teacher/full",
    "weight, start and ramp of the consistency, a threshold mode, the teacher's decay, rates, views",
    {
        "st": SELF_TRAINING,
        "ema_decay": {},
        "threshold_mode": {},
        "threshold": {"mode": "shared"},
        "selection": SELECTION,
        "optimizer": OPTIMIZER,
        "augment": VIEWS,
        "patience": {},
    },
)
