"""Volumes that are to be predicted: an array, a picture of many pages, or a folder of sections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from trainable.data.arrays import array_image, array_shape, is_volume
from trainable.data.files import SUFFIXES, UInt8, check_pixels, decoding, refuse, require_file
from trainable.data.images import read_image
from trainable.data.volumes import stacked
from trainable.errors import DataError, Fault

_PAGES = ("1", "L", "RGB")


@dataclass(frozen=True)
class VolumeFiles:
    """Where a volume is.

    Attributes:
        files: one file that holds all of it, or its sections in order.
        whole: whether it is one file.
    """

    files: tuple[Path, ...]
    whole: bool

    def read(self) -> UInt8:
        """All of it, uint8[D, H, W, 3].

        Raises:
            DataError: a file cannot be read without loss, or the sections differ in size.
        """
        if self.whole:
            return _array(self.files[0]) if self.files[0].suffix.lower() == ".npy" else _pages(self.files[0])
        sections = [read_image(path) for path in self.files]
        for path, section in zip(self.files, sections, strict=True):
            if section.shape != sections[0].shape:
                raise refuse(path, f"all sections of a volume must have one size, but got {section.shape[:2]} after "
                             f"{sections[0].shape[:2]} of {self.files[0].name}; crop them alike")  # fmt: skip
        return np.stack(sections)


def find_volumes(source: Path, group_by: str = "", order_by: str = "") -> list[VolumeFiles]:
    """Every volume of a folder, or the one in a file.

    An array of three axes and a picture of several pages are volumes of their own. All other pictures are sections:
    those whose names match both patterns go by them, else a folder's pictures are one volume, in the order of the
    numbers in their names.

    Args:
        source: a file, or a folder that is searched to its depth.
        group_by: a pattern whose first group, else the whole match, names a section's volume.
        order_by: likewise, a whole number.

    Raises:
        DataError: there is none.
    """
    if source.is_file():
        require_file(source)
        return [VolumeFiles((source,), whole=True)]
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise DataError([Fault(str(source), "must hold volumes or their sections (NPY, TIFF, PNG, JPEG, WebP), but "
                               "there are none")])  # fmt: skip
    whole = [path for path in found if _is_whole(path)]
    sections = [path for path in found if path not in set(whole)]
    return [VolumeFiles((path,), whole=True) for path in whole] + [
        VolumeFiles(tuple(group), whole=False) for group in _grouped(source, sections, group_by, order_by)
    ]


def _grouped(source: Path, sections: Sequence[Path], group_by: str, order_by: str) -> list[list[Path]]:
    names = {str(path.relative_to(source).with_suffix("")): path for path in sections}
    if len(names) < len(sections):
        lost = sorted(str(path) for path in set(sections) - set(names.values()))
        raise DataError([Fault(path, "another section of the same name but another ending lies beside it; keep one")
                         for path in lost])  # fmt: skip
    faults: list[Fault] = []
    placed = stacked(names, group_by, order_by, faults) if group_by and order_by else {}
    twice = [fault for fault in faults if fault.where == "data.volume.order_by"]
    if twice:
        raise DataError(twice)
    groups: dict[tuple[str, str], list[Path]] = {}
    for name in sorted(placed, key=lambda n: placed[n]):
        groups.setdefault(("pattern", placed[name][0]), []).append(names[name])
    rest = [path for name, path in names.items() if name not in placed]
    for path in sorted(rest, key=lambda p: (str(p.parent), _natural(p.stem))):
        groups.setdefault(("folder", str(path.parent)), []).append(path)
    return list(groups.values())


def _natural(name: str) -> list[tuple[int, str]]:
    """Runs of digits by their value, all else by its letters."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _is_whole(path: Path) -> bool:
    if path.suffix.lower() == ".npy":
        return is_volume(array_shape(path))
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    with decoding(path), Image.open(path, formats=("TIFF",)) as image:
        return int(getattr(image, "n_frames", 1)) > 1


def _array(path: Path) -> UInt8:
    values = array_image(path)
    if values.ndim != 3:
        raise refuse(path, f"a volume must have shape (D, H, W), but got {values.shape}; stack its sections")
    return np.repeat(values[..., None], 3, axis=3)


def _pages(path: Path) -> UInt8:
    with decoding(path), Image.open(path, formats=("TIFF",)) as image:
        size, number = image.size, int(getattr(image, "n_frames", 1))
        check_pixels(path, image.height, image.width, number)
        pages = []
        for page in range(number):
            image.seek(page)
            if image.size != size:
                raise refuse(path, "all pages of a volume must have one size, but they differ; crop them alike")
            if image.mode not in _PAGES:
                raise refuse(path, f"pages must be gray or RGB of 8 bits, but got mode={image.mode}; save them so")
            pages.append(np.asarray(image.convert("RGB"), np.uint8))
        return np.stack(pages)
