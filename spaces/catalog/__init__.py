"""The named spaces, one file per recipe; every file of this folder is read, so that a new recipe is a new file."""

from __future__ import annotations

import importlib
import pkgutil

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
