"""Views on the device: one resample, one color matrix, one blur and one CutMix for a whole batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainable.data.streams import BLUR_TAPS, PADDING, HostBatch
from trainable.task import IGNORE

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Views:
    """One stream's batch on the device.

    Attributes:
        image: float32[B, 3, *S], the weak view, normalized; 0 on padding.
        label: int64[B, *S]; 255 where ignored or padded. All 255-or-0 where the stream has no labels.
        valid: bool[B, *S]; False on padding.
        strong: strong views of `image`, float32[B, 3, *S] each, after CutMix.
        boxes: bool[B, *S] per strong view: where the next image of the batch was pasted.
        index: int64[B], positions in the data.
        level: float32[B, 2], mean and deviation of the whole images as stored, 1 being white; None where not asked for.
    """

    image: Tensor
    label: Tensor
    valid: Tensor
    strong: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    index: Tensor
    level: Tensor | None = None


def to_device(batch: HostBatch, device: torch.device) -> HostBatch:
    """The same batch on the device; the copy does not wait where the memory is pinned."""
    if device.type == "cpu":
        return batch
    moved = {
        name: value.pin_memory().to(device, non_blocking=True)
        for name, value in vars(batch).items()
        if isinstance(value, Tensor)
    }
    return HostBatch(**{**vars(batch), **moved})


def normalize(image: Tensor) -> Tensor:
    """float[B, 3, *S] in [0, 1] to the ImageNet statistics.

    >>> normalize(torch.tensor(MEAN).view(1, 3, 1, 1)).abs().max().item()
    0.0
    """
    # Channel by channel, because a tensor made of numbers would make the host wait for its copy.
    return torch.stack([(image[:, c] - MEAN[c]) / STD[c] for c in range(3)], 1)


def resample(batch: HostBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Crop, zoom and mirror in one bilinear resample; labels by nearest neighbor.

    Returns:
        image float32[B, 3, *S] in [0, 1] (0 outside), label int64[B, *S] (255 outside), valid bool[B, *S].
    """
    size = [batch.window.shape[0], 1, *batch.side]
    grid = F.affine_grid(batch.theta, size, align_corners=False)
    pixels = batch.window.movedim(-1, 1).float().div_(255)
    image = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    plane = batch.plane.float().add_(1).unsqueeze(1)
    nearest = F.grid_sample(plane, grid, mode="nearest", padding_mode="zeros", align_corners=False)[:, 0]
    found = nearest.long() - 1
    valid = (found >= 0) & (found != PADDING)
    label = torch.where(valid, found, IGNORE)
    return image * valid.unsqueeze(1), label, valid


def recolor(image: Tensor, color: Tensor) -> Tensor:
    """Apply one affine color map per image, clamped to [0, 1].

    Args:
        image: float[B, 3, *S]. color: float[B, 3, 4].
    """
    flat = torch.baddbmm(color[:, :, 3:], color[:, :, :3], image.flatten(2))
    return flat.clamp_(0, 1).view_as(image)


def blur(image: Tensor, kernel: Tensor) -> Tensor:
    """A separable blur over the last two axes, one kernel per image.

    Args:
        image: float[B, 3, *S]. kernel: float[B, K].
    """
    batch, channels = image.shape[:2]
    planes = image.reshape(1, -1, *image.shape[-2:])
    taps = kernel.repeat_interleave(planes.shape[1] // batch, 0)
    pad = BLUR_TAPS // 2
    padded = F.pad(planes, (pad, pad, pad, pad), mode="replicate")
    rows = F.conv2d(padded, taps[:, None, None, :], groups=planes.shape[1])
    return F.conv2d(rows, taps[:, None, :, None], groups=planes.shape[1]).view_as(image)


def box_mask(box: Tensor, shape: torch.Size) -> Tensor:
    """Where each image's boxes lie; where two of them overlap, neither does.

    Args:
        box: float[B, K 2 n], corners of K boxes in shares of the side. shape: spatial shape [n].

    Returns:
        bool[B, *S].
    """
    ndim = len(shape)
    corners = box.view(len(box), -1, 2, ndim)
    covered = torch.zeros((len(box), *shape), dtype=torch.bool, device=box.device)
    for number in range(corners.shape[1]):
        inside = torch.ones_like(covered)
        for axis, size in enumerate(shape):
            center = (torch.arange(size, device=box.device) + 0.5) / size
            low, high = corners[:, number, :, axis, None].unbind(1)
            within = (center >= low) & (center < high)
            inside = inside & within.view(-1, *(1 if a != axis else size for a in range(ndim)))
        covered = covered ^ inside
    return covered


def mix(value: Tensor, box: Tensor) -> Tensor:
    """Paste the next image's pixels where the box is; the last image takes the first's.

    Args:
        value: [B, *S] or [B, C, *S]. box: bool[B, *S].
    """
    where = box if value.ndim == box.ndim else box.unsqueeze(1)
    return torch.where(where, value.roll(-1, 0), value)


def make_views(batch: HostBatch) -> Views:
    """Every view of one stream's batch."""
    image, label, valid = resample(batch)
    masked = valid.unsqueeze(1)
    strong, boxes = [], []
    for color, kernel, box in zip(batch.color, batch.blur, batch.box, strict=True):
        changed = normalize(blur(recolor(image, color), kernel)) * masked
        boxes.append(box_mask(box, image.shape[2:]))
        strong.append(mix(changed, boxes[-1]))
    return Views(normalize(image) * masked, label, valid, tuple(strong), tuple(boxes), batch.index, batch.level)
