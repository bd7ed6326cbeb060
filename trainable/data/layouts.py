"""Where the files of a data set lie: images/ and masks/, VOC folders, coordinates, and sections of volumes."""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainable.config import DataConfig, PointsConfig
from trainable.data.classes import ClassTable, parse_ignore, read_classes, voc_classes
from trainable.data.names import read_list, some
from trainable.data.points import FILES as POINT_FILES
from trainable.data.points import Points, read_points, stem_of
from trainable.data.splits import Split
from trainable.data.volumes import stacked
from trainable.data.walk import picture_files
from trainable.errors import DataError, Fault

CLASS_FILES = ("class_mapping.csv", "classes.csv", "class_dict.csv")
_VOC_LISTS = "ImageSets/Segmentation"
_NAME_LIMITS = re.compile(r"[./=\x00-\x1f\x7f]")


@dataclass
class Layout:
    """The files of a data set, by id, before any is opened.

    Attributes:
        kind: folders, voc, points or volume.
        root: the folder.
        classes: names and colors.
        images: image file by id.
        masks: mask file by id.
        points: coordinates by id, where they stand in for masks.
        points_file: where the coordinates come from.
        radius: of the discs, in pixels.
        lists: per split, the list's path and its ids with line numbers, or None.
        reserved: ids that must not become unlabeled.
        volumes: (volume, z) by id, where sections stack.
        photo_of: the photo of an id where `group_by` says nothing, or None.
        warnings: what was left aside, in words.
    """

    kind: str
    root: Path
    classes: ClassTable
    images: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    points: dict[str, Points] | None = None
    points_file: Path | None = None
    radius: int = 0
    lists: dict[Split, tuple[str, Mapping[str, int]] | None] = field(default_factory=dict)
    reserved: frozenset[str] = frozenset()
    volumes: dict[str, tuple[str, int]] | None = None
    photo_of: Callable[[str], str] | None = None
    warnings: list[Fault] = field(default_factory=list)


def data_root(cfg: DataConfig, base: Path) -> Path:
    """The data set's folder, absolute; `${NAME}` and `~` are expanded.

    Args:
        cfg: the data section.
        base: what a relative root is relative to.

    Raises:
        DataError: an unset variable, or no such folder.
    """
    written = os.path.expandvars(cfg.root)
    if re.search(r"\$(\w+|\{[^}]*\})", written):
        raise DataError([Fault("data.root", f"every variable must be set, but got root={cfg.root!r}; set it or write "
                               "the path out")])  # fmt: skip
    try:
        root = (base / Path(written).expanduser()).resolve(strict=True)
        if not root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory")
        listed = os.access(root, os.R_OK | os.X_OK)
    except (OSError, RuntimeError, ValueError) as error:
        # Loops of links and homes of unknown users are RuntimeErrors.
        reason = getattr(error, "strerror", None) or error
        raise DataError([Fault("data.root", f"root must be a folder, but got root={cfg.root!r} ({reason}); correct the "
                               "path, which is relative to the file it stands in")]) from None  # fmt: skip
    if not listed:
        raise DataError([Fault("data.root", f"root must be a folder that may be read, but got root={cfg.root!r} "
                               "(Permission denied); change its permissions")])  # fmt: skip
    return root


def find_layout(cfg: DataConfig, base: Path, faults: list[Fault]) -> Layout:
    """Find a data set's files.

    Args:
        cfg: the data section.
        base: what a relative root is relative to.
        faults: what can be reported beside other faults is added here.

    Raises:
        DataError: nothing more can be said without this: no root, no image folder, no classes.
    """
    root = data_root(cfg, base)
    ignore = parse_ignore(cfg.ignore, faults)
    kind = _kind(cfg, root)
    builders = {"folders": _folders, "voc": _voc, "points": _points, "volume": _volume}
    layout = builders[kind](cfg, root, ignore, faults)
    if not layout.images:
        faults.append(Fault(str(root), "there must be images, but got none; check data.root and data.layout"))
    return layout


