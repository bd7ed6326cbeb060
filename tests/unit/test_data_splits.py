"""Splits: no photo on both sides, nothing added in silence, hostile names refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainable.data.names import capped, hostile, read_list, some
from trainable.data.photos import looks_like_patches, photos_of
from trainable.data.splits import Split, assign, draw_photos
from trainable.errors import Fault

NAMES = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 9), st.booleans()), min_size=1, max_size=40, unique_by=lambda t: t[:2]
)


@given(NAMES, st.floats(0.05, 0.95), st.integers(0, 9))
def test_a_drawn_split_keeps_photos_whole_and_holds_val_out_of_the_pool(
    made: list[tuple[int, int, bool]], share: float, seed: int
) -> None:
    masked = {f"p{photo}_{patch}": has_mask for photo, patch, has_mask in made}
    photos = {name: name.split("_")[0] for name in masked}
    faults: list[Fault] = []
    result = assign(masked, photos, {}, share=share, seed=seed, faults=faults)
    of: dict[str, set[str]] = {"val": set(), "labeled": set(), "unlabeled": set()}
    for name, split in result.split.items():
        of[split].add(photos[name])
        assert masked[name] == (split != "unlabeled")
    assert not of["val"] & (of["labeled"] | of["unlabeled"])
    assert set(result.split) | set(result.left_out) == set(masked)
    assert not set(result.split) & set(result.left_out)
    if len({photos[name] for name, has_mask in masked.items() if has_mask}) > 1:
        assert of["val"]
        assert of["labeled"]
        assert not faults


@given(st.sets(st.text("abc", min_size=1), min_size=2, max_size=12), st.floats(0.05, 0.95), st.integers(0, 99))
def test_the_draw_is_fixed_by_names_and_seed(photos: set[str], share: float, seed: int) -> None:
    drawn = draw_photos(sorted(photos), share, seed)
    assert drawn == draw_photos(sorted(photos, reverse=True), share, seed)
    assert 0 < len(drawn) < len(photos)
    assert abs(len(drawn) - share * len(photos)) <= 1


MASKED = {"a": True, "b": True, "c": True, "d": False, "e": False}
ALONE = {name: name for name in MASKED}


def assigned(**lists: list[str]) -> tuple[dict[str, Split], dict[str, str], list[Fault]]:
    faults: list[Fault] = []
    given_lists: dict[Split, tuple[str, dict[str, int]] | None] = {
        split: (f"{split}.txt", dict.fromkeys(ids, 1))  # type: ignore[misc]
        for split, ids in lists.items()
    }
    result = assign(MASKED, ALONE, given_lists, share=0.2, seed=0, faults=faults)
    return result.split, result.left_out, faults


def test_masked_images_in_no_list_are_left_out_and_said_so() -> None:
    split, left_out, faults = assigned(labeled=["a"], val=["b"])
    assert split == {"a": "labeled", "b": "val", "d": "unlabeled", "e": "unlabeled"}
    assert left_out == {"c": "in no list"}
    assert not faults


def test_an_unlabeled_list_is_taken_as_it_is() -> None:
    split, left_out, faults = assigned(labeled=["a"], val=["b"], unlabeled=["c", "d"])
    assert split == {"a": "labeled", "b": "val", "c": "unlabeled", "d": "unlabeled"}
    assert left_out == {"e": "in no list"}
    assert not faults


def test_without_a_labeled_list_every_other_masked_image_is_labeled() -> None:
    split, _, faults = assigned(val=["b"], unlabeled=["c"])
    assert split == {"b": "val", "c": "unlabeled", "a": "labeled"}
    assert not faults


def test_bare_images_of_a_val_photo_stay_out_of_the_pool() -> None:
    masked = {"p1_a": True, "p1_b": False, "p2_a": True, "p2_b": False}
    photos = {name: name[:2] for name in masked}
    faults: list[Fault] = []
    lists: dict[Split, tuple[str, dict[str, int]] | None] = {"labeled": ("l", {"p2_a": 1}), "val": ("v", {"p1_a": 1})}
    result = assign(masked, photos, lists, share=0.2, seed=0, faults=faults)
    assert result.split == {"p1_a": "val", "p2_a": "labeled", "p2_b": "unlabeled"}
    assert result.left_out == {"p1_b": "of a photo in val"}


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"labeled": ["a", "x"], "val": ["b"]}, "must have an image.*x"),
        ({"labeled": ["a", "d"], "val": ["b"]}, "must have a mask.*d"),
        ({"labeled": ["a"], "val": ["b", "e"]}, "val must have a mask.*e"),
        ({"labeled": ["a"], "val": ["a", "b"]}, r"one list only.*a \(labeled\)"),
        ({"labeled": ["a"], "unlabeled": ["a", "d"], "val": ["b"]}, r"one list only.*a \(labeled\)"),
        ({"labeled": ["a"]}, "val=null"),
        ({"unlabeled": ["d"]}, "val=null"),
    ],
)
def test_wrong_lists_are_named(lists: dict[str, list[str]], words: str) -> None:
    faults = assigned(**lists)[2]
    assert len(faults) == 1
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(str(faults[0]))


def test_a_list_may_carry_suffixes_and_windows_ends(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes("\ufeffa.png\r\n\r\n  b.JPG \r\nsub\\c\r\nv1.2\r\n./d\r\n".encode())
    faults: list[Fault] = []
    assert list(read_list(tmp_path / "l.txt", faults)) == ["a", "b", "sub/c", "v1.2", "d"]
    assert not faults


@pytest.mark.fault(
    47,
    how="split lists with paths that leave the folder and reserved names",
    saw="refused with file and line",
)
@pytest.mark.parametrize(
    "line", ["../x", "a/../../x", "/etc/passwd", "C:\\x.png", "\\\\host\\x", "a\0b", "~/x", "a\x1b[2Jb", "x" * 500]
)
def test_hostile_lines_are_refused_with_their_number(tmp_path: Path, line: str) -> None:
    assert hostile(line)
    (tmp_path / "l.txt").write_text(f"a\n{line}\n", encoding="utf-8")
    faults: list[Fault] = []
    assert list(read_list(tmp_path / "l.txt", faults)) == ["a"]
    assert [fault.where.rsplit(":", 1)[1] for fault in faults] == ["2"]


def test_empty_repeated_and_missing_lists_are_faults(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "twice.txt").write_text("a\nb\na.png\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name, words in {"empty": "is empty", "twice": "first in line 1", "binary": "UTF-8", "none": "path"}.items():
        faults: list[Fault] = []
        read_list(tmp_path / f"{name}.txt", faults)
        assert len(faults) == 1
        assert words in str(faults[0])
    both: list[Fault] = []
    for name in ("twice", "empty"):
        read_list(tmp_path / f"{name}.txt", both)
    assert len(both) == 2, "what is wrong with one list hides nothing of another"


def test_photos_come_from_the_first_group_or_the_whole_match() -> None:
    ids = ["t1p2_y0", "t1p2_y9", "t2p1_y0"]
    for pattern in (r"^(t\d+p\d+)", r"t\d+p\d+"):
        faults: list[Fault] = []
        assert photos_of(ids, pattern, faults) == {"t1p2_y0": "t1p2", "t1p2_y9": "t1p2", "t2p1_y0": "t2p1"}
        assert not faults
    assert photos_of(ids, "none", []) == {name: name for name in ids}


@pytest.mark.parametrize("pattern", [r"^(q\d+)", r"^(t1)", r"^t(x)?"])
def test_a_pattern_must_match_every_id(pattern: str) -> None:
    faults: list[Fault] = []
    photos_of(["t1_a", "t2_b"], pattern, faults)
    assert len(faults) == 1
    assert "t2_b" in str(faults[0])


@pytest.mark.parametrize(
    ("ids", "patches"),
    [
        (["p1_y0_x0", "p1_y0_x128", "p2_y0_x0"], True),
        (["area-r0-c1", "area-r1-c1"], True),
        (["city_tile_1", "city_tile_2"], True),
        (["img1patch3", "img1patch4"], True),
        (["a_0_0", "a_0_1", "a_1_0", "a_1_1"], True),
        (["mic_030502", "mic_031302"], False),
        (["2007_000032", "2007_000039", "2008_000003"], False),
        (["IMG_20240101_101500", "IMG_20240101_101502", "IMG_20240102_090000"], False),
        (["tr_z00", "tr_z01"], False),
        (["p1_y0_x0", "p2_y0_x0"], False),
    ],
)
def test_patches_without_a_pattern_are_noticed(ids: list[str], patches: bool) -> None:
    suggestion = looks_like_patches(ids)
    assert bool(suggestion) == patches
    faults: list[Fault] = []
    photos_of(ids, None, faults)
    assert bool(faults) == patches
    if patches:
        again: list[Fault] = []
        assert len(set(photos_of(ids, suggestion, again).values())) < len(ids)
        assert not again


def test_long_lists_are_cut_and_counted() -> None:
    assert some("abcdefg", shown=3) == "a, b, c and 4 more"
    faults = [Fault(str(number), "x") for number in range(30)]
    assert len(capped(faults)) == 21
    assert "and 10 more faults" in str(capped(faults)[-1])
