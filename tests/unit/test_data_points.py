"""Coordinates and the discs that they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable.data.points import discs, outside, read_points
from trainable.errors import DataError

COORDINATE = st.floats(-8, 30, allow_nan=False).map(lambda value: round(value, 2))


SIDE = st.integers(1, 20)


@given(st.lists(st.tuples(COORDINATE, COORDINATE), max_size=4), st.integers(1, 9), SIDE, SIDE)
@settings(max_examples=150, deadline=None)
def test_a_disc_is_every_pixel_within_the_radius(
    points: list[tuple[float, float]], radius: int, height: int, width: int
) -> None:
    expected = [
        [int(any((x - cx) ** 2 + (y - cy) ** 2 <= radius**2 for cx, cy in points)) for x in range(width)]
        for y in range(height)
    ]
    assert discs(points, radius, height, width).tolist() == expected


def test_csv_and_json_agree(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Image;X;Y;score\nm1.png;1.5;2;0.9\nm2;3;4;0.1\nm1.png;5;6;1\n", encoding="utf-8")
    plain = {"m1.png": [[1.5, 2], [5, 6]], "m2": [[3, 4]]}
    (tmp_path / "a.json").write_text(json.dumps(plain), encoding="utf-8")
    expected = {"m1.png": ((1.5, 2.0), (5.0, 6.0)), "m2": ((3.0, 4.0),)}
    assert read_points(tmp_path / "a.csv") == read_points(tmp_path / "a.json") == expected


def test_an_image_may_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"m1": []}', encoding="utf-8")
    assert read_points(tmp_path / "a.json") == {"m1": ()}
    assert not discs((), 3, 2, 2).any()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "image,x\nm1,2\n", "y is missing"),
        ("a.csv", "image,x,y\nm1,2,nan\n", ":2: .*finite"),
        ("a.csv", "image,x,y\n,2,3\n", "finite numbers"),
        ("a.csv", "image,x,y\n", "got none"),
        ("a.json", "[1, 2]", "got a list"),
        ("a.json", '{"m1": [[1]]}', "m1: points"),
        ("a.json", '{"m1": [[1, 2]], "m1": [[3, 4]]}', "'m1' twice"),
        ("a.json", '{"m1": [[1, true]]}', "finite"),
        ("a.json", "{", "must be JSON"),
        ("b.json", "", "must be JSON"),
    ],
)
def test_faults_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        read_points(tmp_path / name)


def test_points_on_the_rim_are_inside() -> None:
    assert outside(((-0.5, 9.5), (4.5, 0.0)), height=10, width=5) == []
    assert outside(((0.0, 9.6),), height=10, width=5) == [(0.0, 9.6)]
    assert np.array_equal(discs([(-1, 0)], 2, 1, 3), [[1, 1, 0]])
