"""Networks that cannot train on one image at a time: a batch normalization behind a pooling over the whole image."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainable.errors import ConfigError, Fault

POOLING_ARCHITECTURES = ("deeplabv3", "deeplabv3plus", "pan", "upernet")
"""Those of smp's that have such a layer."""


def normalized_pooling(network: nn.Module) -> str | None:
    """The name of a layer that pools a whole image to one value per channel and normalizes it over the batch.

    >>> normalized_pooling(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    ''
    >>> normalized_pooling(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.ReLU()))
    """
    for name, module in network.named_modules():
        if not isinstance(module, nn.Sequential):
            continue
        pooled = False
        for child in module:
            if isinstance(child, nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d):
                size = child.output_size
                pooled = size == 1 or isinstance(size, tuple) and set(size) == {1}
            elif pooled and any(isinstance(part, _BatchNorm) for part in child.modules()):
                return str(name)
    return None


def check_batch(nets: Mapping[str, nn.Module], images: int, workers: int = 1) -> None:
    """Refuses one image per worker and step for a network that cannot normalize that.

    Args:
        nets: by name. images: labeled ones per step. workers: how many share them.

    Raises:
        ConfigError: names the layer.
    """
    if images // workers != 1:
        return
    for net in nets.values():
        layer = normalized_pooling(net)
        if layer is not None:
            raise ConfigError([one_image(f"layer {layer or 'of the network'}", images, workers)])


def one_image(what: str, images: int, workers: int) -> Fault:
    """The fault of a batch that leaves one image to each worker."""
    shared = f" with {workers} workers" if workers > 1 else ""
    return Fault(
        "train.batch_size",
        f"each worker must have at least 2 images per step, because {what} normalizes whole images over the batch, but "
        f"got batch_size={images}{shared}; take {2 * workers} or more, or an architecture such as unet or fpn",
    )
