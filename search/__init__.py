"""The search: what runs trials, records them, and reads them back.

`from search import load_trials, load_history, best_config` gives a run's tables in pandas, from a folder or an
address. They are loaded on first use, because most commands need no pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.tables import best_config, load_history, load_trials

__all__ = ["best_config", "load_history", "load_trials"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("search.tables"), name)
    raise AttributeError(f"module 'search' has no attribute {name!r}")
