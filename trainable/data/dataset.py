"""The images of a run, opened: which item belongs to which split, and its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainable.config import DataConfig
from trainable.data.cache import open_cache
from trainable.data.check import check
from trainable.data.loaders import StreamSampler
from trainable.data.manifest import Manifest, build_manifest
from trainable.data.points import Points
from trainable.data.stacks import StackSource, stacks_of
from trainable.data.streams import U8, Source, Stream
from trainable.errors import DataError, Fault
from trainable.task import Task


@dataclass
class Dataset:
    """Decoded images and labels by position, and the positions of every split.

    Attributes:
        manifest: files, splits and classes.
        source: decoded pixels.
        shapes: spatial shape by position.
        splits: positions by split.
        class_pixels: labeled training pixels of each class.
        points: (x, y) of the discs that are an image's labels, by position.
        radius: of those discs, in pixels; 0 without points.
        hidden: positions of unlabeled images that happen to have labels, which nothing trains on.
    """

    manifest: Manifest
    source: Source
    shapes: Sequence[tuple[int, ...]]
    splits: Mapping[str, list[int]]
    class_pixels: tuple[int, ...] = field(default=())
    points: Mapping[int, Points] = field(default_factory=dict)
    radius: int = 0
    hidden: tuple[int, ...] = ()

    def task(self) -> Task:
        """What is to be segmented."""
        return Task(tuple(self.manifest.class_names), self.class_pixels, ndim=3 if len(self.shapes[0]) == 3 else 2)

    def positions(self, split: str) -> list[int]:
        """Positions of one split, or of several joined by `+`, sorted by split and id.

        Raises:
            DataError: there are none.
        """
        found = [i for part in split.split("+") for i in self.splits.get(part, [])]
        if not found:
            counts = ", ".join(f"{name} {len(items)}" for name, items in self.splits.items())
            raise DataError([Fault("data", f"split {split!r} must have images, but there are none ({counts})")])
        return found

    def sampler(
        self, stream: Stream, seed: int, rank: int = 0, world_size: int = 1, targets: Mapping[int, U8] | None = None
    ) -> StreamSampler:
        """What cuts one stream's batches."""
        indices = self.positions(stream.split)
        if stream.labels == "targets":
            indices = [i for i in indices if i in (targets or {})]
        return StreamSampler(stream, self.source, indices, self.shapes, seed, rank, world_size, targets or {})


def open_dataset(cfg: DataConfig, base: Path, *, supervised: bool = False) -> Dataset:
    """Read a data section's files, check them, and open the cache of their decoded pixels.

    Args:
        cfg: the data section.
        base: the folder that a relative `root` starts from.
        supervised: whether a run without unlabeled images is meant.

    Raises:
        DataError: the data cannot be used: every fault at once.
    """
    manifest = build_manifest(cfg, base)
    check(manifest, cfg, supervised=supervised, decode=False)
    cache = open_cache(manifest, cfg.cache)
    splits: dict[str, list[int]] = {"labeled": [], "unlabeled": [], "val": [], "test": []}
    for position, item in enumerate(manifest.items):
        splits[item.split].append(position)
    shapes = [(item.height, item.width) for item in manifest.items]
    pixels = tuple(int(n) for n in cache.class_pixels())
    if manifest.layout == "volume":
        return _volumes(manifest, cache, pixels)
    points = {i: item.points for i, item in enumerate(manifest.items) if item.points is not None}
    hidden = tuple(i for i, item in enumerate(manifest.items) if item.hidden is not None)
    return Dataset(manifest, cache, shapes, splits, pixels, points, manifest.radius, hidden)


def _volumes(manifest: Manifest, source: Source, pixels: tuple[int, ...]) -> Dataset:
    """The same data with stacks of sections in place of images."""
    stacks = stacks_of(manifest.items)
    splits: dict[str, list[int]] = {"labeled": [], "unlabeled": [], "val": [], "test": []}
    shapes = []
    for position, stack in enumerate(stacks):
        first = manifest.items[stack.sections[0]]
        splits[stack.split].append(position)
        shapes.append((len(stack.sections), first.height, first.width))
    return Dataset(manifest, StackSource(source, stacks), shapes, splits, pixels)
