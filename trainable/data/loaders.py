"""Batches as a pure function of (seed, stream, step), cut on the host.

The host cuts uint8 windows out of the memory-mapped cache and draws every random number; the device resamples,
colors and mixes (`augment`). Nothing random is stored: batch number n is the same after any number of restarts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from trainable.data.random import stream_rng
from trainable.data.streams import BLUR_TAPS, F32, PADDING, U8, HostBatch, Source, Stream
from trainable.data.strong import blur_kernel, color_matrix, cutmix_boxes


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
        permutation = _pass(seed, stream, count, epoch)
        picked += permutation[offset : offset + number - len(picked)].tolist()
    return picked


@lru_cache(maxsize=8)
def _pass(seed: int, stream: str, count: int, epoch: int) -> npt.NDArray[np.int64]:
    """One pass's permutation; kept, because a large pool is shuffled slower than a batch is cut."""
    return stream_rng(seed, f"order/{stream}", epoch).permutation(count)


def level_of(image: U8) -> tuple[float, float]:
    """Mean and deviation of an image over all its channels, 1 being white.

    >>> level_of(np.array([[[0, 0, 255], [255, 255, 0]]], np.uint8))
    (0.5, 0.5)
    """
    parts = np.array_split(image.reshape(-1), -(-image.size >> 20))
    counts = np.sum([np.bincount(part, minlength=256) for part in parts], axis=0)
    grades = np.arange(256) / 255
    mean = float(counts @ grades / image.size)
    return mean, math.sqrt(float(counts @ (grades - mean) ** 2 / image.size))


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
    _levels: dict[int, tuple[float, float]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.stream.batch_size % self.world_size:
            raise ValueError(
                f"batch_size must be a multiple of the workers, but got batch_size={self.stream.batch_size}, "
                f"workers={self.world_size}"
            )
        ndim = len(self.shapes[self.indices[0]])
        largest = [max(self.shapes[i][axis] for i in self.indices) for axis in range(ndim)]
        self.crop = (self.stream.crop_size,) * ndim
        if ndim == 3 and self.stream.depth_multiple:
            multiple, most = self.stream.depth_multiple, largest[0] * self.stream.geometry.zoom_max
            self.crop = (min(self.crop[0], math.ceil(most / multiple) * multiple), *self.crop[1:])
        reach = [math.ceil(side / self.stream.geometry.zoom_min) + 2 for side in self.crop]
        self.window = tuple(map(min, largest, reach))

    def batch(self, step: int) -> HostBatch:
        """Batch number `step` of this stream, this worker's part."""
        stream, size = self.stream, self.stream.batch_size
        chosen = order(self.seed, stream.name, len(self.indices), step * size, size)
        rng = stream_rng(self.seed, f"weak/{stream.name}", step)
        drawn = [self._drawn(self.indices[c], rng) for c in chosen]
        mine = slice(self.rank * size // self.world_size, (self.rank + 1) * size // self.world_size)
        local = [self._best(places) for places in drawn[mine]]
        window = np.zeros((len(local), *self.window, 3), np.uint8)
        plane = np.full((len(local), *self.window), PADDING, np.uint8)
        theta = np.stack([self._cut(p, window[i], plane[i]) for i, p in enumerate(local)])
        color, blur, box = self._strong(step)
        return HostBatch(
            window=torch.from_numpy(window), plane=torch.from_numpy(plane), theta=torch.from_numpy(theta),
            side=self._side(step), color=torch.from_numpy(color[:, mine]), blur=torch.from_numpy(blur[:, mine]),
            box=torch.from_numpy(box[:, mine]), index=torch.tensor([p.index for p in local]),
            level=torch.tensor([self._level(p.index) for p in local]) if stream.levels else None,
        )  # fmt: skip

    def _side(self, step: int) -> tuple[int, ...]:
        scale = self.stream.multiscale
        if scale is None or scale.every < 1 or step % scale.every:
            return self.crop
        low, high = (max(1, round(v / scale.multiple)) for v in (scale.low, scale.high))
        draw = stream_rng(self.seed, f"side/{self.stream.name}", step).integers(low, max(low, high) + 1)
        return (int(draw) * scale.multiple,) * len(self.crop)

    def _drawn(self, index: int, rng: np.random.Generator) -> list[_Place]:
        """Where the crop of one image may lie.

        All places are drawn, and one more than is tried: what an image's labels decide moves no other image's numbers,
        so that every worker looks at the labels of its own images alone.
        """
        balance = self.stream.balance
        return [self._place(index, rng) for _ in range(1 if balance is None else balance.tries + 1)]

    def _best(self, places: Sequence[_Place]) -> _Place:
        """The first place, or the one that `balance` likes best of its tries."""
        balance, best, least = self.stream.balance, places[0], math.inf
        if balance is None:
            return best
        labels = self._labels(best.index)
        for place in places[: balance.tries]:
            inside = tuple(
                slice(max(0, math.floor(corner)), max(0, math.floor(corner)) + math.ceil(span))
                for corner, span in zip(place.corner, place.spans, strict=True)
            )
            miss = balance.miss(labels[inside])
            if miss < least:
                best, least = place, miss
            if not miss:
                break
        return best

    def _place(self, index: int, rng: np.random.Generator) -> _Place:
        """Where in its image one crop lies: zoom, corner and mirror."""
        geometry = self.stream.geometry
        zoom = math.exp(rng.uniform(math.log(geometry.zoom_min), math.log(geometry.zoom_max)))
        spans = tuple(side / zoom for side in self.crop)
        corner = []
        for size, span in zip(self.shapes[index], spans, strict=True):
            low, high = sorted((0.0, size - span))
            corner.append(rng.uniform(low, high))
        mirrored = bool(rng.random() < 0.5) and geometry.flip
        return _Place(index, spans, tuple(corner), mirrored)

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
        for axis, inside in enumerate(target):
            # The rim once more beyond it: a pixel that is blended from both sides must not darken.
            if inside.stop < window.shape[axis]:
                along = window.swapaxes(0, axis)
                along[inside.stop] = along[inside.stop - 1]
        plane[tuple(target)] = self._labels(place.index)[tuple(source)] if self.stream.labels != "none" else 0
        return self._theta(place, starts)

    def _level(self, index: int) -> tuple[float, float]:
        """Mean and deviation of an image, looked for once."""
        if index not in self._levels:
            self._levels[index] = level_of(self.source.image(index))
        return self._levels[index]

    def _labels(self, index: int) -> U8:
        return self.targets[index] if self.stream.labels == "targets" else self.source.mask(index)

    def _theta(self, place: _Place, starts: list[int]) -> F32:
        """The affine map from output to window coordinates, both in [-1, 1]; x comes first, as torch wants it."""
        ndim = len(starts)
        theta = np.zeros((ndim, ndim + 1), np.float32)
        where = zip(starts, self.window, place.corner, place.spans, strict=True)
        for axis, (start, room, corner, span) in enumerate(where):
            row = ndim - 1 - axis
            mirror = -1.0 if place.mirrored and axis == ndim - 1 else 1.0
            theta[row, row] = mirror * span / room
            theta[row, ndim] = (2 * (corner - start) + span) / room - 1
        return theta

    def _strong(self, step: int) -> tuple[F32, F32, F32]:
        stream, views = self.stream, self.stream.num_strong if self.stream.strong else 0
        ndim = len(self.window)
        color = np.zeros((views, stream.batch_size, 3, 4), np.float32)
        blur = np.zeros((views, stream.batch_size, BLUR_TAPS), np.float32)
        number = stream.strong.cutmix_boxes if stream.strong else 1
        box = np.zeros((views, stream.batch_size, number * 2 * ndim), np.float32)
        rng = stream_rng(self.seed, f"strong/{stream.name}", step)
        for view in range(views):
            for item in range(stream.batch_size):
                assert stream.strong is not None
                color[view, item] = color_matrix(rng, stream.strong)
                blur[view, item] = blur_kernel(rng, stream.strong.blur_p)
                box[view, item] = cutmix_boxes(rng, stream.strong.cutmix_p, number, ndim)
        return color, blur, box


@dataclass(frozen=True)
class _Place:
    index: int
    spans: tuple[float, ...]
    corner: tuple[float, ...]
    mirrored: bool
