"""What came of a run: its table, and its best configuration."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from search.catching_up import catch_up
from search.cli.output import Json, print_json, print_rows, say, shown
from search.export import export as export_config
from search.status import read_run
from search.tables import load_trials, verify
from trainable.errors import ConfigError, Fault

Run = Annotated[str, typer.Argument(help="The run directory, or its URI.")]
_FEW = ("trial", "source", "state", "stop_reason", "steps", "objective", "best.step", "time_s")


def table(
    run: Run,
    check: Annotated[bool, typer.Option("--verify", help="Compare with the record; 1 if data is missing.")] = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write all columns to a CSV file, too.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Show all columns.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Print the trials, best first; the Parquet files are brought up to date before."""
    store, state = read_run(run)
    if check:
        _verify(run, as_json=as_json)
        return
    note = catch_up(store)
    frame = load_trials(store)
    frame = frame.sort_values("objective", ascending=state.direction == "min", na_position="last", kind="stable")
    if csv is not None:
        try:
            frame.to_csv(csv, index=False)
        except OSError as error:
            raise ConfigError([Fault(str(csv), f"the file must be writable, but got {error.strerror}")]) from error
    plain = frame.astype(object).where(frame.notna(), None)
    rows: list[dict[str, Any]] = [dict(zip(plain.columns, row, strict=True)) for row in plain.itertuples(index=False)]
    params = [name for name in frame.columns if name.startswith("param.") and frame[name].notna().any()]
    print_rows(rows, tuple(frame.columns) if every else (*_FEW, *params), as_json=as_json)
    if note and not as_json:
        say(note)


def _verify(run: str, *, as_json: bool) -> None:
    found = verify(run)
    if as_json:
        print_json({**asdict(found), "ok": found.ok})
    else:
        say(f"{found.events} events, {found.trials} trials, {found.rows} rows; {found.behind} events not in the tables yet")
        for title in ("missing", "extra", "different", "findings"):
            say(*(f"{title}: {line}" for line in getattr(found, title)))
        say("nothing is lost" if found.ok else "the tables differ from the record; `thresher table` mends them")
    if not found.ok:
        raise typer.Exit(1)


def export(
    run: Run,
    trial: Annotated[int | None, typer.Option("--trial", help="Which trial; left out: the best.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where; left out: best.yaml in the run.")] = None,
) -> None:  # fmt: skip
    """Write the best configuration as a file that `thresher train` runs."""
    found = export_config(run, trial, output)
    say(f"{found.path}: trial {found.trial.number} ({found.trial.source}), {shown(found.trial.best_value)}. Next:",
        f"  thresher train {found.path}")  # fmt: skip
