"""Losses: pure functions of tensors and numbers, in float32, without a host sync."""

from __future__ import annotations

from trainable.losses.class_weights import class_weights
from trainable.losses.pixel import cross_entropy, dice_loss, focal_loss, one_hot
from trainable.losses.reduction import weighted_mean

__all__ = ["class_weights", "cross_entropy", "dice_loss", "focal_loss", "one_hot", "weighted_mean"]
