"""No function of a training step may wait for the device or branch on what a tensor holds.

A step is captured in a graph only if no operator in it reads a value back. Python sees such operators on the CPU
too: a dispatch mode raises on each of them, forward and backward. Operators that wait inside their CUDA kernel,
such as bincount, are named as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainable import ema, losses, metrics, pseudo_labels
from trainable.pseudo_labels import MODES, Numbers, alone

WAITING = {
    "_local_scalar_dense", "nonzero", "nonzero_numpy", "masked_select", "masked_scatter", "bincount", "histc",
    "unique_consecutive", "_unique", "_unique2", "unique_dim", "equal", "is_nonzero", "repeat_interleave",
    "quantile", "nanquantile", "median", "kthvalue", "nll_loss2d_forward_sum",
}  # fmt: skip


class Synchronized(AssertionError):
    """An operator would make the host wait."""


class NoSync(TorchDispatchMode):
    """Raise on operators that read a value back or whose result's shape depends on one."""

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in WAITING:
            raise Synchronized(name)
        if name in ("index", "index_put", "index_put_", "_unsafe_index"):
            for index in args[1]:
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    raise Synchronized(f"{name} with a mask")
        if name in ("_to_copy", "copy_") and any(
            isinstance(a, Tensor) and a.device.type == "cpu" for a in args
        ):
            devices = {a.device.type for a in args if isinstance(a, Tensor)}
            if len(devices) > 1:
                raise Synchronized(f"{name} between devices")
        return func(*args, **(kwargs or {}))


B, C, H, W = 2, 3, 6, 5
LABEL = torch.randint(C, (B, H, W), generator=torch.Generator().manual_seed(0))
LABEL[:, 0] = 255
BINARY_LABEL = LABEL.clamp_max(1) + (LABEL == 255) * 254
VALID = torch.ones(B, H, W, dtype=torch.bool)
VALID[:, :, 0] = False
WEIGHT = torch.rand(B, H, W)
TENSOR = torch.tensor(0.3)
TRUTH = (torch.rand(B, C, H, W) < 0.5).float()
TRUTH_3D = (torch.rand(1, 1, 5, 6, 5) < 0.5).float()
MASK = (torch.rand(B, 1, H, W) < 0.8).float()
PIXEL = {"pixel_weight": WEIGHT, "valid": VALID, "normalize": "all"}

# What is given is a leaf: logits, or probabilities where the name says so.
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "cross_entropy": lambda z: losses.cross_entropy(z, LABEL, class_weight=torch.rand(C), **PIXEL),
    "dice_loss": lambda z: losses.dice_loss(z, LABEL, pixel_weight=WEIGHT, valid=VALID),
    "focal_loss": lambda z: losses.focal_loss(z, LABEL, alpha=TENSOR, gamma=TENSOR, **PIXEL),
    "ohem_cross_entropy": lambda z: losses.ohem_cross_entropy(z, LABEL, threshold=TENSOR, min_kept=5),
    "one_hot": lambda z: (losses.one_hot(LABEL, C) * z).sum(),
    "weighted_mean": lambda z: losses.weighted_mean(z, torch.ones_like(z)),
    "softmax_mse": lambda z: losses.softmax_mse(z, TRUTH, **PIXEL),
    "soft_cross_entropy": lambda z: losses.soft_cross_entropy(z, TRUTH, **PIXEL),
    "entropy_loss": lambda z: losses.entropy_loss(z, **PIXEL),
    "fairness_loss": lambda z: losses.fairness_loss(z, VALID, torch.rand(C), torch.rand(C)),
    "cosine_consistency": lambda z: losses.cosine_consistency(z[:, :, 0, 0], TRUTH[:, :, 0, 0]),
    "feature_matching": lambda z: losses.feature_matching(z[:, :, 0, 0], TRUTH[:, :, 0, 0]),
    "discriminator_loss": lambda z: losses.discriminator_loss(z[0, 0, 0].sigmoid(), z[0, 0, 1].sigmoid()),
    "binary_cross_entropy": lambda z: losses.binary_cross_entropy(
        z[:, :1], BINARY_LABEL, pos_weight=TENSOR, **PIXEL
    ),
    "binary_focal_loss": lambda z: losses.binary_focal_loss(z[:, 0], BINARY_LABEL, alpha=TENSOR, **PIXEL),
    "binary_dice_loss": lambda z: losses.binary_dice_loss(
        z[:, 0], BINARY_LABEL, pixel_weight=WEIGHT, valid=VALID
    ),
    "tversky_loss": lambda z: losses.tversky_loss(z[:, 0], BINARY_LABEL, alpha=TENSOR, beta=TENSOR),
    "log_loss": lambda z: losses.log_loss(z.sigmoid(), TRUTH).mean(),
    "probability_dice_loss": lambda z: losses.probability_dice_loss(z.sigmoid(), TRUTH, mask=MASK),
    "probability_focal_loss": lambda z: losses.probability_focal_loss(
        z.sigmoid(), TRUTH, alpha=TENSOR, mask=MASK
    ),
    "boundary_weight": lambda z: (losses.boundary_weight(TRUTH) * z).sum(),
    "boundary_loss": lambda z: losses.boundary_loss(z.sigmoid(), TRUTH, mask=MASK),
    "connectivity_loss": lambda z: losses.connectivity_loss(z.sigmoid(), TRUTH, mask=MASK),
    "soft_skeleton": lambda z: losses.soft_skeleton(z.sigmoid(), erosion="cube").sum(),
    "cldice_loss": lambda z: losses.cldice_loss(z.sigmoid(), TRUTH, mask=MASK),
    "skeleton_target": lambda z: (losses.skeleton_target(TRUTH) * z).sum(),
    "skeleton_recall_loss": lambda z: losses.skeleton_recall_loss(z.sigmoid(), TRUTH, mask=MASK),
}
HOST = {"class_weights", "focal_pair"}