def class_table(cfg: DataConfig, base: Path) -> ClassTable:
    """Only the classes of a data set, without looking at its images.

    Raises:
        DataError: there is no root, no layout that fits, or no class table.
    """
    root = data_root(cfg, base)
    ignore = parse_ignore(cfg.ignore, [])
    kind = _kind(cfg, root)
    if kind == "points":
        return _point_classes(cfg, root, ignore, (cfg.points or PointsConfig()).class_name)
    return _classes(cfg, root, ignore, voc_classes() if kind == "voc" else None)


def _kind(cfg: DataConfig, root: Path) -> str:
    if cfg.layout != "auto":
        return cfg.layout
    if cfg.points is not None:
        return "points"
    if cfg.volume is not None:
        return "volume"
    if (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir():
        return "voc"
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return "folders"
    if any((root / name).is_file() for name in POINT_FILES):
        return "points"
    raise DataError(
        [Fault(str(root), "the folder must hold images/ and masks/, JPEGImages/ and SegmentationClass/, or points.csv, "
               f"but got {some(sorted(p.name for p in root.iterdir())) or 'nothing'}; set data.root or data.layout")]
    )  # fmt: skip


def _folders(cfg: DataConfig, root: Path, ignore: tuple[tuple[int, int, int], ...], faults: list[Fault]) -> Layout:
    layout = Layout("folders", root, _classes(cfg, root, ignore))
    layout.images = picture_files(_folder(root, "images"), root, faults, layout.warnings)
    layout.masks = picture_files(_folder(root, "masks"), root, faults, layout.warnings)
    layout.lists = _lists(cfg, root, faults)
    _orphans(layout, faults)
    return layout


def _volume(cfg: DataConfig, root: Path, ignore: tuple[tuple[int, int, int], ...], faults: list[Fault]) -> Layout:
    layout = _folders(cfg, root, ignore, faults)
    layout.kind = "volume"
    if cfg.volume is None:
        raise DataError([Fault("data.volume", "layout volume must say how sections stack, but got volume=null; set "
                               "volume: {group_by: ..., order_by: ...}")])  # fmt: skip
    volumes = stacked(layout.images, cfg.volume.group_by, cfg.volume.order_by, faults)
    layout.volumes = volumes
    # Neighboring sections show the same tissue, so a volume is one photo unless the user says otherwise.
    layout.photo_of = lambda name: volumes[name][0] if name in volumes else name
    return layout


def _voc(cfg: DataConfig, root: Path, ignore: tuple[tuple[int, int, int], ...], faults: list[Fault]) -> Layout:
    classes = _classes(cfg, root, ignore, voc_classes())
    layout = Layout("voc", root, classes)
    layout.images = picture_files(_folder(root, "JPEGImages"), root, faults, layout.warnings)
    layout.masks = picture_files(_folder(root, "SegmentationClass"), root, faults, layout.warnings)
    layout.lists = _lists(cfg, root, faults)
    layout.photo_of = lambda name: name
    own = {name: root / _VOC_LISTS / f"{name}.txt" for name in ("train", "val", "test")}
    if all(given is None for given in layout.lists.values()) and own["train"].is_file() and own["val"].is_file():
        layout.lists["labeled"] = (str(own["train"]), read_list(own["train"], faults))
        layout.lists["val"] = (str(own["val"]), read_list(own["val"], faults))
        if own["test"].is_file():
            test = read_list(own["test"], faults)
            layout.reserved = frozenset(test)
            if test and all(name in layout.masks for name in test):
                layout.lists["test"] = (str(own["test"]), test)
    _orphans(layout, faults)
    return layout


def _points(cfg: DataConfig, root: Path, ignore: tuple[tuple[int, int, int], ...], faults: list[Fault]) -> Layout:
    section = cfg.points or PointsConfig(file=next((f for f in POINT_FILES if (root / f).is_file()), POINT_FILES[0]))
    layout = Layout("points", root, _point_classes(cfg, root, ignore, section.class_name))
    if cfg.points is None:
        layout.warnings.append(
            Fault("data.points", f"no radius is given, so discs of {section.radius} px stand for the points; set "
                  "points: {radius: ...} to half the particles' diameter")
        )  # fmt: skip
    folder = root / "images"
    deep = folder.is_dir()
    layout.images = picture_files(folder if deep else root, root, faults, layout.warnings, deep=deep)
    layout.points_file = root / section.file
    layout.radius = section.radius
    layout.points = _points_by_id(layout.points_file, layout.images, faults, layout.warnings)
    layout.lists = _lists(cfg, root, faults)
    return layout


def _points_by_id(
    path: Path, images: Mapping[str, Path], faults: list[Fault], warnings: list[Fault]
) -> dict[str, Points]:
    found: dict[str, Points] = {}
    unknown, twice, again = [], [], []
    for written, points in read_points(path).items():
        name = unicodedata.normalize("NFC", stem_of(written))
        if name not in images:
            unknown.append(written)
        elif name in found:
            twice.append(written)
        else:
            # A point that stands twice could be found only once.
            found[name] = tuple(dict.fromkeys(points))
            again += [written] * (len(points) - len(found[name]))
    if again:
        warnings.append(
            Fault(str(path), f"{len(again)} points stand more than once and count once, in: "
                  f"{some(dict.fromkeys(again))}")
        )  # fmt: skip
    for names, must in ((unknown, "every name must be an image's"), (twice, "an image must have one name")):
        if names:
            faults.append(
                Fault(str(path), f"{must}, but got {len(names)} that are not: {some(names)}; correct them or add the "
                      "images")
            )  # fmt: skip
    return found


def _point_classes(
    cfg: DataConfig, root: Path, ignore: tuple[tuple[int, int, int], ...], class_name: str
) -> ClassTable:
    if cfg.classes is not None:
        table = read_classes(root / cfg.classes, ignore)
        if len(table.names) != 2:
            raise DataError([Fault(str(root / cfg.classes), "points must have 2 classes, background first, but got "
                                   f"{len(table.names)}; correct the table or leave data.classes out")])  # fmt: skip
        return table
    if _NAME_LIMITS.search(class_name) or class_name in ("default", "background"):
        raise DataError([Fault("data.points.class", "the class must be a new name without '.', '/', '=' or control "
                               f"characters, but got class={class_name!r}; rename it")])  # fmt: skip
    return ClassTable(("background", class_name), ((0, 0, 0), (255, 255, 255)), ignore)


def _classes(
    cfg: DataConfig, root: Path, ignore: tuple[tuple[int, int, int], ...], default: ClassTable | None = None
) -> ClassTable:
    if cfg.classes is not None:
        return read_classes(root / cfg.classes, ignore)
    found = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    if found is not None:
        return read_classes(found, ignore)
    if default is not None:
        return ClassTable(default.names, default.colors, tuple(dict.fromkeys((*default.ignore, *ignore))))
    raise DataError([Fault("data.classes", f"a class table must be given, but got classes=null and no {CLASS_FILES[0]} "
                           "in data.root; write a CSV with the columns class_name,class_color")])  # fmt: skip


def _folder(root: Path, name: str) -> Path:
    path = root / name
    if not path.is_dir():
        raise DataError([Fault(str(path), "the layout must have this folder, but there is none; check data.root and "
                               "data.layout")])  # fmt: skip
    return path


def _lists(
    cfg: DataConfig, root: Path, faults: list[Fault]
) -> dict[Split, tuple[str, Mapping[str, int]] | None]:
    given: dict[Split, str | None] = {
        "labeled": cfg.labeled, "unlabeled": cfg.unlabeled, "val": cfg.val, "test": cfg.test,
    }  # fmt: skip
    for split, name in given.items():
        if name == "":
            faults.append(Fault(f"data.{split}", "a list must be a file's path, but got ''; name one, or write null"))
            given[split] = None
    return {
        split: None if name is None else (str(root / name), read_list(root / name, faults))
        for split, name in given.items()
    }


def _orphans(layout: Layout, faults: list[Fault]) -> None:
    """Masks that belong to no image: with lists no harm is done; without, their images would count as unlabeled."""
    orphans = sorted(layout.masks[name].name for name in layout.masks.keys() - layout.images.keys())
    if not orphans:
        return
    where = str(next(iter(layout.masks.values())).parent)
    message = f"every mask must be named like its image, but got {len(orphans)} without one: {some(orphans)}"
    if layout.lists.get("labeled") is None and layout.lists.get("val") is None:
        faults.append(Fault(where, f"{message}; rename the masks, or remove those that are not needed"))
    else:
        layout.warnings.append(Fault(where, message))
