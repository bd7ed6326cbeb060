"""Small data sets in memory: colored blocks whose color tells the class, with noise."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from trainable.data.dataset import Dataset
from trainable.data.points import discs
from trainable.data.stacks import Stack, StackSource
from trainable.data.streams import U8

COLORS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]])


class Blocks:
    """Images of constant blocks, by position; the same for the same seed."""

    def __init__(self, shapes: Sequence[tuple[int, int]], num_classes: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.masks: list[U8] = []
        self.images: list[U8] = []
        self.read: list[int] = []
        for height, width in shapes:
            coarse = rng.integers(0, num_classes, (4, 4))
            mask = np.kron(coarse, np.ones((height // 4, width // 4))).astype(np.uint8)
            noisy = COLORS[mask] + rng.normal(0, 25, (*mask.shape, 3))
            self.masks.append(mask)
            self.images.append(np.clip(noisy, 0, 255).astype(np.uint8))

    def image(self, index: int) -> U8:
        return self.images[index]

    def mask(self, index: int) -> U8:
        self.read.append(index)
        return self.masks[index]


def blocks_dataset(
    labeled: int = 6, unlabeled: int = 10, val: int = 4, size: int = 64, num_classes: int = 3, seed: int = 0
) -> Dataset:
    """A data set of blocks, all of one size."""
    total = labeled + unlabeled + val
    source = Blocks([(size, size)] * total, num_classes, seed)
    names = tuple("abcd"[:num_classes])
    pixels = [int(sum((source.masks[i] == c).sum() for i in range(labeled))) for c in range(num_classes)]
    colors = [tuple(int(v) for v in COLORS[c]) for c in range(num_classes)]
    manifest: Any = SimpleNamespace(class_names=names, class_colors=colors, data_hash="blocks")
    first_val = labeled + unlabeled
    splits = {
        "labeled": list(range(labeled)), "unlabeled": list(range(labeled, first_val)),
        "val": list(range(first_val, total)), "test": [],
    }  # fmt: skip
    return Dataset(manifest, source, [(size, size)] * total, splits, tuple(pixels))


def dots_dataset(labeled: int = 3, unlabeled: int = 4, val: int = 2, size: int = 64, radius: int = 5) -> Dataset:
    """Gray images with bright discs, whose labels are the discs' centers; unlabeled ones have no points."""
    rng = np.random.default_rng(5)
    source = Blocks([], 2)
    points = {}
    first_val = labeled + unlabeled
    for position in range(labeled + unlabeled + val):
        centers = [(x + rng.uniform(-2, 2), y + rng.uniform(-2, 2)) for x in (12, 32, 52) for y in (12, 32, 52)]
        kept = tuple(center for center in centers if rng.random() < 0.7)
        mask = discs(kept, radius, size, size)
        gray = np.clip(90 + 80 * mask[..., None] + rng.normal(0, 15, (size, size, 1)), 0, 255)
        source.masks.append(mask)
        source.images.append(np.broadcast_to(gray.astype(np.uint8), (size, size, 3)))
        if not labeled <= position < first_val:
            points[position] = kept
    manifest: Any = SimpleNamespace(class_names=("a", "b"), class_colors=[(0, 0, 0), (255, 255, 255)], data_hash="dots")
    splits = {
        "labeled": list(range(labeled)), "unlabeled": list(range(labeled, first_val)),
        "val": list(range(first_val, first_val + val)), "test": [],
    }  # fmt: skip
    positive = int(sum(source.masks[i].sum() for i in range(labeled)))
    pixels = (labeled * size * size - positive, positive)
    return Dataset(manifest, source, [(size, size)] * len(source.masks), splits, pixels, points, radius)


class Volumes(StackSource):
    """Stacks that remember whose labels were read."""

    def __init__(self, source: Blocks, stacks: Sequence[Stack]) -> None:
        super().__init__(source, stacks)
        self.read: list[int] = []

    def mask(self, index: int) -> U8:
        self.read.append(index)
        return super().mask(index)


def stacked_dataset(sections: int = 6, size: int = 16) -> Dataset:
    """Volumes of noisy sections with a bright oblique sheet: labeled on every other section, unlabeled, val."""
    rng = np.random.default_rng(9)
    source, stacks = Blocks([], 2), []
    for volume, split in enumerate(("labeled", "unlabeled", "val")):
        first = volume * sections
        known = tuple(split == "val" or (split == "labeled" and z % 2 == 0) for z in range(sections))
        for z in range(sections):
            mask = np.zeros((size, size), np.uint8)
            mask[3 + z : 6 + z] = 1
            gray = np.clip(80 + 90 * mask[..., None] + rng.normal(0, 15, (size, size, 1)), 0, 255)
            source.masks.append(mask)
            source.images.append(np.broadcast_to(gray.astype(np.uint8), (size, size, 3)))
        stacks.append(Stack(split, cast("Any", split), tuple(range(first, first + sections)), known))
    volumes = Volumes(source, stacks)
    manifest: Any = SimpleNamespace(class_names=("a", "b"), class_colors=[(0, 0, 0), (255, 255, 255)], data_hash="d")
    splits: dict[str, list[int]] = {"labeled": [0], "unlabeled": [1], "val": [2], "test": []}
    positive = int(sum(source.masks[z].sum() for z in range(0, sections, 2)))
    pixels = (sections // 2 * size * size - positive, positive)
    return Dataset(manifest, volumes, [(sections, size, size)] * 3, splits, pixels)
