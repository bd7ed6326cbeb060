"""The rules that data must keep before anything is trained on them, all checked at once.

A leak makes every number of a search worthless, so it is refused unless the user allows it in so many words.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trainable.config import DataConfig
from trainable.data.hashes import Memo, cache_folder, each
from trainable.data.images import read_pixels
from trainable.data.items import Item, Manifest
from trainable.data.manifest import scan
from trainable.data.names import some
from trainable.data.photos import looks_like_patches
from trainable.data.report import CheckReport, count_splits
from trainable.data.splits import Split
from trainable.errors import DataError, Fault

_TRAINED = ("labeled", "unlabeled")
_MEASURED = ("val", "test")


def inspect(cfg: DataConfig, base: Path, *, supervised: bool = False, decode: bool = True) -> CheckReport:
    """Check a data set and report all that is wrong, without raising for it.

    Args:
        cfg: the data section.
        base: what a relative root is relative to.
        supervised: whether training uses labeled images only, so that none need be unlabeled.
        decode: whether every image is decoded, which finds damaged files; what was decoded before is not again.

    Returns:
        Counts, faults and warnings.
    """
    found = scan(cfg, base)
    if found.manifest is None:
        return CheckReport(root=cfg.root, faults=found.faults, warnings=found.warnings)
    report = _examined(found.manifest, cfg, supervised, decode, found.dropped)
    report.faults = [*found.faults, *report.faults]
    report.warnings = [*found.warnings, *report.warnings]
    return report


def check(
    manifest: Manifest, cfg: DataConfig, *, supervised: bool = False, decode: bool = True
) -> CheckReport:
    """Check a manifest.

    Args:
        manifest: the images.
        cfg: the data section that it was built from.
        supervised: whether training uses labeled images only, so that none need be unlabeled.
        decode: whether every image is decoded, which finds damaged files; what was decoded before is not again.

    Returns:
        Counts and warnings.

    Raises:
        DataError: every fault at once, with file names.
    """
    report = _examined(manifest, cfg, supervised, decode)
    report.raise_faults()
    return report


def _examined(
    manifest: Manifest,
    cfg: DataConfig,
    supervised: bool,
    decode: bool,
    dropped: Mapping[Split, int] = MappingProxyType({}),
) -> CheckReport:
    report = CheckReport(
        root=str(manifest.root),
        layout=manifest.layout,
        mask_kind=manifest.mask_kind,
        data_hash=manifest.data_hash,
        class_names=manifest.class_names,
        splits=count_splits(manifest),
        left_out=dict(Counter(reason for _, reason in manifest.left_out)),
    )
    pixels = _decoded(manifest, cfg, report.faults) if decode else {}
    _require_images(report, supervised, dropped)
    if not dropped.get("labeled"):
        _require_classes(report)
    leaks = [*_shared_photos(manifest), *_shared_content(manifest, pixels)]
    if cfg.allow_leak:
        report.leak_allowed = bool(leaks)
        report.warnings += [Fault(leak.where, f"{leak.message} (allowed by allow_leak)") for leak in leaks]
    else:
        report.faults += leaks
    _warn(manifest, cfg, pixels, report)
    return report


def _decoded(manifest: Manifest, cfg: DataConfig, faults: list[Fault]) -> dict[str, tuple[str, bool]]:
    """For every image that decodes: the hash of its pixels, and whether they are all of one color."""
    memo = Memo(cache_folder(cfg.cache, manifest.root), manifest.root)

    def look(item: Item) -> tuple[str, bool]:
        facts = memo.facts(item.image)
        known: Any = facts.get("pixels")
        if known is None:
            known = list(_pixel_facts(item.image))
            memo.remember(facts, "pixels", known)
        return str(known[0]), bool(known[1])

    found = each(look, manifest.items, faults)
    memo.save()
    return {item.id: facts for item, facts in zip(manifest.items, found, strict=True) if facts is not None}


def _pixel_facts(path: Path) -> tuple[str, bool]:
    pixels = read_pixels(path)
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.data)
    return digest.hexdigest()[:32], bool((pixels == pixels[:1, :1]).all())


def _require_images(report: CheckReport, supervised: bool, dropped: Mapping[Split, int]) -> None:
    shown = ", ".join(f"{split} {counts.images}" for split, counts in report.splits.items())
    left_out = "".join(f"; {count} left out ({reason})" for reason, count in report.left_out.items())
    fixes: dict[Split, str] = {
        "labeled": "name images with masks in data.labeled, or check that masks are named like their images",
        "val": "name some in data.val, or raise data.val_fraction",
        "unlabeled": "add images without masks, name some in data.unlabeled, or use the recipe `supervised`",
    }
    for split, fix in fixes.items():
        wanted = split != "unlabeled" or not supervised
        if wanted and not report.splits[split].images and not dropped.get(split):
            text = f"there must be {split} images, but got {shown}{left_out}; {fix}"
            report.faults.append(Fault(f"data.{split}", text))


def _require_classes(report: CheckReport) -> None:
    labeled, val = report.splits["labeled"], report.splits["val"]
    for name in report.class_names:
        if labeled.class_pixels and not labeled.class_pixels[name]:
            report.faults.append(
                Fault(f"class {name}", f"every class must occur in the labeled images, but {name!r} has no pixel in "
                      f"any of the {labeled.images}; label some, list other images, choose another split_seed, or take "
                      "it out of the class table")
            )  # fmt: skip
        if val.class_pixels and not val.class_pixels[name]:
            report.warnings.append(
                Fault(f"class {name}", f"{name!r} does not occur in val, so it is left out of the mIoU")
            )


def _shared_photos(manifest: Manifest) -> list[Fault]:
    """Photos of which some patches are trained on and others measure."""
    by_photo: dict[str, list[Item]] = defaultdict(list)
    for item in manifest.items:
        by_photo[item.group].append(item)
    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for photo, items in sorted(by_photo.items()):
        splits = {item.split for item in items}
        for trained in _TRAINED:
            for measured in _MEASURED:
                if trained in splits and measured in splits:
                    pair = [next(i.id for i in items if i.split == split) for split in (trained, measured)]
                    shared[trained, measured].append(f"{photo} ({' and '.join(pair)})")
    return [
        Fault("data.group_by", f"a photo must stand on one side of a split, but {len(photos)} photos have patches in "
              f"both {trained} and {measured}: {some(photos)}; list whole photos, or set allow_leak")
        for (trained, measured), photos in shared.items()
    ]  # fmt: skip


def _shared_content(manifest: Manifest, pixels: dict[str, tuple[str, bool]]) -> list[Fault]:
    """The same picture in training and in val or test, whatever its name; pictures of one color are no evidence."""
    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for same in _same_content(manifest, pixels):
        for trained in (item for item in same if item.split in _TRAINED):
            for measured in (item for item in same if item.split in _MEASURED):
                shared[trained.split, measured.split].append(f"{trained.id} = {measured.id}")
    return [
        Fault("images", f"an image must stand on one side of a split, but {len(pairs)} images are the same in "
              f"{trained} and {measured}: {some(pairs)}; remove one of each, or set allow_leak")
        for (trained, measured), pairs in shared.items()
    ]  # fmt: skip


def _same_content(manifest: Manifest, pixels: dict[str, tuple[str, bool]]) -> list[list[Item]]:
    """Items with the same pixels (where they were decoded, else the same file), unless all are of one color."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in manifest.items:
        groups[pixels[item.id][0] if item.id in pixels else item.image_hash].append(item)
    found = []
    for same in groups.values():
        if len(same) < 2:
            continue
        try:
            plain = pixels[same[0].id][1] if same[0].id in pixels else _pixel_facts(same[0].image)[1]
        except DataError:
            plain = False
        if not plain:
            found.append(same)
    return found


