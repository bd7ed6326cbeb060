"""What a stream of training data is: which images, how they are cut and changed, and what the host hands over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trainable.data.balance import Balance

PADDING = 254
BLUR_TAPS = 9

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


class Source(Protocol):
    """Decoded images and masks by position; `data.cache.Cache` is one."""

    def image(self, index: int) -> U8:
        """uint8[*S, 3]."""

    def mask(self, index: int) -> U8:
        """uint8[*S]; 255 = ignore."""


@dataclass(frozen=True)
class Geometry:
    """The weak view: random zoom, crop and mirror.

    Attributes:
        zoom_min: smallest output pixels per source pixel.
        zoom_max: largest.
        flip: mirror the last axis half of the time.
    """

    zoom_min: float = 1.0
    zoom_max: float = 1.0
    flip: bool = True


@dataclass(frozen=True)
class Photometric:
    """The strong view on top of the weak one.

    Attributes:
        jitter_p: chance of jitter. jitter: half-range of brightness, contrast, saturation; hue half of it of a turn.
        gray_p: chance of gray. blur_p: chance of a Gaussian blur with sigma in [0.1, 2] pixels.
        cutmix_p: chance that boxes of the next image of the batch are pasted in. cutmix_boxes: how many.
    """

    jitter_p: float = 0.8
    jitter: float = 0.5
    gray_p: float = 0.2
    blur_p: float = 0.5
    cutmix_p: float = 0.5
    cutmix_boxes: int = 1


@dataclass(frozen=True)
class MultiScale:
    """On every n-th step the batch is rendered at a random side instead of the crop's.

    Attributes:
        low: smallest side in pixels. high: largest. every: period in steps; 0 = never. multiple: sides are
        rounded to it.
    """

    low: int
    high: int
    every: int
    multiple: int = 16


@dataclass(frozen=True)
class Stream:
    """One stream of a phase: which images, how many, and which views of them.

    Attributes:
        name: key in the batch.
        split: `labeled`, `unlabeled`, or several joined by `+`.
        batch_size: over all workers.
        crop_size: side of the weak and strong views.
        geometry: the weak view.
        strong: strong views' recipe; None for none.
        num_strong: how many strong views.
        labels: whether labels are read: `mask` (the data's), `targets` (written by the phase) or `none`.
        start_step: the first step of the phase that gets this stream.
        multiscale: random sides, or None.
        balance: how crops are chosen by their labels, or None: the first is taken.
        depth_multiple: views of volumes that are all thinner than the crop are only as deep as the deepest one,
            rounded up to a multiple of this; 0 = they are cubes.
        levels: whether every image's own mean and deviation come with its crop.
    """

    name: str
    split: str
    batch_size: int
    crop_size: int
    geometry: Geometry = Geometry()
    strong: Photometric | None = None
    num_strong: int = 0
    labels: str = "mask"
    start_step: int = 0
    multiscale: MultiScale | None = None
    balance: Balance | None = None
    depth_multiple: int = 0
    levels: bool = False


@dataclass
class HostBatch:
    """What one stream needs from the host for one step; numpy, or torch once pinned.

    Attributes:
        window: uint8[B, *W, 3]. plane: uint8[B, *W], label, 255 ignored, 254 outside the image; without labels 0.
        theta: float32[B, n, n + 1], output to window coordinates. side: spatial shape [n] of the views.
        color: float32[V, B, 3, 4]. blur: float32[V, B, K]. box: float32[V, B, K 2 n], K boxes, as shares of the side.
        index: int64[B], positions in the data.
        level: float32[B, 2], mean and deviation of the whole images as stored, of all channels, 1 being white; or None.
    """

    window: Tensor
    plane: Tensor
    theta: Tensor
    side: tuple[int, ...]
    color: Tensor
    blur: Tensor
    box: Tensor
    index: Tensor
    level: Tensor | None = None
