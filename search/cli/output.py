"""How commands print: rich tables on a terminal, plain aligned lines elsewhere, JSON on request."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

LEAST_WRAPPED, GAP = 20, 2
"""On a narrow terminal a text is wrapped to so many characters at the least; so many stand between columns."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Run = Annotated[str, typer.Argument(help="The run directory, or its URI.")]
Address = Annotated[str | None, typer.Option("--address", help="A Ray cluster; left out: this machine alone.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Join a cluster that asks for no token.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH.TO.KEY=VALUE", help="Override a key of the file; may be repeated."),
]


def console() -> Console:
    """A console that prints what it is given, without markup."""
    return Console(highlight=False, markup=False, emoji=False)


def say(*lines: str) -> None:
    """Print lines as they are."""
    for line in lines:
        print(line)


def print_json(value: Any) -> None:
    """Print JSON: numbers that JSON lacks become null."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=True))


def print_rows(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = (), *, as_json: bool = False, keys: int = 1,
    narrow: Sequence[str] = (), titles: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Print rows as a table, or all of their fields as JSON.

    On a terminal that is too narrow, long texts are wrapped; where that does not help, columns stand below each other
    in several tables.

    Args:
        rows: one mapping per row.
        columns: what the table shows, in order; left out: the first row's keys.
        as_json: print a JSON list instead.
        keys: so many columns stand in front of each of several tables.
        narrow: columns for a terminal that is too narrow for all.
        titles: of columns that are headed by something else than their name.
    """
    kept = list(rows)
    if as_json:
        print_json(kept)
        return
    names = list(columns) or (list(kept[0]) if kept else [])
    out = console()
    if not out.is_terminal:
        lines, numeric, _ = _cells(kept, names, titles or {})
        say(*_aligned(lines, numeric))
        return
    found = _cells(kept, names, titles or {})
    if narrow and len(blocks(found[2], found[1], out.width, keys)) > 1:
        names = list(narrow)
        found = _cells(kept, names, titles or {})
    _draw(out, *found, keys)


def _cells(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], titles: Mapping[str, str]
) -> tuple[list[list[str]], list[bool], list[int]]:
    """Lines of cells, the heads first; which columns are numbers; and how wide each is."""
    lines = [[titles.get(name, name) for name in names], *([shown(row.get(name)) for name in names] for row in rows)]
    numeric = [any(isinstance(row.get(name), int | float) for row in rows) for name in names]
    return lines, numeric, [max(map(len, column)) for column in zip(*lines, strict=True)]


def blocks(widths: Sequence[int], rigid: Sequence[bool], room: int, keys: int = 1) -> list[list[int]]:
    """Columns in groups that fit beside each other, the key columns first in each.

    Args:
        widths: of the columns, in characters. rigid: those that are never wrapped. room: width of the terminal.
        keys: number of key columns.

    >>> blocks([5, 8, 8, 8], [True] * 4, 26), blocks([5, 8, 80], [False] * 3, 40)
    ([[0, 1, 2], [0, 3]], [[0, 1, 2]])
    """
    least = [width if stiff else min(width, LEAST_WRAPPED) for width, stiff in zip(widths, rigid, strict=True)]
    head = list(range(min(keys, len(widths))))
    groups, used = [list(head)], sum(least[i] + GAP for i in head) - GAP
    for index in range(len(head), len(widths)):
        if used + GAP + least[index] > room and len(groups[-1]) > len(head):
            groups.append(list(head))
            used = sum(least[i] + GAP for i in head) - GAP
        groups[-1].append(index)
        used += GAP + least[index]
    return groups


def _draw(
    out: Console, lines: Sequence[Sequence[str]], numeric: Sequence[bool], widths: Sequence[int], keys: int
) -> None:
    for group in blocks(widths, numeric, out.width, keys):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for index in group:
            stiff = numeric[index] or widths[index] <= LEAST_WRAPPED
            table.add_column(
                lines[0][index], justify="right" if numeric[index] else "left", overflow="fold",
                min_width=widths[index] if stiff else LEAST_WRAPPED,
            )  # fmt: skip
        for line in lines[1:]:
            table.add_row(*(line[index] for index in group))
        out.print(table)
        out.print()


def _aligned(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Columns of equal width, two spaces apart.

    >>> _aligned([["a", "n"], ["long", "1"]], [False, True])
    ['a     n', 'long  1']
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    ]


def shown(value: Any) -> str:
    """A value as people read it.

    >>> [shown(v) for v in (None, 0.123456, 1e-5, 12, 123456.7, True, (0.2, 0.99), "x")]
    ['-', '0.1235', '1e-05', '12', '123457', 'yes', '0.2 .. 0.99', 'x']
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
        return f"{shown(value[0])} .. {shown(value[1])}"
    if isinstance(value, list | tuple):
        return ", ".join(shown(v) for v in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {shown(v)}" for k, v in value.items())
    return str(value)


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(below) for below in value]
    if value is None or isinstance(value, str | int | bool):
        return value
    if hasattr(value, "item"):
        return _plain(value.item())
    return str(value)
