"""Decoded images and labels, memory-mapped: decoded once per machine, shared by all trials and all splits.

Images and labels lie in two packs, each named by the hash of its contents, so that another split of the same images
decodes nothing again. A file that cannot be decoded ends the build with its name.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainable.config import CacheConfig
from trainable.data.files import UInt8
from trainable.data.hashes import cache_folder
from trainable.data.images import read_pixels
from trainable.data.items import Item, Manifest, labels_hash, read_mask
from trainable.data.pack import Content, Pack, PackFiles, Progress
from trainable.data.raw_masks import read_raw
from trainable.errors import DataError, Fault

_RESERVE_BYTES = 256 << 20


class Cache:
    """Pixels by position in `manifest.items`.

    Args:
        manifest: what the positions mean.
        images: decoded images.
        image_places: place in `images` of each item.
        masks: class ids.
        mask_places: place in `masks` of each item, -1 for unlabeled ones.
    """

    def __init__(
        self, manifest: Manifest, images: Pack, image_places: Sequence[int], masks: Pack, mask_places: Sequence[int]
    ) -> None:
        self.manifest = manifest
        self._images, self._image_places = images, list(image_places)
        self._masks, self._mask_places = masks, list(mask_places)

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self._images.nbytes + self._masks.nbytes

    def image(self, index: int) -> UInt8:
        """An image, `uint8[H, W, 3]`: a view that cannot be written. Gray is stored once and shown three times."""
        stored = self._images.array(self._image_places[index])
        return np.broadcast_to(stored, (*stored.shape[:2], 3)) if stored.shape[2] == 1 else stored

    def mask(self, index: int) -> UInt8:
        """Class ids of an item that is not unlabeled, `uint8[H, W]`, 255 where ignored: a view.

        Raises:
            DataError: the item is unlabeled; its labels are not part of what training reads.
        """
        place = self._mask_places[index]
        if place < 0:
            item = self.manifest.items[index]
            raise DataError([Fault(item.id, f"only labeled, val and test images have labels, but got "
                                   f"split={item.split}; use hidden_mask to measure pseudo-labels")])  # fmt: skip
        return self._masks.array(place)[..., 0]

    def class_pixels(self) -> npt.NDArray[np.int64]:
        """Pixels of each class over the labeled images, `int64[C]`; ignored pixels count for none."""
        classes = self.manifest.num_classes
        totals = np.zeros(classes, np.int64)
        for index in self.manifest.indices("labeled"):
            totals += np.bincount(self.mask(index).ravel(), minlength=256)[:classes]
        return totals


def open_cache(manifest: Manifest, cfg: CacheConfig, progress: Progress | None = None) -> Cache:
    """Open the decoded pixels of a manifest, decoding them first where that was not done.

    Args:
        manifest: the images and labels.
        cfg: where the cache lies and how large it may be.
        progress: called with (images done, images in all) while images are decoded.

    Returns:
        The cache. Several processes may open it at once; one decodes, the others wait for it.

    Raises:
        DataError: files that cannot be decoded or changed since the manifest was built, all at once; or too little
            room, with the arithmetic.
    """
    folder = cache_folder(cfg, manifest.root) / "pixels"
    image_contents, image_places = _unique([(item.image_hash, _image(item)) for item in manifest.items])
    mask_contents, mask_places = _unique(
        [(item.mask_hash, _labels(manifest, item)) if item.mask_hash else None for item in manifest.items]
    )
    images, masks = PackFiles(folder, image_contents), PackFiles(folder, mask_contents)
    opened = [files.open() for files in (images, masks)]
    missing = [files for files, pack in zip((images, masks), opened, strict=True) if pack is None]
    if missing:
        _check_room(folder, cfg, images, masks, sum(files.nbytes for files in missing))
    image_pack = opened[0] or images.build(progress)
    mask_pack = opened[1] or masks.build()
    return Cache(manifest, image_pack, image_places, mask_pack, mask_places)


def _unique(contents: Sequence[tuple[str, Content] | None]) -> tuple[tuple[Content, ...], list[int]]:
    """Each content once, in order of first appearance, and the place of every input; -1 for None."""
    kept: list[Content] = []
    places: dict[str, int] = {}
    found: list[int] = []
    for pair in contents:
        if pair is None:
            found.append(-1)
            continue
        key, content = pair
        if key not in places:
            places[key] = len(kept)
            kept.append(content)
        found.append(places[key])
    return tuple(kept), found


def _image(item: Item) -> Content:
    def load() -> UInt8:
        pixels = read_pixels(item.image)
        _require_same(item.image, item.image_hash, _digest(item.image))
        return pixels

    return Content(item.image_hash, (item.height, item.width, item.channels), load)


def _labels(manifest: Manifest, item: Item) -> Content:
    def load() -> UInt8:
        ids = read_mask(manifest, item)
        if item.mask is not None:
            reading = dict(manifest.readings)[read_raw(item.mask).family]
            _require_same(item.mask, item.mask_hash, labels_hash(_digest(item.mask), reading, manifest.classes))
        return ids[..., None]

    return Content(item.mask_hash or "", (item.height, item.width, 1), load)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        text = f"the file must be readable, but got {type(error).__name__}; check its permissions"
        raise DataError([Fault(str(path), text)]) from error


def _require_same(path: Path, expected: str | None, found: str) -> None:
    if found != expected:
        text = "a file must not change while a run reads it, but its content is not what it was; start again"
        raise DataError([Fault(str(path), text)])


def _check_room(folder: Path, cfg: CacheConfig, images: PackFiles, masks: PackFiles, missing: int) -> None:
    total = images.nbytes + masks.nbytes
    sizes = (
        f"{len(images.contents):,} images of {images.nbytes / 1e9:.3f} GB and {len(masks.contents):,} masks of "
        f"{masks.nbytes / 1e9:.3f} GB decoded make {total / 1e9:.3f} GB"
    )
    if cfg.max_gb != "auto" and total > cfg.max_gb * 1e9:
        text = f"the cache must fit, but {sizes}, and max_gb={cfg.max_gb}; raise it, or use fewer or smaller images"
        raise DataError([Fault("data.cache.max_gb", text)])
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if missing + _RESERVE_BYTES > free:
        text = (
            f"the disk must hold the cache, but {sizes}, of which {missing / 1e9:.3f} GB are missing; with "
            f"{_RESERVE_BYTES / 1e9:.2f} GB to spare that is more than the {free / 1e9:.3f} GB that are free; "
            "free space, or set data.cache.dir or THRESHER_CACHE to a larger disk"
        )
        raise DataError([Fault(str(folder), text)])
