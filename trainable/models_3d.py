"""Networks for volumes; the only place that needs MONAI, which is loaded when a volume is trained on."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from trainable.errors import ConfigError, Fault
from trainable.models import load_weights, read_weights

KERNEL = 3
SLOPE = 0.01


def _monai(module: str) -> Any:
    # Its import takes seconds, and those who train on images need not have it.
    try:
        return importlib.import_module(f"monai.{module}")
    except ImportError as error:
        raise ConfigError(
            [Fault("data.volume", f"volumes need MONAI, but it cannot be imported ({error}); install it on every "
                   "machine: uv pip install 'monai>=1.4', or thresher with its extra `volume`")]
        ) from error  # fmt: skip


def volume_segmenter(
    num_logits: int, *, filters: int = 32, depth: int = 4, init_from: str | None = None
) -> nn.Module:
    """A 3D UNet: per level two 3x3x3 convolutions with instance norm (not affine) and leaky ReLU.

    The first one of a level halves the sides, a transposed one doubles them again.

    Args:
        num_logits: channels of the output. filters: of the finest level, doubled at every further one.
        depth: how often the sides are halved, at least 2; sides must be multiples of 2^depth.
        init_from: a file of weights, or None.

    Returns:
        float[B, 3, *S] to float[B, num_logits, *S].

    Raises:
        ConfigError: MONAI is not installed.
        CheckpointError: the weights do not fit.
    """
    net: nn.Module = _monai("networks.nets").DynUNet(
        spatial_dims=3, in_channels=3, out_channels=num_logits, kernel_size=[KERNEL] * (depth + 1),
        strides=[1] + [2] * depth, upsample_kernel_size=[2] * depth, filters=[filters * 2**k for k in range(depth + 1)],
        norm_name=("INSTANCE", {"affine": False}), act_name=("leakyrelu", {"negative_slope": SLOPE, "inplace": True}),
    )  # fmt: skip
    if init_from is not None:
        load_weights(net, read_weights(init_from), init_from)
    return net


def fitted_window(depth: int, side: int, multiple: int) -> tuple[int, int, int]:
    """Sides of the windows that a volume is predicted by: a cube, but no deeper than the volume needs.

    A thin volume in a cube would be padding for the most part, which costs time and, as the network normalizes by what
    it sees, bends the answer. Crops of thin volumes are as thin in training (`Stream.depth_multiple`).

    Args:
        depth: of the volume. side: of a crop in training, a multiple of `multiple`. multiple: of what sides must be.

    >>> fitted_window(3, 16, 4), fitted_window(20, 16, 4)
    ((4, 16, 16), (16, 16, 16))
    """
    return (min(side, -(-depth // multiple) * multiple), side, side)


def sliding_window(
    image: Tensor, window: Sequence[int], predict: Callable[[Tensor], Tensor], *, batch_size: int, overlap: float
) -> Tensor:
    """Predict a volume of any size window by window; where windows overlap, their middles count more.

    Args:
        image: float[B, 3, *S]. window: sides. predict: float[n, 3, *window] to float[n, C, *window].
        batch_size: windows at a time. overlap: share of a side that neighbors have in common, in [0, 1).

    Returns:
        float[B, C, *S].
    """
    sides = tuple(window)
    slides = [size > side for size, side in zip(image.shape[2:], sides, strict=True)]
    weights = None
    if any(slides) and not all(slides):
        # Only the axes along which windows overlap weigh: MONAI's least weight would be reached at the rim of a thin
        # axis already, and windows be blended evenly there.
        across = tuple(side for side, moves in zip(sides, slides, strict=True) if moves)
        shape = [side if moves else 1 for side, moves in zip(sides, slides, strict=True)]
        weights = _monai("data.utils").compute_importance_map(across, mode="gaussian", device=image.device)
        weights = weights.view(shape).expand(sides)
    found: Tensor = _monai("inferers").sliding_window_inference(
        image, sides, batch_size, predict, overlap=overlap, mode="gaussian", roi_weight_map=weights
    )
    return found