def _warn(
    manifest: Manifest, cfg: DataConfig, pixels: dict[str, tuple[str, bool]], report: CheckReport
) -> None:
    within = [
        some(item.id for item in same)
        for same in _same_content(manifest, pixels)
        if len({item.split for item in same if item.split in _TRAINED}) == 2
    ]
    if within:
        report.warnings.append(
            Fault("images", f"{len(within)} labeled images are also among the unlabeled ones: {some(within)}")
        )
    photos = {split: {i.group for i in manifest.items if i.split == split} for split in _MEASURED}
    both = sorted(photos["val"] & photos["test"])
    if both:
        report.warnings.append(
            Fault("data.group_by", f"{len(both)} photos have patches in both val and test, so test depends on the "
                  f"choice made on val: {some(both)}")
        )  # fmt: skip
    if manifest.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report.left_out.items())
        names = some(name for name, _ in manifest.left_out)
        report.warnings.append(Fault("data", f"{len(manifest.left_out)} images are not used: {reasons}; {names}"))
    if cfg.group_by not in (None, "none") and _all_alone(manifest.items):
        report.warnings.append(
            Fault("data.group_by", f"group_by={cfg.group_by!r} makes every image a photo of its own, though the ids "
                  "look like patches; check that it names the photo")
        )  # fmt: skip


def _all_alone(items: Sequence[Item]) -> bool:
    alone = len({item.group for item in items}) == len(items)
    return alone and bool(looks_like_patches([item.id for item in items]))
