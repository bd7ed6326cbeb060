"""The training system: one loop for every recipe. Runs without Ray and without `search`.

`from trainable import train` runs one configuration. It is loaded on first use, because torch takes seconds to import
and most commands do not need it.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainable.loop import train

__all__ = ["train"]

# PyTorch asks Linux for huge pages for its large tensors on the CPU: a tenth of a step's time there goes into page
# faults. It reads this once, at its first allocation, and the trials' processes inherit it.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def __getattr__(name: str) -> Any:
    if name == "train":
        return importlib.import_module("trainable.loop").train
    raise AttributeError(f"module 'trainable' has no attribute {name!r}")
