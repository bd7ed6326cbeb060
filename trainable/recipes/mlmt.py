"""The multi-label branch of s4GAN: an image classifier that its own running average teaches.

It says which classes an image holds; at evaluation the others are ruled out of the segmentation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainable import ema, losses, schedules
from trainable.config import AugmentConfig
from trainable.data.augment import Views
from trainable.data.streams import Photometric
from trainable.knob import Section, knob, redeclared
from trainable.models import segmenter
from trainable.optimizers import Optimizer, OptimizerSpec

LAST_LR = 1e-4


class MlmtConfig(Section):
    """The multi-label branch; off, none of its other knobs act."""

    enabled: bool = knob(
        False, help="Train an image classifier beside the network, and rule out the classes that it does not see."
    )
    presence_threshold: float = knob(
        0.2, legal=(0.0, 1.0), search=(0.05, 0.5), unit="probability",
        help="A class less likely than this to occur in an image is ruled out of it.",
    )  # fmt: skip
    legacy_zero: bool = knob(
        False, help="Rule a class out by a logit of 0 instead of minus infinity; 0 still wins over negative logits."
    )
    lr: float = knob(
        3e-2, legal=(0.0, 10.0), search=(1e-3, 1e-1), scale="log", help="The classifier's base learning rate."
    )
    weight_decay: float = knob(
        1e-5, legal=(0.0, 1.0), search=(1e-6, 1e-3), scale="log", help="The classifier's weight decay."
    )
    ema_decay: float = knob(
        0.999, legal=(0.0, 1.0), search=(0.9, 0.9999), scale="log1m", horizon=True,
        help="Decay of the classifier's running average.",
    )
    start_step: int = knob(
        4000, legal=(0, 10**9), search=(0, 8000), unit="steps", in_steps=True, acts_from="self_training",
        help="First step at which the classifier learns from its average.",
    )  # fmt: skip
    ramp_steps: int = knob(
        20_000, legal=(0, 10**9), search=(0, 30_000), unit="steps", in_steps=True, acts_from="self_training",
        help="Steps over which that loss's weight rises linearly from 0 to 1.",
    )  # fmt: skip
    jitter_p: float = redeclared(
        AugmentConfig, "jitter_p", 0.8, help="Chance that the colors of the classifier's strong view are jittered."
    )
    jitter: float = redeclared(AugmentConfig, "jitter", 0.5)
    gray_p: float = redeclared(
        AugmentConfig, "gray_p", 0.2, help="Chance that the classifier's strong view is gray."
    )
    blur_p: float = redeclared(
        AugmentConfig, "blur_p", 0.5, help="Chance that the classifier's strong view is blurred."
    )


class PresenceClassifier(nn.Module):
    """An encoder, the mean of its deepest features over the image, and one logit per class.

    Args:
        encoder: name, as smp has it. encoder_weights: see `models.segmenter`. num_classes: C.
    """

    def __init__(self, encoder: str, encoder_weights: str | None, num_classes: int) -> None:
        super().__init__()
        part: Any = segmenter("unet", encoder, encoder_weights, 1).encoder
        self.encoder: nn.Module = part
        self.head = nn.Linear(part.out_channels[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """float[B, 3, H, W] to logits float[B, C]."""
        logits: Tensor = self.head(self.encoder(image)[-1].mean((2, 3)))
        return logits


def present(label: Tensor, num_classes: int) -> Tensor:
    """Which classes occur in a label map.

    Args:
        label: int[B, *S], in [0, C) or ignored. num_classes: C.

    Returns:
        int64[B, C], 0 or 1.

    >>> present(torch.tensor([[0, 2, 255]]), 3).tolist()
    [[1, 0, 1]]
    """
    return losses.one_hot(label, num_classes).flatten(2).amax(2).long()


def strong_view(cfg: MlmtConfig) -> Photometric:
    """Color and blur, without pasting: an image with a piece of another holds other classes."""
    return Photometric(cfg.jitter_p, cfg.jitter, cfg.gray_p, cfg.blur_p, cutmix_p=0.0)


def classifier_schedules(cfg: MlmtConfig) -> dict[str, Callable[[int], float]]:
    """The weight of the classifier's consistency and the decay of its average, by step of the run."""
    return {
        "mlmt.weight": lambda step: schedules.linear_ramp(step, 0.0, 1.0, cfg.ramp_steps, cfg.start_step),
        "mlmt.ema_decay": lambda step: schedules.ema_decay(step, cfg.ema_decay),
    }


def classifier_optimizer(cfg: MlmtConfig, start: int, steps: int) -> OptimizerSpec:
    """SGD with Nesterov momentum, on half a cosine down to `LAST_LR`, of a phase that begins at step `start`."""
    last = min(LAST_LR, cfg.lr)
    return OptimizerSpec(
        ("classifier",), lambda step: last + (cfg.lr - last) * schedules.cosine_warmup(start + step, steps, 0),
        name="sgd", momentum=0.9, nesterov=True, weight_decay=cfg.weight_decay,
    )  # fmt: skip


def classifier_loss(
    classifier: nn.Module, teacher: nn.Module, labeled: Views, unlabeled: Views, weight: Tensor
) -> Tensor:
    """Binary cross-entropy on labeled images, plus the consistency of a strong view with the teacher's weak one.

    Args:
        classifier: learns. teacher: its running average, in evaluation mode.
        labeled: with labels. unlabeled: with one strong view. weight: float[], of the consistency.
    """
    logits = classifier(labeled.image).float()
    loss = losses.binary_cross_entropy(logits, present(labeled.label, logits.shape[1]))
    with torch.no_grad():
        taught = teacher(unlabeled.image)
    return loss + weight * losses.cosine_consistency(classifier(unlabeled.strong[0]), taught)


def teach(classifier: nn.Module, teacher: nn.Module, optimizer: Optimizer, loss: Tensor, decay: Tensor) -> None:
    """One update of the classifier, and of its average."""
    torch.autograd.backward(loss)
    optimizer.step()
    ema.update(teacher, classifier, decay)

