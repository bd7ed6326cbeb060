"""Spaces of the recipe `unimatch`."""

from __future__ import annotations

from spaces.groups import RATE
from spaces.named import named, register

register(
    "unimatch/quick",
    "one threshold for all classes, self-training weight, rate, and the feature view",
    {
        "threshold": {"mode": "shared", "low": 0.5},
        "st.weight": {},
        "optimizer.lr": RATE,
        "fp_dropout": {},
        "fp_share": {},
    },
)

register(
    "unimatch/full",
    "all of fixmatch's, and the feature view",
    {**named("fixmatch/full").spec, "fp_dropout": {}, "fp_share": {}},
)
