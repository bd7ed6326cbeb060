"""Batches as a pure function of (seed, stream, step), cut on the host and prefetched by one thread.

The host cuts uint8 windows out of the memory-mapped cache and draws every random number; the device resamples,
colors and mixes (`augment`). Nothing random is stored: batch number n is the same after any number of restarts.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainable.data.balance import Balance
from trainable.data.random import stream_rng

PADDING = 254

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
        jitter_p: chance of jitter. jitter: half-range of brightness, contrast, saturation; hue half of it.
        gray_p: chance of gray. blur_p: chance of a Gaussian blur with sigma in [0.1, 2] pixels.
        cutmix_p: chance that a box of the next image of the batch is pasted in.
    """

    jitter_p: float = 0.8
    jitter: float = 0.5
    gray_p: float = 0.2
    blur_p: float = 0.5
    cutmix_p: float = 0.5


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


@dataclass
class HostBatch:
    """What one stream needs from the host for one step; numpy, or torch once pinned.

    Attributes:
        window: uint8[B, *W, 3]. plane: uint8[B, *W], label, 255 ignored, 254 outside the image; without labels 0.
        theta: float32[B, n, n + 1], output to window coordinates. side: side of the views.
        color: float32[V, B, 3, 4]. blur: float32[V, B, K]. box: float32[V, B, 2 n] as shares of the side.
        index: int64[B], positions in the data.
    """

    window: Tensor
    plane: Tensor
    theta: Tensor
    side: int
    color: Tensor
    blur: Tensor
    box: Tensor
    index: Tensor


def order(seed: int, stream: str, count: int, first: int, number: int) -> list[int]:
    """Positions first .. first + number of an endless shuffled pass over `count` items.

    Every item comes once per pass; pass e is the permutation of the stream (seed, order/<stream>, e).

    Raises:
        ValueError: `count` is 0.

    >>> sorted(order(0, "labeled", 4, 0, 4))
    [0, 1, 2, 3]
    """
    if count < 1:
        raise ValueError(f"stream {stream!r} must have at least one item, but got count={count}")
    picked: list[int] = []
    while len(picked) < number:
        epoch, offset = divmod(first + len(picked), count)
        permutation = stream_rng(seed, f"order/{stream}", epoch).permutation(count)
        picked += permutation[offset : offset + number - len(picked)].tolist()
    return picked


