"""The picture files below a folder, by id; what is not looked at is said."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from trainable.data.files import SUFFIXES
from trainable.data.names import some
from trainable.data.points import stem_of
from trainable.errors import Fault

_SYSTEM_FILES = ("thumbs.db", "desktop.ini")


def picture_files(
    folder: Path, root: Path, faults: list[Fault], warnings: list[Fault], deep: bool = True
) -> dict[str, Path]:
    """Picture files by id, in sorted order; other files are warned of, hidden ones passed over.

    Args:
        folder: where they lie. root: of the data set, for messages. faults: what is wrong is added here.
        warnings: what was left aside is added here. deep: whether folders within are searched.
    """
    found: dict[str, Path] = {}
    twice: list[str] = []
    other: list[str] = []
    unspeakable: list[str] = []
    walked = (
        _walk(folder, root, faults, warnings) if deep else [p for p in folder.iterdir() if not p.is_dir()]
    )
    for path in sorted(walked, key=str):
        relative = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())
        if any(part.startswith(".") for part in relative.split("/")) or path.name.lower() in _SYSTEM_FILES:
            continue
        if path.suffix.lower() not in SUFFIXES:
            other.append(relative)
            continue
        name = stem_of(relative)
        if not _is_unicode(name):
            unspeakable.append(ascii(relative))
        elif name in found:
            twice.append(f"{found[name].name} and {path.name}")
        else:
            found[name] = path
    if twice:
        faults.append(
            Fault(str(folder), f"an id must have one file, but got {len(twice)} with two: {some(twice)}; "
                  "remove one each")
        )  # fmt: skip
    if unspeakable:
        faults.append(
            Fault(str(folder), f"file names must be UTF-8, but got {len(unspeakable)} that are not: "
                  f"{some(unspeakable)}; rename them")
        )  # fmt: skip
    if other and deep:
        warnings.append(
            Fault(str(folder.relative_to(root)), f"{len(other)} files are no PNG, JPEG, TIFF, WebP or NPY and were "
                  f"left aside: {some(other)}")
        )  # fmt: skip
    return found


def _is_unicode(name: str) -> bool:
    """Whether the system's bytes of a name were text: names go into hashes, tables and lists."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(folder: Path, root: Path, faults: list[Fault], warnings: list[Fault]) -> list[Path]:
    """All files below a folder; what it does not look into is reported, as images there would be missed in silence."""
    closed: list[OSError] = []
    linked: list[str] = []
    found = []
    # os.walk does not follow linked folders, so a loop of links cannot trap it.
    for parent, folders, names in os.walk(folder, onerror=closed.append):
        here = Path(parent)
        linked += [
            (here / name).relative_to(root).as_posix() for name in folders if (here / name).is_symlink()
        ]
        found += [here / name for name in names]
    faults += [
        Fault(
            str(error.filename),
            f"a folder must be readable, but got: {error.strerror}; change its permissions",
        )
        for error in closed
    ]
    if linked:
        warnings.append(
            Fault(str(folder.relative_to(root)), f"{len(linked)} linked folders are not looked into: "
                  f"{some(sorted(linked))}; link the files, or the whole folder {folder.name}")
        )  # fmt: skip
    return found
