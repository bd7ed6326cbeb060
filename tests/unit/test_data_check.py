"""The check: every rule fires on a data set that breaks it alone, all at once, and is silent on a sound one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.fault_page import Observed
from tests.support.folders import LISTED, config, ids_of, image_of, listed_folder, write_folder, write_lists
from trainable.config import DataConfig
from trainable.data.check import check, inspect
from trainable.data.manifest import build_manifest
from trainable.errors import DataError


def faults_of(cfg: DataConfig, base: Path, **options: bool) -> str:
    return "\n".join(map(str, inspect(cfg, base, **options).faults))


def test_a_sound_set_passes_and_is_counted(tmp_path: Path) -> None:
    names, cfg = listed_folder(tmp_path / "set")
    report = check(build_manifest(cfg, tmp_path), cfg)
    assert report.ok
    assert report.warnings == []
    rows = {row["split"]: (row["images"], row["photos"]) for row in report.split_rows()}
    assert rows == {"labeled": (3, 2), "unlabeled": (3, 2), "val": (3, 1), "test": (3, 1)}
    expected = sum(np.bincount(ids_of(names.index(name)).ravel(), minlength=256)[:3] for name in (*names[:2], names[3]))
    assert list(report.splits["labeled"].class_pixels.values()) == expected.tolist()
    assert report.splits["labeled"].ignored == 3
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


@pytest.mark.fault(41, how="patches of one photo in the labeled list and in val; then with allow_leak")
def test_a_photo_on_both_sides_is_refused_and_named(tmp_path: Path, observed: Observed) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    write_lists(root, {"val": [*names[6:9]], "unlabeled": [names[2], names[4]], "labeled": [*names[:2], names[3]]})
    write_lists(root, {"val": names[5:9]})
    report = inspect(cfg, tmp_path)
    text = "\n".join(map(str, report.faults))
    assert "both labeled and val: p1 (p1_y0_x0 and p1_y2_x0)" in text
    assert "both unlabeled and val: p1" in text
    allowed = inspect(cfg.model_copy(update={"allow_leak": True}), tmp_path)
    assert allowed.ok
    assert allowed.leak_allowed
    assert any("allowed by allow_leak" in str(warning) for warning in allowed.warnings)
    observed(f"{report.faults[0]}; with allow_leak a warning")


def test_test_photos_may_not_be_in_the_pool_either(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    write_lists(root, {"unlabeled": [names[2], *names[4:6], names[11]], "test": names[9:11]})
    assert "both unlabeled and test: p3" in faults_of(cfg, tmp_path)


@pytest.mark.fault(
    41,
    how="one picture under two names in train and val, recompressed, and as a copy",
    saw="refused, both names given",
)
def test_the_same_picture_under_two_names_is_a_leak(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    Image.fromarray(image_of(0)).save(root / "images" / f"{names[7]}.png", compress_level=1)
    for decode in (True, False):
        found = f"same in labeled and val: {names[0]} = {names[7]}" in faults_of(cfg, tmp_path, decode=decode)
        assert found == decode
    (root / "images" / f"{names[7]}.png").write_bytes((root / "images" / f"{names[0]}.png").read_bytes())
    assert f"{names[0]} = {names[7]}" in faults_of(cfg, tmp_path, decode=False)


def test_pictures_of_one_color_are_no_leak(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    for place in (2, 7):
        Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(root / "images" / f"{names[place]}.png")
    for decode in (True, False):
        assert faults_of(cfg, tmp_path, decode=decode) == ""


def test_an_image_both_labeled_and_unlabeled_is_noted(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    Image.fromarray(image_of(0)).save(root / "images" / f"{names[2]}.png")
    report = inspect(cfg, tmp_path)
    assert report.ok
    assert f"{names[0]}, {names[2]}" in str(report.warnings[0])


@pytest.mark.fault(40, how="a folder whose images all have masks, then one without any mask")
def test_empty_splits_are_refused_with_the_counts(tmp_path: Path, observed: Observed) -> None:
    root = tmp_path / "set"
    names = write_folder(root)
    report = inspect(config(root), tmp_path)
    assert [fault.where for fault in report.faults] == ["data.unlabeled"]
    assert "labeled 9, unlabeled 0, val 3" in str(report.faults[0])
    assert inspect(config(root), tmp_path, supervised=True).ok
    for mask in (root / "masks").iterdir():
        mask.unlink()
    faults = {fault.where: fault for fault in inspect(config(root), tmp_path).faults}
    assert {"data.labeled", "data.val"} <= set(faults)
    observed(report.faults[0])
    observed(faults["data.labeled"])
    observed("the first is taken by a supervised recipe, which needs no unlabeled images")
    assert len(names) == 12


@pytest.mark.fault(
    42,
    how="a class without a pixel in val",
    saw="a warning that names the class",
)
def test_a_class_that_no_labeled_image_shows_is_refused_one_absent_from_val_is_noted(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    for place in (0, 1, 3):
        Image.fromarray(np.where(ids_of(place) == 2, 0, ids_of(place)).astype(np.uint8)).save(
            root / "masks" / f"{names[place]}.png"
        )
    for place in (6, 7, 8):
        Image.fromarray(np.where(ids_of(place) == 1, 0, ids_of(place)).astype(np.uint8)).save(
            root / "masks" / f"{names[place]}.png"
        )
    report = inspect(cfg, tmp_path)
    assert [fault.where for fault in report.faults] == ["class roof"]
    assert [warning.where for warning in report.warnings] == ["class road"]


@pytest.mark.fault(
    37,
    how="images cut short whose headers are good",
    saw="`data check` lists each file",
)
def test_damaged_images_are_found_by_decoding(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    for place in (2, 4):
        path = root / "images" / f"{names[place]}.png"
        path.write_bytes(path.read_bytes()[:-60])
    report = inspect(cfg, tmp_path)
    assert [Path(fault.where).stem for fault in report.faults] == [names[2], names[4]]
    with pytest.raises(DataError, match=names[4]):
        check(build_manifest(cfg, tmp_path), cfg)


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    write_lists(root, {"val": names[5:9], "unlabeled": ["../x", names[4]], "labeled": [*names[:2], names[3], "ghost"]})
    Image.fromarray(np.full((12, 16), 7, np.uint8)).save(root / "masks" / f"{names[0]}.png")
    (root / "images" / f"{names[9]}.png").write_bytes(b"broken")
    text = faults_of(cfg, tmp_path)
    for words in ("leaves the folder", "ghost", "7 (192 px)", names[9], "both labeled and val: p1"):
        assert words in text
    assert "every class must occur" not in text


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names = write_folder(root, unmasked=["p0_y2_x0"])
    write_lists(root, {"labeled": names[:2], "val": names[6:9]})
    report = inspect(config(root, labeled=LISTED["labeled"], val=LISTED["val"]), tmp_path)
    assert report.ok
    assert report.left_out == {"in no list": 6}
    assert any("6 images are not used" in str(warning) for warning in report.warnings)


def test_patches_without_a_pattern_and_a_pattern_that_groups_nothing(tmp_path: Path) -> None:
    _, cfg = listed_folder(tmp_path / "set")
    missing = inspect(cfg.model_copy(update={"group_by": None}), tmp_path)
    assert any("group_by=null" in str(fault) for fault in missing.faults)
    alone = inspect(cfg.model_copy(update={"group_by": "^(.*)$"}), tmp_path)
    assert alone.ok
    assert any("photo of its own" in str(warning) for warning in alone.warnings)


def test_val_and_test_of_one_photo_are_noted(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    write_lists(root, {"val": names[6:8], "test": [names[8], *names[9:]]})
    report = inspect(cfg, tmp_path)
    assert report.ok
    assert any("both val and test" in str(warning) for warning in report.warnings)


def test_a_root_that_is_no_data_set_is_explained(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert "must hold images/ and masks/" in faults_of(config(tmp_path), tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    assert "class table" in faults_of(config(tmp_path), tmp_path)


def test_a_class_is_not_called_absent_while_labeled_masks_are_broken(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names, cfg = listed_folder(root)
    for place in (0, 1):
        (root / "masks" / f"{names[place]}.png").write_bytes(b"broken")
    without = np.where(ids_of(3) == 2, 0, ids_of(3)).astype(np.uint8)
    Image.fromarray(without).save(root / "masks" / f"{names[3]}.png")
    assert {Path(fault.where).stem for fault in inspect(cfg, tmp_path).faults} == {names[0], names[1]}


@pytest.mark.parametrize("split", ["labeled", "unlabeled", "val"])
@pytest.mark.parametrize(
    ("content", "words"), [(b"\xff\xfea", "UTF-16"), (b"\n", "is empty"), (b"ghost\n", "ghost"), (None, "no such file")]
)
def test_a_list_that_names_nothing_is_the_only_fault(
    tmp_path: Path, split: str, content: bytes | None, words: str
) -> None:
    root = tmp_path / "set"
    _, cfg = listed_folder(root)
    path = root / LISTED[split]
    path.unlink() if content is None else path.write_bytes(content)
    (only,) = inspect(cfg, tmp_path, decode=False).faults
    assert only.where == str(path) and words in str(only)