@dataclass
class StreamSampler:
    """Cuts one stream's batches.

    Args:
        stream: what to cut.
        source: decoded images.
        indices: positions of the stream's items in the source.
        shapes: spatial shape of every item of the source.
        seed: the run's seed.
        rank: this worker. world_size: number of workers; each cuts its own part of the batch.
        targets: labels by position for `labels="targets"`.
    """

    stream: Stream
    source: Source
    indices: Sequence[int]
    shapes: Sequence[tuple[int, ...]]
    seed: int
    rank: int = 0
    world_size: int = 1
    targets: Mapping[int, U8] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.stream.batch_size % self.world_size:
            raise ValueError(
                f"batch_size must be a multiple of the workers, but got batch_size={self.stream.batch_size}, "
                f"workers={self.world_size}"
            )
        ndim = len(self.shapes[self.indices[0]])
        largest = [max(self.shapes[i][axis] for i in self.indices) for axis in range(ndim)]
        reach = math.ceil(self.stream.crop_size / self.stream.geometry.zoom_min) + 2
        self.window = tuple(min(size, reach) for size in largest)

    def batch(self, step: int) -> HostBatch:
        """Batch number `step` of this stream, this worker's part."""
        stream, size = self.stream, self.stream.batch_size
        chosen = order(self.seed, stream.name, len(self.indices), step * size, size)
        rng = stream_rng(self.seed, f"weak/{stream.name}", step)
        places = [self._chosen(self.indices[c], rng) for c in chosen]
        mine = slice(self.rank * size // self.world_size, (self.rank + 1) * size // self.world_size)
        local = places[mine]
        window = np.zeros((len(local), *self.window, 3), np.uint8)
        plane = np.full((len(local), *self.window), PADDING, np.uint8)
        theta = np.stack([self._cut(p, window[i], plane[i]) for i, p in enumerate(local)])
        color, blur, box = self._strong(step)
        return HostBatch(
            window=torch.from_numpy(window), plane=torch.from_numpy(plane), theta=torch.from_numpy(theta),
            side=self._side(step), color=torch.from_numpy(color[:, mine]), blur=torch.from_numpy(blur[:, mine]),
            box=torch.from_numpy(box[:, mine]), index=torch.tensor([p.index for p in local]),
        )  # fmt: skip

    def _side(self, step: int) -> int:
        scale = self.stream.multiscale
        if scale is None or scale.every < 1 or step % scale.every:
            return self.stream.crop_size
        low, high = (max(1, round(v / scale.multiple)) for v in (scale.low, scale.high))
        draw = stream_rng(self.seed, f"side/{self.stream.name}", step).integers(low, max(low, high) + 1)
        return int(draw) * scale.multiple

    def _chosen(self, index: int, rng: np.random.Generator) -> _Place:
        """Where the crop of one image lies: the first place, or the one that `balance` likes best of its tries."""
        balance, place = self.stream.balance, self._place(index, rng)
        if balance is None:
            return place
        labels, best, least = self._labels(index), place, math.inf
        for _ in range(balance.tries):
            inside = tuple(
                slice(max(0, math.floor(corner)), max(0, math.floor(corner)) + math.ceil(place.span))
                for corner in place.corner
            )
            miss = balance.miss(labels[inside])
            if miss < least:
                best, least = place, miss
            if not miss:
                break
            place = self._place(index, rng)
        return best

    def _place(self, index: int, rng: np.random.Generator) -> _Place:
        """Where in its image one crop lies: zoom, corner and mirror."""
        geometry = self.stream.geometry
        zoom = math.exp(rng.uniform(math.log(geometry.zoom_min), math.log(geometry.zoom_max)))
        span = self.stream.crop_size / zoom
        corner = []
        for size in self.shapes[index]:
            low, high = sorted((0.0, size - span))
            corner.append(rng.uniform(low, high))
        mirrored = bool(rng.random() < 0.5) and geometry.flip
        return _Place(index, span, tuple(corner), mirrored)

    def _cut(self, place: _Place, window: U8, plane: U8) -> F32:
        """Copy the part of the image that the crop needs, and say how the crop lies in it."""
        image = self.source.image(place.index)
        starts, source, target = [], [], []
        for size, room, corner in zip(self.shapes[place.index], self.window, place.corner, strict=True):
            start = min(max(0, math.floor(corner)), max(0, size - room))
            stop = min(size, start + room)
            starts.append(start)
            source.append(slice(start, stop))
            target.append(slice(0, stop - start))
        window[tuple(target)] = image[tuple(source)]
        plane[tuple(target)] = self._labels(place.index)[tuple(source)] if self.stream.labels != "none" else 0
        return self._theta(place, starts)

    def _labels(self, index: int) -> U8:
        return self.targets[index] if self.stream.labels == "targets" else self.source.mask(index)

    def _theta(self, place: _Place, starts: list[int]) -> F32:
        """The affine map from output to window coordinates, both in [-1, 1]; x comes first, as torch wants it."""
        ndim = len(starts)
        theta = np.zeros((ndim, ndim + 1), np.float32)
        for axis, (start, room, corner) in enumerate(zip(starts, self.window, place.corner, strict=True)):
            row = ndim - 1 - axis
            mirror = -1.0 if place.mirrored and axis == ndim - 1 else 1.0
            theta[row, row] = mirror * place.span / room
            theta[row, ndim] = (2 * (corner - start) + place.span) / room - 1
        return theta

    def _strong(self, step: int) -> tuple[F32, F32, F32]:
        stream, views = self.stream, self.stream.num_strong if self.stream.strong else 0
        ndim = len(self.window)
        color = np.zeros((views, stream.batch_size, 3, 4), np.float32)
        blur = np.zeros((views, stream.batch_size, BLUR_TAPS), np.float32)
        box = np.zeros((views, stream.batch_size, 2 * ndim), np.float32)
        rng = stream_rng(self.seed, f"strong/{stream.name}", step)
        for view in range(views):
            for item in range(stream.batch_size):
                assert stream.strong is not None
                color[view, item] = color_matrix(rng, stream.strong)
                blur[view, item] = blur_kernel(rng, stream.strong.blur_p)
                box[view, item] = cutmix_box(rng, stream.strong.cutmix_p, ndim)
        return color, blur, box


@dataclass(frozen=True)
class _Place:
    index: int
    span: float
    corner: tuple[float, ...]
    mirrored: bool


BLUR_TAPS = 9
_GRAY = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def color_matrix(rng: np.random.Generator, strong: Photometric) -> F32:
    """Brightness, contrast, saturation, hue and gray as one affine map of RGB in [0, 1].

    Contrast turns about mid-gray 0.5 instead of the image's own mean, so that the map needs no look at the image.

    Returns:
        float32[3, 4]: y = m[:, :3] x + m[:, 3].

    >>> import numpy as np
    >>> color_matrix(np.random.default_rng(0), Photometric(jitter_p=0.0, gray_p=0.0)).tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    """
    draws = rng.random(6)
    matrix, offset = np.eye(3), np.zeros(3)
    if draws[0] < strong.jitter_p:
        brightness, contrast, saturation = 1 + strong.jitter * (2 * draws[1:4] - 1)
        angle = math.pi * strong.jitter / 2 * (2 * draws[4] - 1)
        turn = np.array(
            [[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]]
        )
        matrix = _FROM_YIQ @ turn @ _TO_YIQ
        matrix = (saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), _GRAY)) @ matrix
        matrix = contrast * brightness * matrix
        offset = np.full(3, 0.5 * (1 - contrast))
    if draws[5] < strong.gray_p:
        gray = np.outer(np.ones(3), _GRAY)
        matrix, offset = gray @ matrix, gray @ offset
    return np.asarray(np.concatenate([matrix, offset[:, None]], axis=1), np.float32)


