"""The demo: scenes, a search, a table, an exported configuration, and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.look import print_trials
from search.cli.output import say
from search.config import load_sweep
from search.demo import prepare, verdict
from search.export import export
from search.status import read_run
from search.sweep import start_sweep


def demo(
    fresh: Annotated[bool, typer.Option("--fresh", help="Put an earlier demo aside, renamed.")] = False,
    storage: Annotated[Path, typer.Option("--storage", help="The folder for data and run.")] = Path("runs"),
) -> None:
    """Search over generated scenes, from nothing to a table, in minutes."""
    file = prepare(storage, fresh)
    config = load_sweep(file)
    length = config.train["steps"]
    say(f"scenes in {config.data.root}, sweep file {file}: {config.search.trials} trials of {length} steps")
    result = start_sweep(config, fresh=fresh)
    if result.exit_code in (130, 143):
        say("Next:", f"  thresher resume {result.run}")
        raise typer.Exit(result.exit_code)
    run = str(Path(result.run))
    store, state = read_run(run)
    say("")
    print_trials(store, state)
    say("", verdict(state))
    if result.best_trial is not None:
        path = export(run).path
        say("Next:", f"  thresher table {run}", f"  thresher resume {run} --add-trials 8", f"  thresher train {path}",
            f"  thresher predict {run} {config.data.root}/images {storage / 'demo-masks'}",
            "  thresher init FOLDER            # a sweep file for your own images")  # fmt: skip
    raise typer.Exit(result.exit_code)
