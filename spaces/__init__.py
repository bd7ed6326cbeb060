"""What a search may vary: from the knobs of a recipe to coordinates and back."""

from __future__ import annotations

from spaces import catalog
from spaces.named import NAMED, NamedSpace
from spaces.space import SearchSpace

__all__ = ["NAMED", "NamedSpace", "SearchSpace", "catalog"]
