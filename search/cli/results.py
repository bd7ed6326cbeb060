"""What came of a run: its table, and its best configuration."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from search.catching_up import catch_up
from search.cli.output import Json, print_json, print_rows, say, shown
from search.comparison import compare
from search.confirm import confirm as confirm_run
from search.confirm import trials_by_variant
from search.export import export as export_config
from search.records import RunState
from search.report import write_report
from search.running import Options
from search.schema import WandbConfig
from search.status import read_run
from search.store import Store
from search.tables import load_trials, verify
from search.tracking import POSITION, has_key, mode_of, publish
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
    print_trials(store, state, every=every, as_json=as_json, csv=csv)
    if note and not as_json:
        say(note)


def print_trials(
    store: Store, state: RunState, *, every: bool = False, as_json: bool = False, csv: Path | None = None
) -> None:
    """Print trials, best first: the columns that people look at first, and what was searched."""
    lowest_first = state.direction == "min"
    frame = load_trials(store).sort_values(
        "objective", ascending=lowest_first, na_position="last", kind="stable"
    )
    if csv is not None:
        try:
            frame.to_csv(csv, index=False)
        except OSError as error:
            raise ConfigError([Fault(str(csv), f"the file must be writable, but got {error.strerror}")]) from error
    plain = frame.astype(object).where(frame.notna(), None)
    rows: list[dict[str, Any]] = [dict(zip(plain.columns, row, strict=True)) for row in plain.itertuples(index=False)]
    params = [name for name in frame.columns if name.startswith("param.") and frame[name].notna().any()]
    print_rows(rows, tuple(frame.columns) if every else (*_FEW, *params), as_json=as_json)


def _verify(run: str, *, as_json: bool) -> None:
    found = verify(run)
    if as_json:
        print_json({**asdict(found), "ok": found.ok})
    else:
        say(f"{found.events} events, {found.trials} trials, {found.rows} rows; {found.behind} events not in the tables")
        for title in ("missing", "extra", "different", "findings"):
            say(*(f"{title}: {line}" for line in getattr(found, title)))
        say("nothing is lost" if found.ok else "the tables differ from the record; `thresher table` mends them")
    if not found.ok:
        raise typer.Exit(1)


def export(
    run: Run,
    trial: Annotated[int | None, typer.Option("--trial", help="Which trial; left out: the best.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Left out: best.yaml in the run.")] = None,
) -> None:  # fmt: skip
    """Write the best configuration as a file that `thresher train` runs."""
    found = export_config(run, trial, output)
    say(f"{found.path}: trial {found.trial.number} ({found.trial.source}), {shown(found.trial.best_value)}. Next:",
        f"  thresher train {found.path}")  # fmt: skip


def confirm(
    run: Run,
    seeds: Annotated[int, typer.Option("--seeds", help="How many; none of them the search's own.")] = 3,
    trial: Annotated[int | None, typer.Option("--trial", help="Take this trial for the best.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Put an earlier confirmation aside, renamed.")] = False,
    address: Annotated[str | None, typer.Option("--address", help="A Ray cluster; left out: this machine.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Join a cluster that asks for no token.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Train the best configuration, the recipe's own and a supervised floor over several seeds, nothing pruned."""
    quiet = Console(file=sys.stderr, highlight=False, markup=False, emoji=False) if as_json else None
    options = Options(address=address, insecure=insecure, console=quiet)
    result = confirm_run(run, seeds=seeds, trial=trial, fresh=fresh, options=options)
    _, state = read_run(result.run)
    rows = compare(trials_by_variant(state), state.direction)
    if as_json:
        print_json({"run": result.run, "rows": [asdict(row) for row in rows]})
    else:
        print_rows([
            {"configuration": r.name, "seeds": r.seeds, "mean": r.mean, "sd": r.sd, "best minus this": r.difference,
             "best is": r.verdict or None, **r.classes}
            for r in rows
        ])  # fmt: skip
        say(f"`none`: under 2 standard deviations. All runs: thresher table {result.run}")
    raise typer.Exit(result.exit_code)


def wandb_sync(
    run: Run,
    project: Annotated[str | None, typer.Option("--project", help="Left out: the sweep's.")] = None,
    entity: Annotated[str | None, typer.Option("--entity", help="Left out: the sweep's.")] = None,
) -> None:
    """Draw a run's whole record to wandb, once; what is there already stays as it is."""
    store, state = read_run(run)
    recorded = state.run.get("config", {}).get("tracking", {}).get("wandb", {})
    changes = {key: value for key, value in (("project", project), ("entity", entity)) if value is not None}
    config = WandbConfig.model_validate({**recorded, "mode": "auto", **changes})
    mode = mode_of(config)
    if mode == "offline" and not has_key() and not os.environ.get("WANDB_MODE"):
        message = "a wandb key must be in WANDB_API_KEY or in netrc, but there is none; run `wandb login`"
        raise ConfigError([Fault("wandb-sync", message)])
    store.delete(POSITION)
    trials, evaluations = publish(run, config, mode)
    say(f"{trials} trials with {evaluations} evaluations were drawn ({mode}, project {config.project})")


def report(
    run: Run,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Left out: report.html in the run.")] = None,
) -> None:
    """Write one HTML page with curves, parameters and importance; it needs nothing else to be read."""
    say(f"{write_report(run, output)} written")