PROBABILITIES = torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(1)).softmax(1)
SELECTIONS: dict[str, Callable[[], Any]] = {
    "select_per_class": lambda: pseudo_labels.select_per_class(PROBABILITIES, torch.rand(C), VALID),
    "select_images": lambda: pseudo_labels.select_images(torch.rand(B, 1), PROBABILITIES, TENSOR, VALID),
    "vote_target": lambda: pseudo_labels.vote_target(torch.randn(4, B, C, H, W), TENSOR, VALID),
    "fuse_image_labels": lambda: pseudo_labels.fuse_image_labels(PROBABILITIES, torch.rand(B, C), TENSOR),
    "select_two_sided": lambda: pseudo_labels.select_two_sided(PROBABILITIES[:, 0], TENSOR, TENSOR, VALID),
    "round_target": lambda: pseudo_labels.round_target(
        PROBABILITIES[:, 0], LABEL, TENSOR, TENSOR, valid=VALID
    ),
    "confidence": lambda: pseudo_labels.confidence(PROBABILITIES),
    "confidence_weighted": lambda: pseudo_labels.confidence_weighted(
        pseudo_labels.select_per_class(PROBABILITIES, 0.5, VALID), PROBABILITIES, TENSOR
    ),
    "grow": lambda: pseudo_labels.grow(
        pseudo_labels.select_per_class(PROBABILITIES, 0.5, VALID), torch.rand(B, 4, H, W) < 0.5, torch.rand(C)
    ),
    "image_weighted": lambda: pseudo_labels.image_weighted(
        pseudo_labels.select_per_class(PROBABILITIES, 0.5, VALID), PROBABILITIES, TENSOR
    ),
    "without_classes": lambda: pseudo_labels.without_classes(
        pseudo_labels.select_per_class(PROBABILITIES, 0.5, VALID), torch.arange(C) == 1
    ),
    "mean_probabilities": lambda: pseudo_labels.mean_probabilities(torch.randn(4, B, C, H, W)),
    "pixel_entropy": lambda: pseudo_labels.pixel_entropy(PROBABILITIES),
    "per_class": lambda: pseudo_labels.per_class(TENSOR, C, PROBABILITIES),
    "make_target": lambda: pseudo_labels.make_target(LABEL, VALID, None, C, weight=WEIGHT),
    "selection_stats": lambda: pseudo_labels.selection_stats(LABEL, VALID, VALID, C),
    "label_accuracy_counts": lambda: pseudo_labels.label_accuracy_counts(
        pseudo_labels.select_per_class(PROBABILITIES, 0.5), LABEL
    ),
}
NOT_CALLED = {"MODES", "REJECTED", "Mode", "Numbers", "State", "Target", "alone", "two_sided_thresholds"}

