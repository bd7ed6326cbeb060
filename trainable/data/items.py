"""One image of a run, all of them, and the labels that training may and may not see."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from trainable.data.classes import IGNORE, ClassTable, Color
from trainable.data.files import Header, UInt8
from trainable.data.masks import Reading, class_ids
from trainable.data.points import Points, discs, read_points, stem_of
from trainable.data.raw_masks import Family, read_raw
from trainable.data.splits import Split
from trainable.errors import DataError, Fault


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a run.

    Attributes:
        id: path below the image folder, without the suffix.
        image: the file.
        mask: the file with its labels; None for unlabeled images and for points.
        group: the photo that it was cut from.
        split: labeled, unlabeled, val or test.
        height: rows of the upright image.
        width: columns.
        channels: 1 (gray) or 3.
        image_hash: sha256 of the file.
        mask_hash: sha256 of the labels and of how they are read; None for unlabeled images.
        class_pixels: pixels of each class, and last those ignored; empty for unlabeled images.
        points: (x, y) of the discs that are its labels, or None.
        volume: the volume that it is a section of, or None.
        z: its place in the volume, or None.
        hidden: where labels lie that training must not see; read by `hidden_mask` only.
    """

    id: str
    image: Path
    mask: Path | None
    group: str
    split: Split
    height: int
    width: int
    channels: int
    image_hash: str
    mask_hash: str | None
    class_pixels: tuple[int, ...] = ()
    points: Points | None = None
    volume: str | None = None
    z: int | None = None
    hidden: Path | None = None


@dataclass(frozen=True)
class Manifest:
    """All that a run knows of its data. Positions in `items` are the indices that the cache and the loaders use.

    Attributes:
        root: the data set's folder.
        layout: folders, voc, points or volume.
        items: by id.
        class_names: in the order of the class ids.
        class_colors: likewise.
        data_hash: sha256 over (id, split, group, image hash, mask hash) of all items.
        ignore_index: the class id of ignored pixels.
        ignore_colors: colors that are ignored.
        readings: (family of masks, color or index), decided over all masks.
        radius: of the discs around points, in pixels; 0 without points.
        left_out: (id, reason) of images that stand in no split.
    """

    root: Path
    layout: str
    items: tuple[Item, ...]
    class_names: tuple[str, ...]
    class_colors: tuple[Color, ...]
    data_hash: str
    ignore_index: int = IGNORE
    ignore_colors: tuple[Color, ...] = ()
    readings: tuple[tuple[Family, Reading], ...] = ()
    radius: int = 0
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def classes(self) -> ClassTable:
        """Names and colors."""
        return ClassTable(self.class_names, self.class_colors, self.ignore_colors)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def mask_kind(self) -> str:
        """How labels are read: points, rgb, palette or gray (by color), index, joined by "+", or none."""
        if self.layout == "points":
            return "points"
        kinds = {"index" if reading == "index" else family for family, reading in self.readings}
        return "+".join(sorted(kinds)) or "none"

    def indices(self, split: Split) -> tuple[int, ...]:
        """Positions of a split's items, in order."""
        return tuple(index for index, item in enumerate(self.items) if item.split == split)

    def class_pixels(self, split: Split) -> tuple[int, ...]:
        """Labeled pixels of each class in a split, all 0 for unlabeled."""
        totals = [0] * self.num_classes
        for item in self.items:
            if item.split == split:
                totals = [a + b for a, b in zip(totals, item.class_pixels or (0,) * self.num_classes, strict=False)]
        return tuple(totals)


def data_hash(items: Iterable[Item]) -> str:
    """sha256 over the sorted (id, split, group, image hash, mask hash).

    Args:
        items: all items of a run, in any order.

    >>> data_hash([])[:8]
    'e3b0c442'
    """
    rows = sorted(repr((i.id, i.split, i.group, i.image_hash, i.mask_hash)) for i in items)
    return hashlib.sha256("".join(f"{row}\n" for row in rows).encode()).hexdigest()


def labels_hash(content: str, reading: Reading, classes: ClassTable) -> str:
    """The hash of what a mask file says.

    Args:
        content: hash of the file.
        reading: how it is read.
        classes: names and colors.
    """
    # The same file means other labels under another class table, so the reading is part of the hash.
    how = (reading, len(classes.names), classes.colors if reading == "color" else (), classes.ignore)
    return hashlib.sha256(f"{content} {how!r}".encode()).hexdigest()


def read_mask(manifest: Manifest, item: Item) -> UInt8:
    """The class ids of an item's labels.

    Args:
        manifest: where the item stands.
        item: one that is not unlabeled.

    Returns:
        `uint8[H, W]`, 255 where ignored.

    Raises:
        DataError: the item is unlabeled, or its mask cannot be read.
    """
    if item.points is not None:
        return discs(item.points, manifest.radius, item.height, item.width)
    if item.mask is None:
        raise DataError([Fault(item.id, f"labels are read of labeled, val and test images only, but got "
                               f"split={item.split}; use hidden_mask to measure pseudo-labels")])  # fmt: skip
    return _mask_file(manifest, item, item.mask)


def hidden_mask(manifest: Manifest, item: Item) -> UInt8 | None:
    """The labels of an unlabeled item, where they happen to exist: to measure pseudo-labels, never to train.

    Args:
        manifest: where the item stands.
        item: any item.

    Returns:
        `uint8[H, W]`, 255 where ignored, or None where there are none.

    Raises:
        DataError: the mask cannot be read.
    """
    if item.hidden is None:
        return None
    if manifest.layout == "points":
        points = _points_of(item.hidden, item.hidden.stat().st_mtime_ns)
        return discs(points.get(item.id, ()), manifest.radius, item.height, item.width)
    return _mask_file(manifest, item, item.hidden)


@lru_cache(maxsize=1)
def _points_of(path: Path, changed_ns: int) -> dict[str, Points]:
    """All points of a file as it was changed last, by id; kept, because every unlabeled image asks for its own."""
    return {unicodedata.normalize("NFC", stem_of(name)): points for name, points in read_points(path).items()}


def _mask_file(manifest: Manifest, item: Item, path: Path) -> UInt8:
    ids = class_ids(path, read_raw(path), dict(manifest.readings), manifest.classes)
    if ids.shape != (item.height, item.width):
        raise DataError([size_fault(path, ids.shape[0], ids.shape[1], item)])
    return ids


def size_fault(path: Path, height: int, width: int, image: Item | Header) -> Fault:
    """A mask of another size than its image."""
    turned = image.orientation if isinstance(image, Header) else 1
    after = f" (after EXIF orientation {turned})" if turned != 1 else ""
    return Fault(str(path), f"a mask must have its image's size {image.width} x {image.height}{after}, but got "
                 f"{width} x {height}; save both at one size, upright")  # fmt: skip
