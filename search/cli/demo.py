"""The demo: scenes, a search, a table, an exported configuration, and what to do next."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from search.cli.look import print_trials, trial_rows
from search.cli.output import Json, print_json, say
from search.config import load_sweep
from search.demo import prepare, verdict
from search.export import export
from search.running import Options
from search.status import read_run
from search.store import open_store
from search.store.base import EVENTS
from search.sweep import start_sweep
from trainable.errors import ConfigError, Fault


def demo(
    fresh: Annotated[bool, typer.Option("--fresh", help="Put an earlier demo aside, renamed.")] = False,
    storage: Annotated[Path, typer.Option("--storage", help="The folder for data and run.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Search over generated scenes, from nothing to a table, in minutes."""
    file = prepare(storage, fresh)
    config = load_sweep(file)
    if not fresh and open_store(config.run).list(EVENTS):
        message = f"there is an earlier demo; look at it (thresher table {config.run}), go on with it (thresher resume "
        message += f"{config.run}), or begin again (--fresh, with make: make demo ARGS=--fresh)"
        raise ConfigError([Fault(config.run, message)])
    quiet = Console(file=sys.stderr, highlight=False, markup=False, emoji=False) if as_json else None
    if not as_json:
        length = config.train["steps"]
        say(f"scenes in {config.data.root}, sweep file {file}: {config.search.trials} trials of {length} steps")
    result = start_sweep(config, fresh=fresh, options=Options(console=quiet))
    run = str(Path(result.run))
    if result.exit_code in (130, 143):
        print("Next:", f"  thresher resume {run}", sep="\n", file=sys.stderr if as_json else sys.stdout)
        raise typer.Exit(result.exit_code)
    store, state = read_run(run)
    path = export(run).path if result.best_trial is not None else None
    if as_json:
        print_json({"run": run, "trials": trial_rows(store, state), "verdict": verdict(state), "best": path})
        raise typer.Exit(result.exit_code)
    say("")
    print_trials(store, state)
    say("", verdict(state))
    if path is not None:
        say("Next:", f"  thresher table {run}", f"  thresher resume {run} --add-trials 8", f"  thresher train {path}",
            f"  thresher predict {run} {config.data.root}/images {storage / 'demo-masks'}",
            "  thresher init FOLDER            # a sweep file for your own images")  # fmt: skip
    raise typer.Exit(result.exit_code)
