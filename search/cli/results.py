"""What came of a run: a report, a confirmation over seeds, and a copy on wandb."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from search.cli.output import Address, Insecure, Json, Run, print_json, print_rows, say
from search.comparison import compare
from search.confirm import confirm as confirm_run
from search.confirm import confirming, no_floor, trials_by_variant
from search.report import write_report
from search.running import Options
from search.schema import WandbConfig
from search.status import read_run
from search.tracking import POSITION, publish
from search.wandb_key import has_key, mode_of
from trainable.errors import ConfigError, Fault


def confirm(
    run: Run,
    seeds: Annotated[int, typer.Option("--seeds", help="How many; none of them the search's own.")] = 3,
    trial: Annotated[int | None, typer.Option("--trial", help="Take this trial for the best.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Put an earlier confirmation aside, renamed.")] = False,
    address: Address = None, insecure: Insecure = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Train the best configuration, the recipe's own, and labeled images alone over several seeds, nothing pruned.

    Labeled images alone come twice: with the supervised recipe's defaults, and with all that the best configuration
    shares with it (learning rate, batch, loss weights), so that what is left of the difference is self-training.
    """
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
        why = no_floor(confirming(read_run(run)[1]), tuple(state.run["metric_definition"]["classes"]))
        if why is not None:
            say(f"no supervised floor: {why}")
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
    """Write one HTML page that needs nothing else to be read, and each of its charts as PNG and CSV beside it.

    Charts: the search with its baselines, learning curves, searched knobs, importance, IoU per class, thresholds, and
    pseudo-labels.
    """
    page, *files = write_report(run, output)
    also = f", and {len(files)} files of its charts in {files[0].rpartition('/')[0]}" if files else ""
    say(f"{page} written{also}")
