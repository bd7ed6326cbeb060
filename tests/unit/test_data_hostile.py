"""Folders as nobody would make them on purpose: each ends in a named fault, at once, and nothing is guessed."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.folders import as_rgb, config, ids_of, listed_folder, write_folder, write_lists
from trainable.config import DataConfig
from trainable.data.check import inspect
from trainable.data.classes import VOC_NAMES, voc_palette
from trainable.data.items import hidden_mask
from trainable.data.layouts import data_root
from trainable.data.manifest import build_manifest
from trainable.errors import DataError


def said(cfg: DataConfig, base: Path) -> str:
    return "\n".join(map(str, inspect(cfg, base).faults))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "place", ["images/pipe.png", "masks/p0_y1_x0.png", "class_mapping.csv", "splits/labeled.txt"]
)
def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path, place: str) -> None:
    _, cfg = listed_folder(tmp_path / "set")
    cfg = cfg.model_copy(update={"classes": "class_mapping.csv"})
    pipe = tmp_path / "set" / place
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    write_lists(tmp_path / "set", {"unlabeled": ["p0_y2_x0", "pipe"]} if "images" in place else {})
    assert f"{pipe}: " in said(cfg, tmp_path)
    assert "regular file" in said(cfg, tmp_path)


def test_a_linked_folder_is_said_to_be_left_out(tmp_path: Path) -> None:
    _, cfg = listed_folder(tmp_path / "set")
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "set" / "images" / "site")
    os.symlink("..", tmp_path / "set" / "images" / "up")
    [warning] = [str(w) for w in inspect(cfg, tmp_path).warnings if "linked" in str(w)]
    assert warning.startswith("images: 2 linked folders are not looked into: images/site, images/up")


def test_a_folder_that_may_not_be_read_is_refused_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cfg = listed_folder(tmp_path / "set")
    closed = tmp_path / "set" / "images" / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refusing(path: Any = ".") -> Iterator[os.DirEntry[str]]:
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert f"{closed}: a folder must be readable, but got: Permission denied; change its permissions" in said(
        cfg, tmp_path
    )


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ("loop", "loop"),
        ("~nobody-of-that-name/x", "home directory"),
        ("none", "No such file"),
        ("file", "Not a dir"),
    ],
)
def test_a_root_that_is_no_folder_is_refused_whatever_it_is(tmp_path: Path, root: str, reason: str) -> None:
    os.symlink("pool", tmp_path / "loop")
    os.symlink("loop", tmp_path / "pool")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f"root must be a folder, but got root='{root}' .*{reason}"):
        data_root(DataConfig(root=root), tmp_path)


def test_a_root_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match="may be read"):
        data_root(DataConfig(root="."), tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode here")
def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    _, cfg = listed_folder(tmp_path / "set")
    folder = os.fsencode(tmp_path / "set" / "images")
    try:
        os.rename(folder + b"/p1_y2_x0.png", folder + b"/p1_\xff.png")
    except OSError:
        pytest.skip("this file system takes Unicode names alone")
    assert "file names must be UTF-8, but got 1 that are not: 'p1_\\udcff.png'; rename them" in said(
        cfg, tmp_path
    )


def test_a_gray_mask_among_colored_ones_is_refused_and_not_read_as_class_numbers(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    cfg = cfg.model_copy(update={"ignore": ("9 9 9",)})
    for place, name in enumerate(names):
        Image.fromarray(as_rgb(ids_of(place))).save(root / "masks" / f"{name}.png")
    assert inspect(cfg, tmp_path).ok
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(root / "masks" / f"{names[1]}.png")
    assert (
        f"all masks must be colored, or all hold class numbers, but got 8 of colors and 1 of numbers: {names[1]}; "
        "save those like the others"
    ) in said(cfg, tmp_path)


def test_numbers_and_a_palette_that_mean_the_same_go_together(tmp_path: Path) -> None:
    root = tmp_path / "set"
    (root / "JPEGImages").mkdir(parents=True)
    (root / "SegmentationClass").mkdir()
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    numbers = np.resize(np.arange(len(VOC_NAMES), dtype=np.uint8), (8, 8))
    for place in range(4):
        image = np.random.default_rng(place).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(image).save(root / "JPEGImages" / f"a{place}.png")
        mask = Image.fromarray(numbers)
        if place % 2:
            mask.putpalette([channel for color in voc_palette() for channel in color])
        if place < 3:
            mask.save(root / "SegmentationClass" / f"a{place}.png")
    for name, ids in {"train": "a0\na1\n", "val": "a2\n"}.items():
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(ids)
    cfg = DataConfig(root=str(root), cache={"dir": str(tmp_path / "cache")})
    assert inspect(cfg, tmp_path).faults == []


def test_a_list_says_what_its_ids_probably_mean(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    for written in (names[0].upper(), f"images/{names[0]}.png", f"{names[0]}.png masks/{names[0]}.png"):
        write_lists(root, {"labeled": [written, *names[1:2], names[3]]})
        assert f"write one id per line as the file is named ({names[0]!r})" in said(cfg, tmp_path)
    write_lists(root, {"labeled": ["nothing-like-it", *names[1:2], names[3]]})
    assert "nothing-like-it; correct the ids, or add the images" in said(cfg, tmp_path)


@pytest.mark.parametrize(
    ("raw", "words"),
    [("red,255 0 0\n".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
     ("class_name,class_color\nröd,255 0 0\n".encode("latin-1"), "line 2 holds the byte 0xf6"),
     (b'class_name,class_color\n"' + b"x" * 200_000 + b'",1 2 3\n', "the line must be CSV, but got: field larger"),
     (b"foo,bar\nred,255 0 0\n", "c.csv:1: the first line must be a header with the columns class_name,class_color")],
    ids=["utf-16", "latin-1", "a field without end", "no header"],
)  # fmt: skip
def test_a_class_table_that_is_no_table_says_why(tmp_path: Path, raw: bytes, words: str) -> None:
    write_folder(tmp_path / "set")
    (tmp_path / "set" / "c.csv").write_bytes(raw)
    assert words in said(config(tmp_path / "set", classes="c.csv"), tmp_path)


def picked(root: Path, rows: str, names: tuple[str, ...] = ("m0", "m1", "m2")) -> DataConfig:
    (root / "images").mkdir(parents=True)
    for place, name in enumerate(names):
        image = np.random.default_rng(place).integers(0, 255, (20, 30)).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{name}.png")
    (root / "points.csv").write_text(rows, encoding="utf-8")
    return DataConfig(
        root=str(root), group_by="none", points={"radius": 2}, cache={"dir": str(root.parent / "cache")}
    )


def test_coordinates_without_an_end_are_a_fault_of_their_line(tmp_path: Path) -> None:
    cfg = picked(tmp_path / "set", 'image,x,y\nm0,1,1\n"' + "x" * 200_000 + '",1,1\n')
    assert "points.csv:3: the line must be CSV, but got: field larger" in said(cfg, tmp_path)


def test_a_point_that_stands_twice_counts_once_and_is_said(tmp_path: Path) -> None:
    cfg = picked(tmp_path / "set", "image,x,y\nm0,3,3\nm0,3,3\nm0,9,9\nm1,5,5\n")
    found = inspect(cfg, tmp_path)
    assert any("1 points stand more than once and count once, in: m0" in str(w) for w in found.warnings)
    [item] = [item for item in build_manifest(cfg, tmp_path).items if item.id == "m0"]
    assert item.points == ((3.0, 3.0), (9.0, 9.0))


def test_hidden_points_are_found_however_their_accents_are_written(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFC", "é")
    cfg = picked(
        tmp_path / "set",
        f"image,x,y\nm0,3,3\nm1,5,5\n{unicodedata.normalize('NFD', name)},9,9\n",
        ("m0", "m1", name),
    )
    write_lists(tmp_path / "set", {"labeled": ["m0"], "val": ["m1"], "unlabeled": [name]})
    cfg = cfg.model_copy(update={split: f"splits/{split}.txt" for split in ("labeled", "val", "unlabeled")})
    manifest = build_manifest(cfg, tmp_path)
    [item] = [item for item in manifest.items if item.split == "unlabeled"]
    hidden = hidden_mask(manifest, item)
    assert hidden is not None
    assert hidden[9, 9] == 1
