"""The manifest: layouts, what the hash covers, and labels that training must never see."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.folders import (
    LISTED,
    as_rgb,
    config,
    ids_of,
    image_of,
    listed_folder,
    save_palette,
    write_classes,
    write_folder,
    write_lists,
)
from trainable.data.cache import open_cache
from trainable.data.check import check
from trainable.data.classes import VOC_NAMES, voc_palette
from trainable.data.manifest import build_manifest, hidden_mask, read_mask
from trainable.errors import DataError


def test_items_say_where_when_and_what(tmp_path: Path) -> None:
    names, cfg = listed_folder(tmp_path / "set")
    manifest = build_manifest(cfg, tmp_path)
    assert [item.id for item in manifest.items] == sorted(names)
    by_split = {split: [manifest.items[i].id for i in manifest.indices(split)] for split in LISTED}  # type: ignore[arg-type]
    assert by_split == {
        "labeled": [*names[:2], names[3]], "unlabeled": [names[2], *names[4:6]], "val": names[6:9], "test": names[9:],
    }  # fmt: skip
    for place, item in enumerate(manifest.items):
        assert item.group == item.id.split("_")[0]
        if item.split == "unlabeled":
            assert item.mask is None
            assert item.mask_hash is None
            assert item.class_pixels == ()
        else:
            assert np.array_equal(read_mask(manifest, item), ids_of(place))
            assert sum(item.class_pixels) == item.height * item.width
    assert pickle.loads(pickle.dumps(manifest)) == manifest


def test_a_root_is_relative_to_its_file_and_variables_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cfg = listed_folder(tmp_path / "set")
    expected = build_manifest(cfg, tmp_path).data_hash
    monkeypatch.setenv("HERE", str(tmp_path))
    for root in ("set", "${HERE}/set", "../" + tmp_path.name + "/set"):
        assert build_manifest(cfg.model_copy(update={"root": root}), tmp_path).data_hash == expected
    for root in ("${NOT_THERE}/set", "nowhere"):
        with pytest.raises(DataError, match="data.root"):
            build_manifest(cfg.model_copy(update={"root": root}), tmp_path)


def test_masks_of_unlabeled_images_are_never_read(tmp_path: Path) -> None:
    names, cfg = listed_folder(tmp_path / "set")
    before = build_manifest(cfg, tmp_path)
    hidden = [item for item in before.items if item.split == "unlabeled"]
    for item in hidden:
        labels = hidden_mask(before, item)
        assert labels is not None
        assert np.array_equal(labels, ids_of(names.index(item.id)))
    for item in hidden:
        (tmp_path / "set" / "masks" / f"{item.id}.png").write_bytes(b"whoever opens this fails")
    after = build_manifest(cfg, tmp_path)
    check(after, cfg)
    cache = open_cache(after, cfg.cache)
    assert after.data_hash == before.data_hash
    for item in hidden:
        with pytest.raises(DataError, match="hidden_mask"):
            read_mask(after, item)
        with pytest.raises(DataError, match="hidden_mask"):
            cache.mask(after.items.index(item))
        with pytest.raises(DataError, match="decode|PNG"):
            hidden_mask(after, item)


def test_the_hash_covers_what_a_run_sees_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    base = build_manifest(cfg, tmp_path).data_hash
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    assert build_manifest(cfg.model_copy(update={"root": str(moved)}), tmp_path).data_hash == base
    moved.rename(root)
    hashes = {base}
    mask = ids_of(0)
    mask[5, 5] = (mask[5, 5] + 1) % 3
    Image.fromarray(mask).save(root / "masks" / f"{names[0]}.png")
    hashes.add(build_manifest(cfg, tmp_path).data_hash)
    Image.fromarray(image_of(99)).save(root / "images" / f"{names[2]}.png")
    hashes.add(build_manifest(cfg, tmp_path).data_hash)
    hashes.add(build_manifest(config(root, **LISTED, group_by=r"^(p)\d"), tmp_path).data_hash)
    write_lists(root, {"labeled": [*names[:2]], "unlabeled": [names[2], *names[3:6]]})
    hashes.add(build_manifest(cfg, tmp_path).data_hash)
    write_classes(root, [("water", (0, 0, 200)), ("road", (1, 2, 3)), ("roof", (200, 40, 40)), ("new", (5, 5, 5))])
    hashes.add(build_manifest(cfg, tmp_path).data_hash)
    assert len(hashes) == 6


def test_a_class_table_in_another_order_is_another_data_set(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    for place, name in enumerate(names):
        Image.fromarray(as_rgb(ids_of(place))).save(root / "masks" / f"{name}.png")
    cfg = cfg.model_copy(update={"ignore": ("9 9 9",)})
    first = build_manifest(cfg, tmp_path)
    assert first.mask_kind == "rgb"
    write_classes(root, [("road", (120, 120, 120)), ("water", (0, 0, 200)), ("roof", (200, 40, 40))])
    second = build_manifest(cfg, tmp_path)
    assert first.data_hash != second.data_hash
    assert first.items[0].class_pixels[0] == second.items[0].class_pixels[1]


def test_what_is_remembered_of_a_file_ends_with_its_change(tmp_path: Path) -> None:
    names, cfg = listed_folder(tmp_path / "set")
    paths = sorted((tmp_path / "set").rglob("*.png"))
    for path in paths:
        os.utime(path, (1_000_000_000, 1_000_000_000))
    first = build_manifest(cfg, tmp_path)
    memo = next((tmp_path / "cache" / "files").iterdir())
    remembered = json.loads(memo.read_text())["files"]
    assert len(remembered) == len(names) + sum(item.mask is not None for item in first.items)
    assert build_manifest(cfg, tmp_path) == first
    Image.fromarray(image_of(50)).save(tmp_path / "set" / "images" / f"{names[0]}.png")
    assert build_manifest(cfg, tmp_path).data_hash != first.data_hash
    for damage in (b"", b"{", b'{"version": 1}', b'{"version": 1, "files": {"x": 3}}', b"[]"):
        memo.write_bytes(damage)
        assert len(build_manifest(cfg, tmp_path).items) == len(names)


@pytest.mark.fault(
    37, 39,
    how="an image and a mask that are no pictures, a mask of another size, a mask with an unknown id",
    saw="all four named at once, with what is wrong in each",
)
def test_all_broken_files_are_named_at_once(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    (root / "images" / f"{names[0]}.png").write_bytes(b"broken")
    Image.fromarray(np.full((12, 16), 77, np.uint8)).save(root / "masks" / f"{names[1]}.png")
    Image.fromarray(ids_of(6, (5, 5))).save(root / "masks" / f"{names[6]}.png")
    (root / "masks" / f"{names[7]}.png").write_bytes(b"broken")
    with pytest.raises(DataError) as caught:
        build_manifest(cfg, tmp_path)
    text = str(caught.value)
    assert len(caught.value.faults) == 4
    for name, words in {0: "PNG", 1: "77 (192 px)", 6: "16 x 12, but got 5 x 5", 7: "PNG"}.items():
        assert any(names[name] in line and words in line for line in text.splitlines())


def test_two_files_of_one_id_and_masks_of_no_image_are_faults(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names = write_folder(root)
    Image.fromarray(image_of(0)).save(root / "images" / f"{names[0]}.tif")
    (root / "masks" / f"{names[1]}.png").rename(root / "masks" / f"{names[1]}_mask.png")
    (root / "images" / ".DS_Store").write_bytes(b"x")
    with pytest.raises(DataError) as caught:
        build_manifest(config(root), tmp_path)
    first, second = map(str, caught.value.faults)
    assert f"{names[0]}.png and {names[0]}.tif" in first
    assert f"{names[1]}_mask.png" in second


def test_ids_may_lie_in_folders(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for kind in ("images", "masks"):
        for photo in ("a", "b", "c"):
            (root / kind / photo).mkdir(parents=True)
            picture = image_of(1) if kind == "images" else ids_of(1)
            Image.fromarray(picture).save(root / kind / photo / "x.png")
    write_classes(root)
    manifest = build_manifest(config(root, group_by="^([^/]+)/"), tmp_path)
    assert [item.id for item in manifest.items] == ["a/x", "b/x", "c/x"]


def test_voc_folders_need_nothing_said(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    lists = {"train": ["2007_000001", "2007_000002"], "val": ["2007_000003"], "test": ["2008_000009"]}
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    palette = [channel for color in voc_palette() for channel in color]
    expected = np.zeros((8, 8), np.uint8)
    expected[0] = (0, 5, 20, 255, 0, 0, 0, 0)
    for name in [*sum(lists.values(), []), "2008_000010"]:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        if name < "2008":
            mask = Image.fromarray(expected)
            mask.putpalette(palette)
            mask.save(root / "SegmentationClass" / f"{name}.png")
    for name, ids in lists.items():
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(ids))
    manifest = build_manifest(config(root, group_by=None), tmp_path)
    assert manifest.layout == "voc"
    assert manifest.class_names == VOC_NAMES
    splits = {item.id: item.split for item in manifest.items}
    assert splits == {
        "2007_000001": "labeled", "2007_000002": "labeled", "2007_000003": "val", "2008_000010": "unlabeled",
    }  # fmt: skip
    assert dict(manifest.left_out) == {"2008_000009": "a listed test image without a mask"}
    assert np.array_equal(read_mask(manifest, manifest.items[0]), expected)


def points_folder(root: Path) -> None:
    (root / "images").mkdir(parents=True)
    for name in "abcd":
        Image.fromarray(image_of(ord(name), (20, 30))[..., 0]).save(root / "images" / f"{name}.png")
    plain = {"a.png": [[5, 6], [20.5, 3]], "b": [], "c.png": [[29, 19]]}
    (root / "coordinates.json").write_text(json.dumps(plain))


def test_points_become_discs(tmp_path: Path) -> None:
    root = tmp_path / "set"
    points_folder(root)
    points = {"file": "coordinates.json", "radius": 3, "class": "particle"}
    manifest = build_manifest(config(root, group_by="none", points=points), tmp_path)
    assert manifest.layout == manifest.mask_kind == "points"
    assert manifest.class_names == ("background", "particle")
    assert {item.id: item.split == "unlabeled" for item in manifest.items} == dict(a=False, b=False, c=False, d=True)
    y, x = np.mgrid[:20, :30]
    expected = ((x - 5) ** 2 + (y - 6) ** 2 <= 9) | ((x - 20.5) ** 2 + (y - 3) ** 2 <= 9)
    first = manifest.items[0]
    assert np.array_equal(read_mask(manifest, first), expected)
    assert first.class_pixels == (600 - expected.sum(), expected.sum(), 0)
    wider = build_manifest(config(root, group_by="none", points=points | {"radius": 4}), tmp_path)
    assert wider.data_hash != manifest.data_hash


def test_hidden_points_are_read_only_to_measure(tmp_path: Path) -> None:
    root = tmp_path / "set"
    points_folder(root)
    write_lists(root, {"labeled": ["a"], "unlabeled": ["c", "d"], "val": ["b"]})
    lists = {key: LISTED[key] for key in ("labeled", "unlabeled", "val")}
    points = {"file": "coordinates.json", "radius": 3}
    manifest = build_manifest(config(root, group_by="none", points=points, **lists), tmp_path)
    by_id = {item.id: item for item in manifest.items}
    assert by_id["c"].points is None
    labels = hidden_mask(manifest, by_id["c"])
    assert labels is not None
    assert labels[19, 29] == 1
    assert hidden_mask(manifest, by_id["d"]) is None


def test_points_outside_and_of_no_image_are_faults(tmp_path: Path) -> None:
    root = tmp_path / "set"
    points_folder(root)
    (root / "points.csv").write_text("image,x,y\na,3,25\nb,1,1\nghost,1,1\n")
    with pytest.raises(DataError) as caught:
        build_manifest(config(root, group_by="none", points={"file": "points.csv"}), tmp_path)
    assert "ghost" in str(caught.value)
    assert "1 outside: (3.0, 25.0)" in str(caught.value)


def test_sections_know_their_volume_and_place(tmp_path: Path) -> None:
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    write_classes(root)
    for place, name in enumerate(["v1_z2", "v1_z10", "v2_z1", "v2_z3"]):
        Image.fromarray(image_of(place)).save(root / "images" / f"{name}.png")
        Image.fromarray(ids_of(place)).save(root / "masks" / f"{name}.png")
    volume = {"group_by": r"^(v\d)", "order_by": r"z(\d+)$"}
    manifest = build_manifest(config(root, group_by=None, volume=volume), tmp_path)
    assert {item.id: (item.volume, item.z, item.group) for item in manifest.items} == {
        "v1_z2": ("v1", 2, "v1"), "v1_z10": ("v1", 10, "v1"), "v2_z1": ("v2", 1, "v2"), "v2_z3": ("v2", 3, "v2"),
    }  # fmt: skip
    Image.fromarray(image_of(9, (4, 4))).save(root / "images" / "v2_z3.png")
    Image.fromarray(ids_of(9, (4, 4))).save(root / "masks" / "v2_z3.png")
    with pytest.raises(DataError, match="volume v2: all sections"):
        build_manifest(config(root, group_by=None, volume=volume), tmp_path)
    for wrong in (volume | {"order_by": r"(z)"}, {"group_by": "(v)", "order_by": r"v(\d)"}):
        with pytest.raises(DataError, match="data.volume"):
            build_manifest(config(root, group_by=None, volume=wrong), tmp_path)


@pytest.mark.fault(
    39,
    how="an image turned by EXIF beside a mask that is not",
    saw="refused, both sizes and the orientation named",
)
def test_an_image_turned_by_exif_must_fit_its_mask(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.fromarray(image_of(0)).save(root / "images" / f"{names[0]}.png", exif=tag)
    with pytest.raises(DataError, match=r"image's size 12 x 16 \(after EXIF orientation 6\), but got 16 x 12"):
        build_manifest(cfg, tmp_path)


def test_palette_files_with_orders_of_their_own_give_the_same_labels(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    for place, name in enumerate(names):
        save_palette(root / "masks" / f"{name}.png", ids_of(place), order=((0, 1, 2), (2, 0, 1), (1, 2, 0))[place % 3])
    manifest = build_manifest(cfg, tmp_path)
    for place, item in enumerate(manifest.items):
        if item.split != "unlabeled":
            assert np.array_equal(read_mask(manifest, item), ids_of(place))