COUNTS: dict[str, Callable[[], Any]] = {
    "confusion_matrix": lambda: metrics.confusion_matrix(PROBABILITIES.argmax(1), LABEL, C, valid=VALID),
    "score_histogram": lambda: metrics.score_histogram(PROBABILITIES[:, 0], BINARY_LABEL, valid=VALID),
    "count_bins": lambda: metrics.count_bins(LABEL.clamp_max(C), C + 1),
    "count_classes": lambda: metrics.count_classes(LABEL, VALID, C),
}
READ_ONCE = {"auc_binary", "histogram_auc", "metric_definition", "missing_reasons", "scores"}


def test_every_public_function_is_tried_here() -> None:
    assert set(LOSSES) | HOST == set(losses.__all__)
    assert set(SELECTIONS) | NOT_CALLED == set(pseudo_labels.__all__)
    assert set(COUNTS) | READ_ONCE == set(metrics.__all__)


@pytest.mark.parametrize(
    "careless",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.max()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: 1 if (x > 0).any() else 0,
        lambda x: torch.bincount((x > 0).long().flatten()),
        lambda x: torch.unique(x),
        lambda x: x.masked_select(x > 0),
        lambda x: x.index_put_((x > 0,), torch.zeros(())),
    ],
)
def test_the_mode_raises_on_a_careless_line(careless: Callable[[Tensor], Any]) -> None:
    with pytest.raises(Synchronized), NoSync():
        careless(torch.randn(3, 4))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("autocast", [False, True])
def test_losses_never_wait(name: str, autocast: bool) -> None:
    logits = torch.randn(B, C, H, W).requires_grad_()
    with NoSync(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = LOSSES[name](logits)
        (gradient,) = torch.autograd.grad(value, logits)
    assert value.shape == ()
    assert gradient.isfinite().all()
    if name not in ("one_hot", "weighted_mean", "boundary_weight", "soft_skeleton", "skeleton_target"):
        assert value.dtype == torch.float32


@pytest.mark.parametrize("loss", [losses.boundary_loss, losses.cldice_loss, losses.connectivity_loss])
def test_losses_of_volumes_never_wait(loss: Callable[..., Tensor]) -> None:
    logits = torch.randn(1, 1, 5, 6, 5).requires_grad_()
    with NoSync():
        loss(logits.sigmoid(), TRUTH_3D).backward()
    assert logits.grad is not None


@pytest.mark.parametrize("name", SELECTIONS)
def test_selections_never_wait(name: str) -> None:
    with NoSync():
        SELECTIONS[name]()


@pytest.mark.parametrize("name", MODES)
def test_threshold_modes_never_wait(name: str) -> None:
    state = MODES[name].init(C, "cpu")
    with NoSync():
        for numbers in (Numbers(), Numbers(*[TENSOR] * 6)):
            MODES[name].select(state, PROBABILITIES, VALID, numbers, alone)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_never_wait(name: str) -> None:
    with NoSync():
        COUNTS[name]()


def test_the_running_average_never_waits() -> None:
    source = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average = ema.copy_of(source)
    with NoSync():
        ema.update(average, source, 0.9)
        ema.update(average, source, torch.tensor(0.9))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [*LOSSES, *SELECTIONS, *COUNTS])
def test_nothing_synchronizes_on_a_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in list(globals().items()):
        if isinstance(value, Tensor):
            monkeypatch.setitem(globals(), key, value.cuda())
    monkeypatch.setitem(PIXEL, "pixel_weight", WEIGHT)
    monkeypatch.setitem(PIXEL, "valid", VALID)
    logits = torch.randn(B, C, H, W, device="cuda").requires_grad_()
    with torch.device("cuda"):
        call = (lambda: LOSSES[name](logits).backward()) if name in LOSSES else {**SELECTIONS, **COUNTS}[name]
        call()
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
