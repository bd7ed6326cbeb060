"""What a run is configured by: the data section, the recipe's knobs, and how they are put together."""

from __future__ import annotations

from trainable.config.data import CacheConfig, DataConfig, PointsConfig, VolumeConfig
from trainable.config.names import NAME_PATTERN, check_name, names_file, nearest
from trainable.config.nested import flatten, merge, per_class, unflatten
from trainable.config.recipe import (
    AugmentConfig,
    HealthConfig,
    LabeledRecipeConfig,
    LossConfig,
    OptimizerConfig,
    PixelRecipeConfig,
    RecipeConfig,
    SelfTrainingConfig,
    ViewConfig,
)
from trainable.config.resolving import faults_of, resolve, scaled
from trainable.config.run import RunConfig

__all__ = [
    "AugmentConfig",
    "CacheConfig",
    "DataConfig",
    "HealthConfig",
    "LabeledRecipeConfig",
    "LossConfig",
    "NAME_PATTERN",
    "OptimizerConfig",
    "PixelRecipeConfig",
    "PointsConfig",
    "RecipeConfig",
    "RunConfig",
    "SelfTrainingConfig",
    "ViewConfig",
    "VolumeConfig",
    "check_name",
    "faults_of",
    "flatten",
    "merge",
    "names_file",
    "nearest",
    "per_class",
    "resolve",
    "scaled",
    "unflatten",
]
