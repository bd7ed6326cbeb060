"""The manifest: every image of a run with its mask, photo, split, size and content hash.

Built from the files' headers and the masks that training may see. Masks of unlabeled images are neither opened nor
hashed; `hidden_mask` alone reads them, to measure how good pseudo-labels are.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from trainable.config import DataConfig
from trainable.data.files import Header
from trainable.data.hashes import Memo, cache_folder, each
from trainable.data.images import read_header
from trainable.data.items import Item, Manifest, data_hash, hidden_mask, labels_hash, read_mask, size_fault
from trainable.data.layouts import Layout, find_layout
from trainable.data.masks import (
    Census,
    Readings,
    census_fault,
    decide_readings,
    mixed_fault,
    pixels_per_class,
    take_census,
)
from trainable.data.names import capped, some
from trainable.data.photos import photos_of
from trainable.data.points import discs, outside
from trainable.data.raw_masks import read_raw
from trainable.data.splits import Assignment, Split, assign
from trainable.data.volumes import check_volumes
from trainable.errors import DataError, Fault

__all__ = ["Item", "Manifest", "Scan", "build_manifest", "hidden_mask", "read_mask", "scan"]


@dataclass
class Scan:
    """What was found, with everything that is wrong so far.

    Attributes:
        manifest: of the items that are sound, or None if nothing could be found.
        faults: what must be mended.
        warnings: what should be known.
        dropped: how many images of each split are not in the manifest because of a fault, their list's or their own.
    """

    manifest: Manifest | None
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    dropped: Counter[Split] = field(default_factory=Counter)


def build_manifest(cfg: DataConfig, base: Path) -> Manifest:
    """Find, split and hash a data set.

    Args:
        cfg: the data section.
        base: what a relative root is relative to.

    Returns:
        The manifest.

    Raises:
        DataError: every fault of files, lists and masks at once.
    """
    found = scan(cfg, base)
    if found.faults or found.manifest is None:
        raise DataError(capped(found.faults))
    return found.manifest


def scan(cfg: DataConfig, base: Path) -> Scan:
    """As `build_manifest`, but faults are returned beside what is sound.

    Args:
        cfg: the data section.
        base: what a relative root is relative to.
    """
    faults: list[Fault] = []
    try:
        layout = find_layout(cfg, base, faults)
    except DataError as error:
        return Scan(None, [*faults, *error.faults])
    labels: Iterable[str] = layout.points if layout.points is not None else layout.masks
    labeled = frozenset(labels)
    masked = {name: name in labeled for name in layout.images}
    photos = photos_of(list(layout.images), cfg.group_by, faults, layout.photo_of)
    assignment = assign(
        masked, photos, layout.lists,
        share=cfg.val_fraction, seed=cfg.split_seed, faults=faults, reserved=layout.reserved,
    )  # fmt: skip
    warnings = list(layout.warnings)
    memo = Memo(cache_folder(cfg.cache, layout.root), layout.root)
    manifest = _assemble(layout, assignment, photos, memo, faults, warnings)
    memo.save()
    dropped = Counter(assignment.split.values())
    dropped.subtract(item.split for item in manifest.items)
    dropped += _lost_from_lists(layout, assignment)
    return Scan(manifest, faults, warnings, dropped)


def _lost_from_lists(layout: Layout, assignment: Assignment) -> Counter[Split]:
    """How many ids of each list are in no split because of a fault; a list that cannot be read lost one at least."""
    return Counter(
        {
            split: max(1, len(given[1])) - sum(assignment.split.get(name) == split for name in given[1])
            for split, given in layout.lists.items()
            if given is not None
        }
    )


def _assemble(
    layout: Layout,
    assignment: Assignment,
    photos: dict[str, str],
    memo: Memo,
    faults: list[Fault],
    warnings: list[Fault],
) -> Manifest:
    names = sorted(assignment.split)
    headers = dict(zip(names, each(lambda name: _header(memo, layout.images[name]), names, faults), strict=True))
    trained = [name for name in names if assignment.split[name] != "unlabeled"]
    with_file = [] if layout.points is not None else trained
    found = each(lambda name: _census(memo, layout.masks[name]), with_file, faults)
    censuses = {name: one for name, one in zip(with_file, found, strict=True) if one is not None}
    unread = set(with_file) - set(censuses)
    readings, differing = decide_readings((one[1] for one in censuses.values()), layout.classes)
    warnings += [
        Fault(str(layout.root), f"the numbers in the {family} masks and their colors name different classes, and both "
              "fit; the colors were followed")
        for family in differing
    ]  # fmt: skip
    mixed = mixed_fault(str(layout.root), {name: one[1] for name, one in censuses.items()}, readings, layout.classes)
    faults += [] if mixed is None else [mixed]
    items = []
    for name in names:
        header = headers[name]
        if header is None or name in unread:
            continue
        census = censuses[name][1] if name in censuses else None
        if census is not None and not _census_is_sound(layout, name, header[1], census, readings, faults):
            continue
        items.append(_item(layout, name, assignment.split[name], photos[name], header, censuses.get(name), readings,
                           faults))  # fmt: skip
    _warn_turned([i.id for i in items if i.mask and _turned(headers[i.id])], warnings)
    check_volumes(items, faults)
    return Manifest(
        root=layout.root,
        layout=layout.kind,
        items=tuple(items),
        class_names=layout.classes.names,
        class_colors=layout.classes.colors,
        data_hash=data_hash(items),
        ignore_colors=layout.classes.ignore,
        readings=tuple(sorted(readings.items())),
        radius=layout.radius,
        left_out=tuple(sorted(assignment.left_out.items())),
    )


def _header(memo: Memo, path: Path) -> tuple[str, Header]:
    facts = memo.facts(path)
    plain = facts.get("image")
    if plain is None:
        header = read_header(path)
        memo.remember(
            facts, "image",
            [header.height, header.width, header.channels, header.kind, header.mode, header.orientation],
        )  # fmt: skip
    else:
        header = Header(*plain)
    return facts["sha256"], header


def _census(memo: Memo, path: Path) -> tuple[str, Census]:
    facts = memo.facts(path)
    plain = facts.get("mask")
    if plain is None:
        census = take_census(read_raw(path))
        memo.remember(facts, "mask", census.to_json())
    else:
        census = Census.from_json(plain)
    return facts["sha256"], census


def _census_is_sound(
    layout: Layout, name: str, header: Header, census: Census, readings: Readings, faults: list[Fault]
) -> bool:
    path = layout.masks[name]
    fault = census_fault(str(path), census, readings, layout.classes)
    if fault is not None:
        faults.append(fault)
    same = (census.height, census.width) == (header.height, header.width)
    if not same:
        faults.append(size_fault(path, census.height, census.width, header))
    return same and fault is None


def _item(
    layout: Layout,
    name: str,
    split: Split,
    photo: str,
    header: tuple[str, Header],
    census: tuple[str, Census] | None,
    readings: Readings,
    faults: list[Fault],
) -> Item:
    classes = layout.classes
    image_hash, head = header
    points = layout.points.get(name) if layout.points is not None and split != "unlabeled" else None
    mask_hash: str | None = None
    pixels: tuple[int, ...] = ()
    if census is not None:
        mask_hash = labels_hash(census[0], readings[census[1].family], classes)
        pixels = pixels_per_class(census[1], readings, classes)
    elif points is not None:
        mask_hash = hashlib.sha256(repr((sorted(points), layout.radius)).encode()).hexdigest()
        covered = int(discs(points, layout.radius, head.height, head.width).sum())
        pixels = (head.height * head.width - covered, covered, 0)
        far = outside(points, head.height, head.width)
        if far:
            faults.append(
                Fault(f"{layout.points_file}:{name}", f"points must lie in the image of {head.width} x {head.height}, "
                      f"but got {len(far)} outside: {some(map(str, far), 3)}; x is the column and y the row, in pixels")
            )  # fmt: skip
    hidden = None
    if split == "unlabeled":
        hidden = layout.points_file if layout.points and name in layout.points else layout.masks.get(name)
    volume, z = (layout.volumes or {}).get(name, (None, None))
    return Item(
        id=name, image=layout.images[name], mask=layout.masks.get(name) if census is not None else None, group=photo,
        split=split, height=head.height, width=head.width, channels=head.channels, image_hash=image_hash,
        mask_hash=mask_hash, class_pixels=pixels, points=points, volume=volume, z=z, hidden=hidden,
    )  # fmt: skip


def _turned(header: tuple[str, Header] | None) -> bool:
    return header is not None and header[1].orientation != 1


def _warn_turned(names: list[str], warnings: list[Fault]) -> None:
    if names:
        warnings.append(
            Fault("images", f"{len(names)} labeled images are turned by their EXIF orientation, and their masks must "
                  f"fit the upright image: {some(names)}")
        )  # fmt: skip
