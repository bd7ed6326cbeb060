"""Small data sets on disk, written by hand so that every pixel is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainable.config import DataConfig

U8 = npt.NDArray[np.uint8]

NAMES = ("water", "road", "roof")
COLORS = ((0, 0, 200), (120, 120, 120), (200, 40, 40))
SHAPE = (12, 16)


def ids_of(index: int, shape: tuple[int, int] = SHAPE) -> U8:
    """A mask with all three classes and one ignored pixel, another for each index."""
    rng = np.random.default_rng(index)
    mask = rng.integers(0, len(NAMES), shape).astype(np.uint8)
    mask[0, :3] = (0, 1, 2)
    mask[1, 0] = 255
    return mask


def image_of(index: int, shape: tuple[int, int] = SHAPE) -> U8:
    """An RGB image, another for each index."""
    return np.random.default_rng(1000 + index).integers(0, 256, (*shape, 3)).astype(np.uint8)


def as_rgb(ids: U8, ignore: tuple[int, int, int] = (9, 9, 9)) -> U8:
    """Class ids in the classes' colors."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(COLORS)] = COLORS
    table[255] = ignore
    return table[ids]


def save_palette(path: Path, ids: U8, order: Iterable[int] = (0, 1, 2)) -> None:
    """Class ids as a palette picture whose numbers are permuted: number k stands for class order[k]."""
    order = list(order)
    numbers = np.full(256, 255, np.uint8)
    numbers[order] = np.arange(len(order))
    picture = Image.fromarray(numbers[ids])
    picture.putpalette([c for class_id in order for c in COLORS[class_id]] + [0] * (768 - 3 * len(order)))
    picture.save(path)


def write_classes(root: Path, rows: Iterable[tuple[str, Any]] = tuple(zip(NAMES, COLORS, strict=True))) -> None:
    """The class table."""
    lines = [f"{name},{' '.join(map(str, color))}\n" for name, color in rows]
    (root / "class_mapping.csv").write_text("class_name,class_color\n" + "".join(lines), encoding="utf-8")


def write_lists(root: Path, lists: Mapping[str, Iterable[str]]) -> None:
    """Lists of ids in splits/."""
    (root / "splits").mkdir(exist_ok=True)
    for name, ids in lists.items():
        (root / "splits" / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids), encoding="utf-8")


def write_folder(root: Path, photos: int = 4, patches: int = 3, unmasked: Iterable[str] = ()) -> list[str]:
    """images/, index masks/ and a class table; ids are `p<photo>_y<row>_x0`, and their numbers their place."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    write_classes(root)
    names = [f"p{photo}_y{patch}_x0" for photo in range(photos) for patch in range(patches)]
    bare = set(unmasked)
    for place, name in enumerate(names):
        Image.fromarray(image_of(place)).save(root / "images" / f"{name}.png")
        if name not in bare:
            Image.fromarray(ids_of(place)).save(root / "masks" / f"{name}.png")
    return names


def config(root: Path, **given: Any) -> DataConfig:
    """A data section whose cache lies beside the data, with photos by name unless told otherwise."""
    section: dict[str, Any] = {"root": str(root), "group_by": r"^(p\d+)", "cache": {"dir": str(root.parent / "cache")}}
    return DataConfig(**(section | given))


LISTED = {
    "labeled": "splits/labeled.txt",
    "unlabeled": "splits/unlabeled.txt",
    "val": "splits/val.txt",
    "test": "splits/test.txt",
}


def listed_folder(root: Path) -> tuple[list[str], DataConfig]:
    """Four photos of three patches: labeled and unlabeled patches of p0 and p1, p2 for val, p3 for test."""
    names = write_folder(root)
    split = {"labeled": [*names[0:2], names[3]], "unlabeled": [names[2], *names[4:6]], "val": names[6:9],
             "test": names[9:12]}  # fmt: skip
    write_lists(root, split)
    return names, config(root, **LISTED)
