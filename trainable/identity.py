"""What a run is: what its checkpoints must agree with, and what its model needs to be used elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from trainable.config import RunConfig, flatten
from trainable.data.items import Manifest
from trainable.metrics.objective import Objective
from trainable.recipes.interface import Recipe

_FREE = ("amp", "health.", "patience_action", "checkpoint_every_steps", "encoder_weights", "init_from")
"""Knobs that a resume may change."""


def fingerprint(run: RunConfig, recipe: Recipe[Any], objective: Objective) -> dict[str, Any]:
    """What a checkpoint must agree with.

    Args:
        run: the configuration. recipe: made for it. objective: what its best model is.
    """
    flat = flatten(recipe.cfg.model_dump(mode="json"))
    kept = {f"train.{k}": v for k, v in flat.items() if not k.startswith(_FREE)}
    kept |= {"recipe": run.recipe, "classes": list(recipe.task.class_names), "seed": run.seed}
    # Checkpoints of runs by the recipe's own objective need not say so.
    own = Objective(recipe.objective, recipe.direction)
    return kept if objective == own else {**kept, "objective": asdict(objective)}


def description(run: RunConfig, recipe: Recipe[Any], manifest: Manifest) -> dict[str, Any]:
    """What `predict` needs beside the weights.

    Args:
        run: the configuration. recipe: made for it. manifest: of the data that it trains on.
    """
    return {
        "run": run.model_dump(mode="json", by_alias=True),
        "train": recipe.cfg.model_dump(mode="json"),
        "task": asdict(recipe.task),
        "class_colors": [list(c) for c in manifest.class_colors],
        "data_hash": manifest.data_hash,
    }
