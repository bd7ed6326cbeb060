"""The training system: data, networks, recipes and one loop. Runs without Ray and without `search`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainable.loop import train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    """`train` is loaded when it is asked for: a command that needs no torch starts without it."""
    if name == "train":
        return importlib.import_module("trainable.loop").train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
