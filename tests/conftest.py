"""What holds for every test: nobody draws to wandb by accident."""

from __future__ import annotations

import os

os.environ.setdefault("WANDB_MODE", "disabled")
