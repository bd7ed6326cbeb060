"""Spaces of the recipe `cps`."""

from __future__ import annotations

from spaces.groups import OPTIMIZER, RATE, SELECTION, SELF_TRAINING, free
from spaces.named import register

register(
    "cps/quick",
    "weight of the cross supervision, rate, and CutMix",
    {"st.weight": {}, "optimizer.lr": RATE, "augment.cutmix_p": {}},
)

register(
    "cps/full",
    "weight, start and ramp of the cross supervision, a threshold mode, rates, zoom, strong view",
    {
        "st": SELF_TRAINING,
        "threshold_mode": {},
        "threshold": {"mode": "shared"},
        "selection": SELECTION,
        "optimizer": OPTIMIZER,
        "augment": free("zoom_min", "zoom_max", "jitter_p", "blur_p", "cutmix_p", "cutmix_boxes"),
        "patience": {},
    },
)
