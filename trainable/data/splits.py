"""Which image is trained on, which one measures, and which photo each came from.

Ids are a file's path below its folder without the suffix. Lists name ids; without lists whole photos are drawn.
Nothing is added to a split that no list names and no rule states, and what is left out is reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from trainable.data.names import meant, some
from trainable.errors import Fault

Split = Literal["labeled", "unlabeled", "val", "test"]
SPLITS: tuple[Split, ...] = ("labeled", "unlabeled", "val", "test")


@dataclass
class Assignment:
    """Where each id went.

    Attributes:
        split: split by id.
        left_out: reason by id, for images that no split takes.
    """

    split: dict[str, Split] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def draw_photos(photos: Iterable[str], share: float, seed: int) -> set[str]:
    """Draw whole photos for validation: a photo's rank depends on its name and the seed alone.

    Args:
        photos: names, at least 2 for a result that leaves some.
        share: in (0, 1), of the photos; at least one is drawn and one left.
        seed: another seed, another draw.

    Returns:
        The drawn names.

    >>> sorted(draw_photos(["a", "b", "c", "d"], 0.5, 0))
    ['a', 'd']
    """
    names = sorted(set(photos))
    if len(names) < 2:
        return set()
    count = min(max(1, round(share * len(names))), len(names) - 1)
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    return set(ranked[:count])


def assign(
    masked: Mapping[str, bool],
    photos: Mapping[str, str],
    lists: Mapping[Split, tuple[str, Mapping[str, int]] | None],
    *,
    share: float,
    seed: int,
    faults: list[Fault],
    reserved: Collection[str] = (),
) -> Assignment:
    """Put every image into one split, or leave it out with a reason.

    Args:
        masked: for every image id, whether it has a mask.
        photos: photo by id.
        lists: per split, the list's path and its ids with line numbers, or None where none is given.
        share: share of the photos drawn for validation where no list is given.
        seed: seed of that draw.
        faults: what is wrong is added here.
        reserved: ids that must not become unlabeled (a benchmark's test images).

    Returns:
        The assignment; ids that a list names wrongly are in neither part.
    """
    result = Assignment()
    _take_lists(masked, lists, result, faults)
    if all(lists.get(name) is None for name in SPLITS):
        _draw(masked, photos, share, seed, result, faults)
    elif lists.get("labeled") is None:
        if lists.get("val") is None:
            faults.append(_missing_val())
        for name, has_mask in masked.items():
            if has_mask and name not in result.split and name not in reserved:
                result.split[name] = "labeled"
    elif lists.get("val") is None:
        faults.append(_missing_val())
    if lists.get("unlabeled") is None:
        _pool(masked, photos, reserved, result)
    for name in masked:
        if name not in result.split:
            result.left_out.setdefault(name, "in no list")
    return result


def _missing_val() -> Fault:
    return Fault("data.val", "validation must be listed when other splits are, but got val=null; give a list of ids of "
                 "photos that are not trained on, or give no list at all to split by photo")  # fmt: skip


def _take_lists(
    masked: Mapping[str, bool],
    lists: Mapping[Split, tuple[str, Mapping[str, int]] | None],
    result: Assignment,
    faults: list[Fault],
) -> None:
    for split in SPLITS:
        given = lists.get(split)
        if given is None:
            continue
        path, ids = given
        absent = [name for name in ids if name not in masked]
        bare = [name for name in ids if split != "unlabeled" and masked.get(name) is False]
        twice = [f"{name} ({result.split[name]})" for name in ids if name in result.split]
        likely = meant(absent[0], masked) if absent else ""
        hint = f"write one id per line as the file is named ({likely!r})" if likely else "correct the ids"
        for names, must, fix in (
            (absent, "every listed id must have an image", f"{hint}, or add the images"),
            (bare, f"every id listed for {split} must have a mask", "add the masks, or list the ids as unlabeled"),
            (twice, "an id must stand in one list only", "remove it from the others"),
        ):
            if names:
                text = f"{must}, but got {len(names)} of {len(ids)} that do not: {some(names)}; {fix}"
                faults.append(Fault(path, text))
        wrong = {*absent, *bare, *(name for name in ids if name in result.split)}
        result.split.update({name: split for name in ids if name not in wrong})


def _draw(
    masked: Mapping[str, bool],
    photos: Mapping[str, str],
    share: float,
    seed: int,
    result: Assignment,
    faults: list[Fault],
) -> None:
    with_mask = [name for name, has_mask in masked.items() if has_mask]
    drawn = draw_photos((photos[name] for name in with_mask), share, seed)
    if with_mask and not drawn:
        faults.append(
            Fault("data.group_by", "images with masks must come from at least 2 photos to draw validation from, but "
                  f"got 1: {photos[with_mask[0]]!r}; give lists of ids, or correct group_by")
        )  # fmt: skip
    for name in with_mask:
        result.split[name] = "val" if photos[name] in drawn else "labeled"


def _pool(masked: Mapping[str, bool], photos: Mapping[str, str], reserved: Collection[str], result: Assignment) -> None:
    held = {photos[name]: split for name, split in result.split.items() if split in ("val", "test")}
    for name, has_mask in masked.items():
        if has_mask or name in result.split:
            continue
        if name in reserved:
            result.left_out[name] = "a listed test image without a mask"
        elif photos[name] in held:
            result.left_out[name] = f"of a photo in {held[photos[name]]}"
        else:
            result.split[name] = "unlabeled"
