"""Volumes in, masks out: from one file or from sections, the same answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.recipe_rows import ROWS, run_row
from trainable.data import files
from trainable.data.arrays import array_header
from trainable.data.volume_files import find_volumes
from trainable.errors import DataError
from trainable.predict import Predictor, load_predictor, predict_folder

ROW = next(row for row in ROWS if str(row) == "surface-volume")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("trained")
    run_row(ROW, folder, steps=4, eval_every_steps=4)
    return load_predictor(folder)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    """uint8[5, 20, 18]: other sides than the windows', and a number of sections that is no multiple of anything."""
    return np.random.default_rng(0).integers(0, 255, (5, 20, 18), np.uint8)


def pages(volume: np.ndarray, path: Path) -> None:
    first, *rest = [Image.fromarray(section) for section in volume]
    first.save(path, save_all=True, append_images=rest)


def test_an_array_a_tiff_and_sections_give_the_same_masks(
    predictor: Predictor, volume: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "in" / "sections").mkdir(parents=True)
    np.save(tmp_path / "in" / "array.npy", volume)
    pages(volume, tmp_path / "in" / "paged.tif")
    for z, section in enumerate(volume):
        # 7, 8, 9, 10, 11: in the order of letters 10 would come first.
        Image.fromarray(section).save(tmp_path / "in" / "sections" / f"{z + 7}.png")
    expected = predictor.mask(np.repeat(volume[..., None], 3, axis=3))
    assert expected.shape == volume.shape and 0 < expected.mean() < 1
    written = list(predict_folder(predictor, tmp_path / "in", tmp_path / "out"))
    assert len(written) == 2 + len(volume)
    for name in ("array.npy", "paged.npy"):
        found = np.load(tmp_path / "out" / name)
        assert found.dtype == np.uint8 and np.array_equal(found, expected)
    for z, section in enumerate(expected):
        mask = Image.open(tmp_path / "out" / "sections" / f"{z + 7}.png")
        assert mask.mode == "P" and np.array_equal(np.asarray(mask), section)
    (alone,) = predict_folder(predictor, tmp_path / "in" / "array.npy", tmp_path / "alone")
    assert alone == tmp_path / "alone" / "array.npy" and np.array_equal(np.load(alone), expected)


def test_sections_of_several_volumes_go_by_the_patterns_of_the_data(
    predictor: Predictor, volume: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    stacks = {"a": volume, "b": volume[::-1, ::-1]}
    for name, stack in stacks.items():
        for z, section in enumerate(stack):
            Image.fromarray(section).save(tmp_path / "in" / f"z{z:02d}_{name}.png")
    by_pattern = replace(predictor, group_by="_([a-z])", order_by=r"z(\d+)")
    assert len(list(predict_folder(by_pattern, tmp_path / "in", tmp_path / "out"))) == 10
    for name, stack in stacks.items():
        expected = predictor.mask(np.repeat(stack[..., None], 3, axis=3))
        for z, section in enumerate(expected):
            assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / f"z{z:02d}_{name}.png")), section)
    assert len(find_volumes(tmp_path / "in")) == 1


def test_what_is_no_volume_is_refused(volume: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold volumes"):
        find_volumes(tmp_path)
    np.save(tmp_path / "deep.npy", volume.astype(np.uint16) + 1000)
    with pytest.raises(DataError, match="8 bits"):
        find_volumes(tmp_path)[0].read()
    np.save(tmp_path / "flat.npy", volume[0])
    with pytest.raises(DataError, match="must have shape"):
        find_volumes(tmp_path / "flat.npy")[0].read()
    folder = tmp_path / "uneven"
    folder.mkdir()
    Image.fromarray(volume[0]).save(folder / "1.png")
    Image.fromarray(volume[1, :-1]).save(folder / "2.png")
    with pytest.raises(DataError, match=r"one size.*1\.png"):
        find_volumes(folder)[0].read()
    (folder / "broken.tif").write_bytes(b"II*\x00garbage")
    with pytest.raises(DataError, match=r"broken\.tif"):
        find_volumes(folder)


def test_a_mask_replaces_neither_an_input_nor_another_mask(predictor: Predictor, tmp_path: Path) -> None:
    volume = np.full((4, 8, 8), 77, np.uint8)
    np.save(tmp_path / "v.npy", volume)
    with pytest.raises(DataError, match="would replace the input"):
        list(predict_folder(predictor, tmp_path / "v.npy", tmp_path))
    pages = [Image.fromarray(page) for page in volume]
    pages[0].save(tmp_path / "v.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="would both be"):
        list(predict_folder(predictor, tmp_path, tmp_path / "out"))
    assert np.array_equal(np.load(tmp_path / "v.npy"), volume) and not (tmp_path / "out").exists()


def test_pages_above_the_pixel_limit_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    pages = [Image.new("L", (10_000, 9_200)) for _ in range(2)]
    pages[0].save(tmp_path / "bomb.tif", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    with pytest.raises(DataError, match="pixel limit"):
        find_volumes(tmp_path / "bomb.tif")[0].read()


@pytest.mark.fault(
    43,
    how="a TIFF of five pages and an array of five sections, each below a picture's limit, all above a volume's",
    saw="both refused by their headers, with pages, size and limit",
)
def test_the_limit_of_a_volume_holds_for_all_pages_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = np.zeros((5, 20, 18), np.uint8)
    pages(volume, tmp_path / "deep.tif")
    np.save(tmp_path / "deep.npy", volume)
    np.save(tmp_path / "color.npy", np.zeros((40, 40, 3), np.uint8))
    monkeypatch.setattr(files, "VOLUME_LIMIT", 1_799)
    refused = r"deep.*a volume must not exceed the pixel limit, but got 5 pages of 18 x 20 = 1,800 .*smaller volumes"
    for name in ("deep.tif", "deep.npy"):
        with pytest.raises(DataError, match=refused):
            find_volumes(tmp_path / name)[0].read()
    assert array_header(tmp_path / "color.npy").channels == 3
    monkeypatch.setattr(files, "VOLUME_LIMIT", 1_800)
    assert all(find_volumes(tmp_path / name)[0].read().shape == (5, 20, 18, 3) for name in ("deep.tif", "deep.npy"))


def test_pages_of_two_sizes_are_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "v.tif", save_all=True, append_images=[Image.new("L", (8, 9))])
    with pytest.raises(DataError, match="must have one size"):
        find_volumes(tmp_path / "v.tif")[0].read()
