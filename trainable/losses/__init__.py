"""Losses: pure functions of tensors and numbers, in float32, without a host sync.
 Those on logits and label maps serve the pixel-level recipes; `probability_*`, `boundary_*`, `cldice_loss`
and the like take probabilities and masks of two or three dimensions.
"""

from __future__ import annotations

from trainable.losses.adversarial import discriminator_loss, feature_matching
from trainable.losses.binary import (
    binary_cross_entropy,
    binary_dice_loss,
    binary_focal_loss,
    log_loss,
    tversky_loss,
)
from trainable.losses.boundary import boundary_loss, boundary_weight, connectivity_loss
from trainable.losses.class_weights import class_weights
from trainable.losses.consistency import (
    cosine_consistency,
    entropy_loss,
    fairness_loss,
    ohem_cross_entropy,
    soft_cross_entropy,
    softmax_mse,
)
from trainable.losses.pixel import cross_entropy, dice_loss, focal_loss, one_hot
from trainable.losses.probability import focal_pair, probability_dice_loss, probability_focal_loss
from trainable.losses.reduction import weighted_mean
from trainable.losses.skeleton import cldice_loss, skeleton_recall_loss, skeleton_target, soft_skeleton

__all__ = [
    "binary_cross_entropy",
    "binary_dice_loss",
    "binary_focal_loss",
    "boundary_loss",
    "boundary_weight",
    "class_weights",
    "cldice_loss",
    "connectivity_loss",
    "cosine_consistency",
    "cross_entropy",
    "dice_loss",
    "discriminator_loss",
    "entropy_loss",
    "fairness_loss",
    "feature_matching",
    "focal_loss",
    "focal_pair",
    "log_loss",
    "ohem_cross_entropy",
    "one_hot",
    "probability_dice_loss",
    "probability_focal_loss",
    "skeleton_recall_loss",
    "skeleton_target",
    "soft_cross_entropy",
    "soft_skeleton",
    "softmax_mse",
    "tversky_loss",
    "weighted_mean",
]
