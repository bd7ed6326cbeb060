"""Looking at a run: where it stands, its trials, its best configuration. None of this loads the training system."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from search.catching_up import catch_up
from search.cli.output import Json, Run, print_json, print_rows, say, shown
from search.export import export as export_config
from search.records import RunState
from search.status import ROWS, ask_to_stop, read_run
from search.status import status as status_of
from search.store import Store
from search.tables import load_trials, verify
from trainable.errors import ConfigError, Fault

_MOST_ERRORS = 5
_FEW = ("trial", "source", "state", "stop_reason", "steps", "objective", "best.step", "time_s")


def status(
    run: Run,
    trials: Annotated[bool, typer.Option("--trials", help="One line per trial.")] = False,
    as_json: Json = False,
) -> None:
    """Say where a run stands."""
    found = status_of(run)
    if as_json:
        print_json(found)
        return
    states = ", ".join(f"{count} {name}" for name, count in sorted(found["states"].items())) or "none yet"
    say(f"{found['name']}: {found['status']}, {found['trials']} of {shown(found['total'])} trials ({states})")
    best = found["best"]
    if best is not None:
        say(f"best: trial {best['trial']} ({best['source']}), {found['objective']} {best['best']:.4f} at step "
            f"{best['best_step']}")  # fmt: skip
    if found["status"] == "open":
        say(_who(found["owner"], run))
    say(*_errors(found["rows"]))
    if trials:
        print_rows(found["rows"], ROWS)


def _who(held: dict[str, Any] | None, run: str) -> str:
    """Who runs a run that is not closed."""
    if held is not None:
        return f"held by {held.get('host')}, process {held.get('pid')}"
    return f"nobody runs it any more: it was killed, or its machine is gone; `thresher resume {run}` goes on"


def _errors(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What went wrong, each thing once, with the trials that it happened to."""
    by_words: dict[str, list[str]] = {}
    for row in rows:
        if row["error"]:
            by_words.setdefault(str(row["error"]).splitlines()[0], []).append(str(row["trial"]))
    for words, trials in list(by_words.items())[:_MOST_ERRORS]:
        yield f"trial {', '.join(trials)}: {words}"
    if len(by_words) > _MOST_ERRORS:
        yield f"and {len(by_words) - _MOST_ERRORS} more errors; see `thresher report`"


def stop(
    run: Run, trial: Annotated[int | None, typer.Option("--trial", help="Only this trial.")] = None
) -> None:
    """Ask a run, or one of its trials, to write its checkpoint and stop."""
    running = ask_to_stop(run, trial)
    what = "the run" if trial is None else f"trial {trial}"
    say(f"asked {what} to stop; it looks every 2 s" if running else f"nobody runs {run}: nothing to stop")


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
    frame = _ranked(store, state)
    if csv is not None:
        try:
            frame.to_csv(csv, index=False)
        except OSError as error:
            raise ConfigError([Fault(str(csv), f"the file must be writable, but got {error.strerror}")]) from error
    params = [name for name in frame.columns if name.startswith("param.") and frame[name].notna().any()]
    titles = {name: name.removeprefix("param.") for name in params} | {"objective": f"best {state.objective}"}
    columns = tuple(frame.columns) if every else (*_FEW, *params)
    print_rows(_rows(frame), columns, as_json=as_json, titles=titles)


def trial_rows(store: Store, state: RunState) -> list[dict[str, Any]]:
    """The rows of the `trials` table, best first; what is missing is None."""
    return _rows(_ranked(store, state))


def _ranked(store: Store, state: RunState) -> Any:
    """The trials as a frame, best first; a diverged one is never the best, so it comes after all others."""
    lowest_first = state.direction == "min"
    frame = load_trials(store).sort_values("objective", ascending=lowest_first, na_position="last", kind="stable")
    return frame.sort_values("state", key=lambda states: states == "DIVERGED", kind="stable")


def _rows(frame: Any) -> list[dict[str, Any]]:
    plain = frame.astype(object).where(frame.notna(), None)
    return [dict(zip(plain.columns, row, strict=True)) for row in plain.itertuples(index=False)]


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
    study: Annotated[Path | None, typer.Option("--study", help="Write all trials as an Optuna study instead.")] = None,
) -> None:  # fmt: skip
    """Write the best configuration as a file that `thresher train` runs."""
    if study is not None:
        # Optuna is loaded by those alone who ask for it.
        count = importlib.import_module("search.study").export_study(run, study)
        say(f"{study}: an Optuna study of {count} trials (sqlite:///{study})")
        return
    found = export_config(run, trial, output)
    metric = (found.config.provenance or {}).get("metric") or "objective"
    value = f"{metric} {shown(found.trial.best_value)}"
    say(f"{found.path}: trial {found.trial.number} ({found.trial.source}), {value}. Next:",
        f"  thresher train {found.path}")  # fmt: skip
