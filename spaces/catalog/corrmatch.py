"""Spaces of the recipe `corrmatch`."""

from __future__ import annotations

from spaces.catalog.fixmatch import FULL
from spaces.groups import RATE
from spaces.named import register

register(
    "corrmatch/quick",
    "how fast the threshold follows, self-training weight, rate, and the share of the spread logits",
    {
        "selection.momentum": {},
        "st.weight": {},
        "optimizer.lr": RATE,
        "fp_dropout": {},
        "corr_share": {},
    },
)

register(
    "corrmatch/full",
    "all of fixmatch's, the feature view, how logits are spread, and how labels grow",
    {**FULL, "fp_dropout": {}, "corr_share": {}, "corr_channels": {}, "grow_regions": {}},
)
