"""Generated land-cover scenes: a small data set for demos, tests and benchmarks, the same from a seed everywhere."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainable.data.draws import Draws
from trainable.data.paint import paint
from trainable.data.scenes import CLASS_COLORS, CLASS_NAMES, Scene, make_scene
from trainable.errors import ConfigError, Fault

GROUP_BY = r"^(p\d+)"
"""What names the photo in an id such as `p003_y0256_x0128`."""

_MIN_SIZE, _MAX_SIZE = 32, 1024
_MAX_TRIES = 30


def write_scenes(
    directory: Path, *, photos: int = 12, patches_per_photo: int = 16, size: int = 128, labeled: int = 24, seed: int = 0
) -> None:
    """Write a data set of generated aerial photos, cut into patches.

    Writes images/ (PNG), masks/ (index PNG, value = class id), class_mapping.csv and splits/{labelled, unlabelled, val,
    test}.txt. About one photo in six is for val and one for test; labeled patches come from half of the others, and
    all other patches of training photos are unlabeled (their masks are written, to measure pseudo-labels). Seven
    classes, of which bare soil has about 1 % of the pixels.

    Args:
        directory: is created; files of the same names are replaced.
        photos: at least 3.
        patches_per_photo: cut from each photo, side by side.
        size: side of a patch in pixels, 32 to 1024.
        labeled: labeled patches, fewer than those of the training photos.
        seed: another seed, other scenes.

    Raises:
        ConfigError: a number is out of range, or the labeled patches are too few to show every class.
    """
    _check(photos, patches_per_photo, size, labeled)
    roles = _roles(photos)
    for name in ("images", "masks", "splits"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    counts: dict[str, npt.NDArray[np.int64]] = {}
    members: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for photo in range(photos):
        for patch, pixels in _write_photo(directory, photo, patches_per_photo, size, seed).items():
            counts[patch] = pixels
            members[roles[photo]].append(patch)
    chosen = _choose(members["train"], counts, labeled, size, seed)
    lists = {
        "labelled": sorted(chosen),
        "unlabelled": sorted(set(members["train"]) - set(chosen)),
        "val": members["val"],
        "test": members["test"],
    }
    for name, ids in lists.items():
        _write_text(directory / "splits" / f"{name}.txt", "".join(f"{patch}\n" for patch in ids))
    rows = [f"{name},{r} {g} {b}\n" for name, (r, g, b) in zip(CLASS_NAMES, CLASS_COLORS, strict=True)]
    _write_text(directory / "class_mapping.csv", "class_name,class_color\n" + "".join(rows))


def _check(photos: int, patches: int, size: int, labeled: int) -> None:
    faults = []
    for name, value, low, high in (
        ("photos", photos, 3, 10_000),
        ("patches_per_photo", patches, 1, 400),
        ("size", size, _MIN_SIZE, _MAX_SIZE),
    ):
        if not low <= value <= high:
            faults.append(Fault(name, f"{name} must lie between {low} and {high}, but got {name}={value}; change it"))
    held = _roles(photos) if not faults else []
    trained = held.count("train") * patches
    if not faults and not 1 <= labeled < trained:
        text = f"labeled must leave patches unlabeled, so lie between 1 and {trained - 1}, but got labeled={labeled}"
        faults.append(Fault("labeled", f"{text}; change it, or write more photos"))
    if faults:
        raise ConfigError(faults)


def _roles(photos: int) -> list[str]:
    """What each photo is for; the last ones are held back."""
    held = max(1, round(photos / 6))
    return ["train"] * (photos - 2 * held) + ["val"] * held + ["test"] * held


def _grid(patches: int) -> tuple[int, int]:
    """Rows and columns, as square as the number allows.

    >>> _grid(16), _grid(6), _grid(7)
    ((4, 4), (2, 3), (1, 7))
    """
    rows = next(n for n in range(math.isqrt(patches), 0, -1) if patches % n == 0)
    return rows, patches // rows


def _write_photo(
    directory: Path, photo: int, patches: int, size: int, seed: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Draw a photo, cut and write it; pixels of each class by patch id."""
    rows, columns = _grid(patches)
    draws, scene = _full_scene(photo, rows * size, columns * size, size, seed)
    picture = paint(draws, scene)
    palette = [channel for color in CLASS_COLORS for channel in color]
    found = {}
    for row in range(rows):
        for column in range(columns):
            window = slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size)
            patch = f"p{photo:03d}_y{row * size:04d}_x{column * size:04d}"
            Image.fromarray(picture[window]).save(directory / "images" / f"{patch}.png", compress_level=1)
            mask = Image.fromarray(scene.labels[window])
            mask.putpalette(palette)
            mask.save(directory / "masks" / f"{patch}.png")
            found[patch] = np.bincount(scene.labels[window].ravel(), minlength=len(CLASS_NAMES))
    return found


def _full_scene(photo: int, height: int, width: int, size: int, seed: int) -> tuple[Draws, Scene]:
    """A scene that shows every class, or, on a photo too small for that, the one of many that shows most."""
    best: tuple[int, Draws, Scene] | None = None
    for attempt in range(_MAX_TRIES):
        draws = Draws(seed, f"photo {photo} {attempt}")
        scene = make_scene(draws, height, width)
        pixels = np.bincount(scene.labels.ravel(), minlength=len(CLASS_NAMES))
        shown = int((pixels >= _enough(size)).sum())
        if best is None or shown > best[0]:
            best = shown, draws, scene
        if shown == len(CLASS_NAMES):
            break
    assert best is not None
    return best[1], best[2]


def _enough(size: int) -> int:
    """Pixels of a class that make a patch one that shows it."""
    return min(40, size * size // 100)


def _choose(
    train: list[str], counts: dict[str, npt.NDArray[np.int64]], labeled: int, size: int, seed: int
) -> list[str]:
    """Draw the labeled patches from half of the training photos, so that every class is seen.

    First come patches that show most classes not seen yet; the rest is drawn evenly.
    """
    draws = Draws(seed, "labeled")
    photos = sorted({patch.split("_")[0] for patch in train})
    kept = {photos[place] for place in draws.order(len(photos))[: max(1, (len(photos) + 1) // 2)]}
    preferred = [patch for patch in train if patch.split("_")[0] in kept]
    pool = preferred if len(preferred) >= labeled else train
    shuffled = [pool[place] for place in draws.order(len(pool))]
    shuffled += [train[place] for place in draws.order(len(train)) if train[place] not in set(pool)]
    chosen: list[str] = []
    unseen = np.ones(len(CLASS_NAMES), bool)
    while unseen.any() and len(chosen) < labeled:
        gains = [int(((counts[patch] >= _enough(size)) & unseen).sum()) for patch in shuffled]
        if max(gains) == 0:
            break
        chosen.append(shuffled[gains.index(max(gains))])
        unseen &= counts[chosen[-1]] < _enough(size)
    if unseen.any():
        missing = ", ".join(name for name, absent in zip(CLASS_NAMES, unseen, strict=True) if absent)
        text = f"the labeled patches must show every class, but {labeled} of size {size} do not show {missing}"
        raise ConfigError([Fault("labeled", f"{text}; label more, or write more or larger photos")])
    chosen += [patch for patch in shuffled if patch not in chosen]
    return chosen[:labeled]


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
