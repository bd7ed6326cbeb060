"""What recipes with one logit per pixel share: the task, its trivial answer, and the labeled view."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from pydantic import model_validator

from trainable.config import ViewConfig
from trainable.data.streams import Geometry, Stream
from trainable.data.tone import Tone
from trainable.errors import ConfigError, Fault
from trainable.knob import knob, redeclared
from trainable.task import Task


class LabeledAugmentConfig(ViewConfig):
    """How labeled images are changed before they are learned from."""

    zoom_min: float = redeclared(ViewConfig, "zoom_min", 1.0, help="Smallest random zoom.")
    zoom_max: float = redeclared(ViewConfig, "zoom_max", 1.0, help="Largest random zoom.")
    flip: bool = redeclared(ViewConfig, "flip", True, help="Mirror along every axis, each half of the time.")
    contrast_p: float = knob(
        0.5, legal=(0.0, 1.0), search=(0.0, 1.0), help="Chance of another contrast and brightness."
    )
    contrast: float = knob(
        0.2, legal=(0.0, 1.0), search=(0.0, 0.5), help="Half-range of the factor of contrast, about mid-gray."
    )
    brightness: float = knob(
        0.1, legal=(0.0, 1.0), search=(0.0, 0.3),
        help="Half-range of what is added to the brightness, of the range from black to white.",
    )  # fmt: skip
    blur_p: float = knob(0.15, legal=(0.0, 1.0), search=(0.0, 1.0), help="Chance of a blurred image.")
    noise_p: float = knob(0.5, legal=(0.0, 1.0), search=(0.0, 1.0), help="Chance of noise on every pixel.")
    noise_min: float = knob(
        0.01, legal=(0.0, 1.0), search=(0.0, 0.02),
        help="Least deviation of that noise, of the range from black to white.",
    )  # fmt: skip
    noise_max: float = knob(
        0.05, legal=(0.0, 1.0), search=(0.02, 0.1),
        help="Largest deviation of that noise, of the range from black to white.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _noise_ordered(self) -> Self:
        if self.noise_min > self.noise_max:
            raise ValueError(
                f"noise_min must not exceed noise_max, but got noise_min={self.noise_min}, noise_max={self.noise_max}"
            )
        return self


def sigmoid_task(task: Task, recipe: str) -> Task:
    """The task with one logit, whose positive class is the second.

    Raises:
        ConfigError: there are not two classes.

    >>> sigmoid_task(Task(("background", "particle"), (3, 1)), "surface").num_logits
    1
    """
    if not task.binary:
        raise ConfigError(
            [Fault("recipe", f"{recipe} must have two classes, the positive one second, but got "
                   f"{len(task.class_names)} "
                   f"({', '.join(task.class_names)}); merge classes, or name those without a label in data.ignore")]
        )  # fmt: skip
    return replace(task, activation="sigmoid")


def constant_f1(task: Task) -> float:
    """F1 of calling every pixel positive, `2 f / (1 + f)` with f the positive share of the labeled pixels.

    >>> round(constant_f1(Task(("background", "particle"), (2, 1))), 6)
    0.5
    """
    share = task.class_freq[1]
    return 2.0 * share / (1.0 + share)


def training_stream(
    name: str, split: str, batch_size: int, crop_size: int, augment: LabeledAugmentConfig, labels: str = "mask"
) -> Stream:
    """Images with labels, cropped and zoomed; `warp` and `tone` change them further, on the device.

    Args:
        name: see `Stream`, as split and labels. batch_size: over all workers. crop_size: side. augment: how much.
    """
    zoom = Geometry(augment.zoom_min, augment.zoom_max, flip=False)
    return Stream(name, split, batch_size, crop_size, zoom, labels=labels)


def tone_of(augment: LabeledAugmentConfig, ice_p: float = 0.0) -> Tone:
    """The changes of brightness that the knobs ask for."""
    return Tone(
        contrast_p=augment.contrast_p, contrast=augment.contrast, brightness=augment.brightness,
        blur_p=augment.blur_p, noise_p=augment.noise_p, noise_min=augment.noise_min, noise_max=augment.noise_max,
        ice_p=ice_p,
    )  # fmt: skip