def blur_kernel(rng: np.random.Generator, chance: float) -> F32:
    """A normalized Gaussian kernel with sigma in [0.1, 2] pixels, or the identity.

    >>> import numpy as np
    >>> float(blur_kernel(np.random.default_rng(0), 0.0)[BLUR_TAPS // 2])
    1.0
    """
    draw, share = rng.random(2)
    offsets = np.arange(BLUR_TAPS) - BLUR_TAPS // 2
    if draw >= chance:
        return np.asarray(offsets == 0, np.float32)
    sigma = 0.1 + 1.9 * share
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    return np.asarray(kernel / kernel.sum(), np.float32)


def cutmix_box(rng: np.random.Generator, chance: float, ndim: int) -> F32:
    """A box that covers a share of the image, or an empty one.

    In 2D the area is in [0.02, 0.4] of the image and the aspect ratio in [0.3, 1/0.3] (log-uniform); in 3D the
    volume is in the same range and the box is a cube. Clipped so that it lies inside.

    Returns:
        float32[2 ndim]: lower then upper corner, in shares of the side.

    >>> import numpy as np
    >>> cutmix_box(np.random.default_rng(0), 0.0, 2).tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    draws = rng.random(3 + ndim)
    if draws[0] >= chance:
        return np.zeros(2 * ndim, np.float32)
    share = 0.02 + 0.38 * draws[1]
    sides = np.full(ndim, share ** (1 / ndim))
    if ndim == 2:
        ratio = math.exp(math.log(0.3) * (2 * draws[2] - 1))
        sides = np.minimum(1.0, np.array([math.sqrt(share * ratio), math.sqrt(share / ratio)]))
    low = draws[3:] * (1 - sides)
    return np.concatenate([low, low + sides]).astype(np.float32)


Batches = dict[str, HostBatch]


class Prefetcher:
    """Cuts batches ahead of the loop in one daemon thread.

    An exception in the thread is raised where the batch would have been taken.

    Args:
        cut: step to batches.
        first: the first step. stop: the step after the last.
        depth: how many batches wait at most.
    """

    def __init__(self, cut: Callable[[int], Batches], first: int, stop: int, depth: int = 2) -> None:
        self._queue: queue.Queue[Batches | BaseException] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._count = max(0, stop - first)
        self._thread = threading.Thread(target=self._run, args=(cut, first, stop), name="prefetch", daemon=True)
        self._thread.start()

    def _run(self, cut: Callable[[int], Batches], first: int, stop: int) -> None:
        for step in range(first, stop):
            try:
                made: Batches | BaseException = cut(step)
            except Exception as error:  # handed to the loop, which raises it
                made = error
            while not self._closed.is_set():
                try:
                    self._queue.put(made, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._closed.is_set() or isinstance(made, BaseException):
                return

    def __iter__(self) -> Iterator[Batches]:
        for _ in range(self._count):
            made = self._queue.get()
            if isinstance(made, BaseException):
                raise made
            yield made

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._closed.set()
        self._thread.join(timeout=10)
