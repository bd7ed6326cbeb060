"""Class tables: names verbatim, ids by row, and everything that would break a name refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainable.data.classes import IGNORE, ClassTable, parse_color, parse_ignore, read_classes
from trainable.errors import DataError, Fault

EXPECTED = ClassTable(("water", "tall building"), ((0, 0, 200), (120, 16, 7)))


@pytest.mark.parametrize(
    "text",
    [
        "class_name,class_color\nwater,0 0 200\ntall building,120 16 7\n",
        "class_name;class_color\nwater;0 0 200\ntall building;120 16 7",
        "class_name\tclass_color\r\nwater\t0 0 200\r\n\r\ntall building\t120 16 7\r\n",
        'class_name,class_color\nwater,"0,0,200"\ntall building,"(120, 16, 7)"\n',
        "class_name,class_color\nwater,0,0,200\ntall building,120,16,7\n",
        "\ufeffclass_name,class_color\nwater,#0000c8\ntall building,#781007\n",
        "name,r,g,b\nwater,0,0,200\ntall building,120,16,7\n",
        "class_color,class_name\n0 0 200,water\n120 16 7,tall building\n",
        "class_name,class_color,share\nwater,0 0 200,0.5\ntall building,120 16 7,0.5\n",
        "water,0 0 200\ntall building,120 16 7\n",
    ],
)
def test_the_ways_to_write_a_table_agree(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.csv").write_text(text, encoding="utf-8", newline="")
    assert read_classes(tmp_path / "c.csv") == EXPECTED


def test_all_faults_come_at_once_with_their_lines(tmp_path: Path) -> None:
    wrong = ("a.b,1 2 3", ",4 5 6", "x,1 2 3", "x,7 8 9", "y,300 0 0", "z,1 2", "default,9 9 9", "n,5 5 5")
    rows = ["class_name,class_color", *wrong]
    path = tmp_path / "c.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_classes(path, ignore=((5, 5, 5),))
    lines = {int(fault.where.rsplit(":", 1)[1]) for fault in caught.value.faults}
    assert lines == {2, 3, 4, 5, 6, 7, 8, 9}
    assert "'a_b'" in str(caught.value)


@pytest.mark.parametrize("mark", ["/", "=", ".", "\x07"])
def test_names_that_would_break_a_metric_are_refused_with_the_fix(tmp_path: Path, mark: str) -> None:
    (tmp_path / "c.csv").write_text(f"class_name,class_color\nro{mark}ad,1 1 1\nb,2 2 2\n", encoding="utf-8")
    with pytest.raises(DataError, match="ro_ad"):
        read_classes(tmp_path / "c.csv")


def test_one_class_or_none_is_no_table(tmp_path: Path) -> None:
    for text in ("class_name,class_color\n", "class_name,class_color\na,1 1 1\n", ""):
        (tmp_path / "c.csv").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match="2 to 255 classes"):
            read_classes(tmp_path / "c.csv")
    with pytest.raises(DataError, match="there is no such file"):
        read_classes(tmp_path / "none.csv")


@given(st.tuples(*[st.integers(0, 255)] * 3), st.sampled_from(["{} {} {}", "{},{},{}", "({}; {}; {})", " {}  {} {} "]))
def test_colors_survive_writing(color: tuple[int, int, int], form: str) -> None:
    assert parse_color(form.format(*color)) == color


def test_ignored_colors_are_checked() -> None:
    faults: list[Fault] = []
    assert parse_ignore(("1 2 3", "1 2 3", "1 2", "1 2 -3"), faults) == ((1, 2, 3),)
    assert len(faults) == 2
    assert ClassTable(("a",), ((0, 0, 0),), ((1, 2, 3),)).id_of((1, 2, 3)) == IGNORE
