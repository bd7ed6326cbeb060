"""One run: what `train` takes and `export` writes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from trainable.config.data import DataConfig
from trainable.config.names import check_name
from trainable.knob import Section


class RunConfig(Section):
    """One run: what `train` takes and `export` writes.

    Attributes:
        objective: the metric by which its best model is kept and patience counts; null: the recipe's own.
        direction: `max` or `min`; null: as the metric has it.
    """

    name: str
    recipe: str
    preset: str | None = None
    data: DataConfig
    train: dict[str, Any] = Field(default_factory=dict)
    objective: str | None = Field(None, min_length=1)
    direction: Literal["max", "min"] | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    provenance: dict[str, Any] | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value)
