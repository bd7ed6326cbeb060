"""The data section: where images, labels and splits are."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from trainable.knob import Section


class PointsConfig(Section):
    """Coordinates instead of masks."""

    file: str = "points.csv"
    radius: int = Field(10, ge=1, le=1000)
    class_name: str = Field("particle", alias="class", min_length=1)
    model_config = Section.model_config | {"populate_by_name": True}


class VolumeConfig(Section):
    """Sections that stack into volumes."""

    group_by: str
    order_by: str


def _auto_or_room(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError(f"max_gb must be `auto` or a number above 0, but got max_gb={value!r}; change it")


class CacheConfig(Section):
    """Where decoded images are kept between runs; never inside a run."""

    dir: str | None = None
    max_gb: Annotated[float | Literal["auto"], BeforeValidator(_auto_or_room)] = "auto"


class DataConfig(Section):
    """The data section of a sweep file or configuration."""

    root: str
    layout: Literal["auto", "folders", "voc", "points", "volume"] = "auto"
    classes: str | None = None
    labeled: str | None = None
    unlabeled: str | None = None
    val: str | None = None
    test: str | None = None
    group_by: str | None = None
    val_fraction: float = Field(0.2, gt=0.0, lt=1.0)
    split_seed: int = Field(0, ge=0)
    ignore: tuple[str, ...] = ()
    points: PointsConfig | None = None
    volume: VolumeConfig | None = None
    cache: CacheConfig = CacheConfig()
    allow_leak: bool = False
    hidden_labels: int = Field(20, ge=0)
    """Unlabeled images whose masks, where there are any, show how right the pseudo-labels are; none trains on them."""

    @property
    def ndim(self) -> Literal[2, 3]:
        """2 where images are trained on, 3 where sections stack into volumes.

        >>> DataConfig(root="em", volume={"group_by": "^(tr)", "order_by": "z([0-9]+)"}).ndim
        3
        """
        stacked = self.volume is not None and self.points is None
        return 3 if self.layout == "volume" or (self.layout == "auto" and stacked) else 2

    @field_validator("group_by")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        if value is None or value == "none":
            return value
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(
                f"group_by must be a regular expression or 'none', but got group_by={value!r} ({error})"
            ) from error
        return value
