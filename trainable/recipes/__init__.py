"""The recipes by name. A new one: its file, an entry here, its space in `spaces/catalog`, its row in the tests."""

from __future__ import annotations

from typing import Any

from trainable.config import nearest
from trainable.errors import ConfigError, Fault
from trainable.recipes.corrmatch import CorrMatch
from trainable.recipes.cps import CPS
from trainable.recipes.diverse_head import DiverseHead
from trainable.recipes.fixmatch import FixMatch
from trainable.recipes.interface import Recipe
from trainable.recipes.mean_teacher import MeanTeacher
from trainable.recipes.per_class import PerClassThresholds
from trainable.recipes.s4gan import S4gan
from trainable.recipes.s4gan_v2 import S4ganV2
from trainable.recipes.self_training_rounds import SelfTrainingRounds
from trainable.recipes.supervised import Supervised
from trainable.recipes.surface import Surface
from trainable.recipes.unimatch import UniMatch
from trainable.recipes.unimatch_v2 import UniMatchV2

RECIPES: dict[str, type[Recipe[Any]]] = {
    kind.name: kind
    for kind in (
        Supervised,
        S4gan,
        S4ganV2,
        PerClassThresholds,
        DiverseHead,
        FixMatch,
        UniMatch,
        UniMatchV2,
        CorrMatch,
        CPS,
        MeanTeacher,
        SelfTrainingRounds,
        Surface,
    )
}


def get_recipe(name: str) -> type[Recipe[Any]]:
    """The recipe of that name.

    Raises:
        ConfigError: there is none.

    >>> get_recipe("per_class").objective
    'val/miou'
    """
    if name not in RECIPES:
        known = ", ".join(sorted(RECIPES))
        raise ConfigError([Fault("recipe", f"must be one of {known}, but got {name!r}{nearest(name, RECIPES)}")])
    return RECIPES[name]


def dimension_fault(kind: type[Recipe[Any]], ndim: int) -> Fault | None:
    """What is wrong where a recipe of images meets volumes, or the other way round.

    >>> print(dimension_fault(RECIPES["per_class"], 3))
    recipe: per_class takes images, but the data are volumes; leave data.volume out, or use another recipe
    >>> dimension_fault(RECIPES["surface"], 3)
    """
    if ndim in kind.ndims:
        return None
    what = {2: "images", 3: "volumes"}
    return Fault("recipe", f"{kind.name} takes {what[kind.ndims[0]]}, but the data are {what[ndim]}; "
                 "leave data.volume out, or use another recipe")  # fmt: skip
