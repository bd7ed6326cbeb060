"""Masks: the same labels whatever the file's kind, and no value that becomes ignore or class 0 by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tests.support.fault_page import Observed
from tests.support.folders import COLORS, NAMES, U8, as_rgb, ids_of, save_palette
from tests.unit.test_data_images import png_of
from trainable.data.classes import ClassTable, voc_classes, voc_palette
from trainable.data.masks import (
    Census,
    census_fault,
    class_ids,
    decide_readings,
    pixels_per_class,
    take_census,
)
from trainable.data.raw_masks import RawMask, read_raw
from trainable.errors import DataError

CLASSES = ClassTable(NAMES, COLORS, ((9, 9, 9),))
BINARY = ClassTable(("background", "cell"), ((0, 0, 0), (255, 255, 255)))
IDS = ids_of(0)


def read_set(paths: list[Path], classes: ClassTable) -> list[U8]:
    """The labels of a whole set of masks."""
    raws = [read_raw(path) for path in paths]
    readings, _ = decide_readings([take_census(raw) for raw in raws], classes)
    return [class_ids(path, raw, readings, classes) for path, raw in zip(paths, raws, strict=True)]


def gray(path: Path, values: object) -> Path:
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def test_every_kind_of_file_gives_the_same_labels(tmp_path: Path) -> None:
    Image.fromarray(as_rgb(IDS)).save(tmp_path / "rgb.png")
    Image.fromarray(as_rgb(IDS)).save(tmp_path / "rgb.tif")
    Image.fromarray(as_rgb(IDS)).convert("RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(IDS).save(tmp_path / "index.png")
    Image.fromarray(IDS.astype(np.uint16)).save(tmp_path / "index16.png")
    save_palette(tmp_path / "palette.png", IDS)
    save_palette(tmp_path / "permuted.png", IDS, order=(2, 0, 1))
    np.save(tmp_path / "ids.npy", IDS.astype(np.int32))
    np.save(tmp_path / "rgb.npy", as_rgb(IDS))
    for path in sorted(tmp_path.iterdir()):
        assert np.array_equal(read_set([path], CLASSES)[0], IDS), path.name


@given(ids=hnp.arrays(np.uint8, (5, 7), elements=st.sampled_from([0, 1, 2, 255])))
@settings(max_examples=60, deadline=None)
def test_counts_agree_with_the_labels(ids: U8) -> None:
    for raw in (RawMask("rgb", as_rgb(ids), np.zeros((256, 3), np.uint8)), RawMask("gray", ids, as_rgb(IDS)[0][:1])):
        if raw.family == "gray":
            raw = RawMask("gray", ids, np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1))
        census = take_census(raw)
        assert Census.from_json(census.to_json()) == census
        readings = {"rgb": "color", "gray": "index"}
        expected = [int((ids == value).sum()) for value in (0, 1, 2, 255)]
        assert list(pixels_per_class(census, readings, CLASSES)) == expected  # type: ignore[arg-type]
        assert np.array_equal(class_ids(Path("a"), raw, readings, CLASSES), ids)  # type: ignore[arg-type]


def test_black_and_white_are_two_classes_not_one_and_ignore(tmp_path: Path) -> None:
    path = gray(tmp_path / "a.png", [[0, 255], [255, 0]])
    assert read_set([path], BINARY)[0].tolist() == [[0, 1], [1, 0]]


def test_one_mask_with_ids_decides_for_all_that_255_is_ignore(tmp_path: Path) -> None:
    paths = [gray(tmp_path / "a.png", [[0, 255]]), gray(tmp_path / "b.png", [[0, 1]])]
    assert [ids.tolist() for ids in read_set(paths, BINARY)] == [[[0, 255]], [[0, 1]]]


def test_255_in_a_palette_is_ignore_even_where_the_palette_gives_it_a_class_color(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1, 255]], np.uint8))
    picture.putpalette([0, 0, 0, 255, 255, 255] + [0, 0, 0] * 254)
    picture.save(tmp_path / "a.png")
    assert read_set([tmp_path / "a.png"], BINARY)[0].tolist() == [[0, 1, 255]]


def test_gray_of_4_bits_holds_ids(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_of(4, 1, 4, 0, b"\0\x01\x21"))
    assert read_set([tmp_path / "a.png"], CLASSES)[0].tolist() == [[0, 1, 2, 1]]


def test_one_bit_gray_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    inverted = ClassTable(("cell", "background"), ((255, 255, 255), (0, 0, 0)))
    assert read_set([tmp_path / "a.png"], BINARY)[0].tolist() == [[1, 0]]
    assert read_set([tmp_path / "a.png"], inverted)[0].tolist() == [[0, 1]]


def test_a_palette_in_another_order_is_followed_and_reported(tmp_path: Path) -> None:
    ids = np.where(IDS == 255, 0, IDS).astype(np.uint8)
    save_palette(tmp_path / "a.png", ids, order=(1, 2, 0))
    census = take_census(read_raw(tmp_path / "a.png"))
    assert decide_readings([census], CLASSES) == ({"palette": "color"}, ("palette",))


@pytest.mark.fault(38, how="an RGB mask with four pixels of a color close to a class's")
def test_an_unknown_color_names_file_pixels_and_nearest_class(tmp_path: Path, observed: Observed) -> None:
    rgb = as_rgb(IDS)
    rgb[2, :4] = (199, 41, 42)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    census = take_census(read_raw(tmp_path / "a.png"))
    fault = census_fault("a.png", census, {"rgb": "color"}, CLASSES)
    assert fault is not None
    assert "199 41 42 (4 px; nearest: roof 200 40 40, distance 2)" in str(fault)
    with pytest.raises(DataError, match="199 41 42"):
        read_set([tmp_path / "a.png"], CLASSES)
    observed(fault)


@pytest.mark.fault(38, how="a gray mask with a class number beyond the last")
def test_an_id_out_of_range_names_value_and_pixels(tmp_path: Path, observed: Observed) -> None:
    path = gray(tmp_path / "a.png", [[0, 1, 7, 7]])
    with pytest.raises(DataError, match=r"ids must be 0 to 2, or 255 for ignore, but got 7 \(2 px\)") as caught:
        read_set([path], CLASSES)
    observed(caught.value)


@pytest.mark.fault(38, how="a color mask saved as JPEG")
def test_a_lossy_mask_is_recognized(tmp_path: Path, observed: Observed) -> None:
    Image.fromarray(np.kron(as_rgb(IDS), np.ones((4, 4, 1), np.uint8))).save(tmp_path / "a.jpg", quality=60)
    with pytest.raises(DataError, match="lossy format or smoothed edges") as caught:
        read_set([tmp_path / "a.jpg"], CLASSES)
    observed(f"refused: {str(caught.value).rpartition(' more; ')[2]}")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((2, 2), 0.5), "whole numbers"),
        (np.full((2, 2), 300), "between 0 and 255"),
        (np.full((2, 2), -1), "between 0 and 255"),
        (np.zeros((2, 2, 5), np.uint8), r"\(H, W\)"),
    ],
)
def test_an_array_that_is_no_mask_is_refused(tmp_path: Path, values: np.ndarray, words: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match=words):
        read_raw(tmp_path / "a.npy")


def test_a_turned_mask_is_refused(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.fromarray(IDS).save(tmp_path / "a.png", exif=tag)
    with pytest.raises(DataError, match="upright"):
        read_raw(tmp_path / "a.png")


def test_the_voc_palette_is_the_published_one() -> None:
    published = {0: (0, 0, 0), 1: (128, 0, 0), 7: (128, 128, 128), 15: (192, 128, 128), 20: (0, 64, 128)}
    palette = voc_palette()
    assert {index: palette[index] for index in published} == published
    assert palette[255] == (224, 224, 192)
    assert len(set(voc_classes().colors)) == len(voc_classes().names) == 21
