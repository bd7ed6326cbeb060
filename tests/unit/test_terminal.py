"""What a person sees at 80 columns: tables that fit and lose nothing, help in whole lines, and hints that help."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from search.cli import COMMANDS, build, output
from search.cli.output import GAP, LEAST_WRAPPED, blocks, print_rows
from search.status import read_run
from search.store import open_store
from tests.support.runs import unbroken
from trainable.errors import ConfigError


class Terminal:
    """A terminal of a width, that keeps what is printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
        self._file = io.StringIO()
        made = Console(file=self._file, width=width, force_terminal=True, color_system=None, highlight=False,
                       markup=False, emoji=False)  # fmt: skip
        monkeypatch.setattr(output, "console", lambda: made)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._file.getvalue().splitlines()]


@given(st.lists(st.tuples(st.integers(1, 90), st.booleans()), min_size=1, max_size=12), st.integers(40, 200),
       st.integers(1, 2))  # fmt: skip
def test_every_column_stands_once_behind_the_keys_and_groups_fit(
    columns: list[tuple[int, bool]], room: int, keys: int
) -> None:
    widths, rigid = [w for w, _ in columns], [r for _, r in columns]
    groups, head = blocks(widths, rigid, room, keys), list(range(min(keys, len(columns))))
    assert all(group[: len(head)] == head for group in groups)
    assert [i for group in groups for i in group[len(head) :]] == list(range(len(head), len(columns)))
    for group in groups:
        least = sum(widths[i] if rigid[i] else min(widths[i], LEAST_WRAPPED) for i in group) + GAP * (len(group) - 1)
        assert least <= room or len(group) <= len(head) + 1


def test_a_wide_table_of_numbers_is_several_tables_with_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch, 80)
    names = [f"threshold.class_number_{i}" for i in range(7)]
    rows = [{"trial": n, "state": "COMPLETE", **{name: 0.1234 + n for name in names}} for n in range(3)]
    print_rows(rows, ("trial", "state", *names))
    assert max(map(len, terminal.lines)) <= 80
    text = "\n".join(terminal.lines)
    assert all(text.count(name) == 1 for name in names) and text.count("COMPLETE") == 3
    assert text.count("1.123") == len(names) and text.count("trial") == 4


def test_a_text_is_wrapped_and_the_rest_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch, 60)
    print_rows([{"recipe": "self_training_rounds", "steps": 123456, "about": "word " * 30}])
    assert max(map(len, terminal.lines)) <= 60
    assert any("self_training_rounds" in line and "123456" in line for line in terminal.lines)
    assert sum(line.count("word") for line in terminal.lines) == 30


def test_where_columns_are_left_out_for_a_narrow_terminal_a_wide_one_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    row: dict[str, Any] = {"a": "x", "b": 1, "c": "y" * 30, "d": 123456789, "e": "z" * 30}
    for width, there in ((40, False), (120, True)):
        terminal = Terminal(monkeypatch, width)
        print_rows([row], keys=1, narrow=("a", "b"))
        assert ("123456789" in "\n".join(terminal.lines)) is there


def test_the_help_says_every_command_in_one_whole_line() -> None:
    text = CliRunner().invoke(build(None), ["--help"], env={"COLUMNS": "80"}).output
    for name, (_, about) in COMMANDS.items():
        assert any(line.split(None, 1) == [name, about] for line in text.splitlines()), name
    assert "thresher init FOLDER" in text and "143 SIGTERM" in " ".join(text.split())


def test_the_help_of_data_has_whole_lines_too() -> None:
    text = CliRunner().invoke(build("data"), ["data", "--help"], env={"COLUMNS": "80"}).output
    commands = text.split("Commands:")[1]
    assert "..." not in commands and all(f"  {name} " in commands for name in ("check", "index", "synth"))


def test_a_path_that_is_no_run_is_answered_with_the_runs_near_it(tmp_path: Path) -> None:
    unbroken(open_store(tmp_path / "runs" / "dubai"))
    for wrong, words in (("runs", "holds no events"), ("runs/dubay", "is not there")):
        with pytest.raises(ConfigError, match=f"{words}; there are .*runs/dubai; correct the path"):
            read_run(str(tmp_path / wrong))
    with pytest.raises(ConfigError, match="is not there; correct the path"):
        read_run(str(tmp_path / "no" / "folder" / "at" / "all"))
