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
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = (), *, as_json: bool = False, title: str = ""
) -> None:
    """Print rows as a table, or all of their fields as JSON.

    Args:
        rows: one mapping per row.
        columns: what the table shows, in order; left out: the first row's keys.
        as_json: print a JSON list instead.
        title: a line above the table.
    """
    kept = list(rows)
    if as_json:
        print_json(kept)
        return
    names = list(columns) or (list(kept[0]) if kept else [])
    cells = [[shown(row.get(name)) for name in names] for row in kept]
    numeric = [any(isinstance(row.get(name), int | float) for row in kept) for name in names]
    out = console()
    if not out.is_terminal:
        say(*([title] if title else []), *_aligned([names, *cells], numeric))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left")
    for name, right in zip(names, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for line in cells:
        table.add_row(*line)
    out.print(table)


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

    >>> [shown(v) for v in (None, 0.123456, 1e-5, 12, True, (0.2, 0.99), "x")]
    ['-', '0.1235', '1e-05', '12', 'yes', '0.2 .. 0.99', 'x']
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
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
