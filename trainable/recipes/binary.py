"""What recipes with one logit per pixel share: the task, its trivial answer, and the labeled view."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from trainable.config import AugmentConfig
from trainable.data.augment import STD, Views
from trainable.data.loaders import Geometry, Photometric, Stream
from trainable.errors import ConfigError, Fault
from trainable.knob import knob, redeclared
from trainable.task import Task


class LabeledAugmentConfig(AugmentConfig):
    """How labeled images are changed before they are learned from."""

    zoom_min: float = redeclared(AugmentConfig, "zoom_min", 1.0, help="Smallest random zoom.")
    zoom_max: float = redeclared(AugmentConfig, "zoom_max", 1.0, help="Largest random zoom.")
    jitter_p: float = redeclared(
        AugmentConfig, "jitter_p", 0.5, acts_from="start", help="Chance that brightness and contrast are jittered."
    )
    jitter: float = redeclared(
        AugmentConfig, "jitter", 0.2, acts_from="start", help="Half-range of brightness, contrast and saturation."
    )
    gray_p: float = redeclared(AugmentConfig, "gray_p", 0.0, acts_from="start", help="Chance of a gray image.")
    blur_p: float = redeclared(AugmentConfig, "blur_p", 0.15, acts_from="start", help="Chance of a blurred image.")
    cutmix_p: float = redeclared(
        AugmentConfig, "cutmix_p", 0.0, search=None, searchable=False, why_not="labels are not mixed in this recipe",
        help="Has no effect in this recipe.",
    )  # fmt: skip
    noise: float = knob(
        0.03, legal=(0.0, 1.0), search=(0.0, 0.1),
        help="Deviation of the noise on every pixel, of the range from black to white.",
    )  # fmt: skip


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
    """Images with labels: cropped, zoomed and mirrored, and changed in color in their strong view.

    Args:
        name: see `Stream`, as split and labels. batch_size: over all workers. crop_size: side. augment: how much.
    """
    photometric = Photometric(augment.jitter_p, augment.jitter, augment.gray_p, augment.blur_p, 0.0)
    changed = augment.jitter_p > 0 or augment.gray_p > 0 or augment.blur_p > 0
    return Stream(
        name, split, batch_size, crop_size, Geometry(augment.zoom_min, augment.zoom_max, augment.flip),
        strong=photometric if changed else None, num_strong=int(changed), labels=labels,
    )  # fmt: skip


def training_image(view: Views, noise: float) -> Tensor:
    """The image that is learned from, float32[B, 3, *S]: the strong view where there is one, with noise.

    Args:
        view: of `training_stream`. noise: its deviation, of the range from black to white; 0 on padding.
    """
    image = view.strong[0] if view.strong else view.image
    if not noise:
        return image
    # Drawn once for all channels, so that a gray image stays gray.
    drawn = torch.randn_like(image[:, :1]) * view.valid.unsqueeze(1)
    return image + noise / (sum(STD) / len(STD)) * drawn
