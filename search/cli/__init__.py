"""The `thresher` command: finds the command that was named, loads only that one, and turns errors into exit codes."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from trainable.errors import ThresherError

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("search.cli.demo:demo", "Search over generated scenes, from nothing to a table."),
    "init": ("search.cli.start:init", "Write a commented sweep file for a folder of images."),
    "recipes": ("search.cli.catalog:recipes", "List the training systems, or the knobs of one."),
    "spaces": ("search.cli.catalog:spaces", "List the named search spaces."),
    "knobs": ("search.cli.catalog:knobs", "List every hyperparameter: default, legal range, search range."),
    "data": ("search.cli.data:app", "Check, index or synthesize a data set."),
    "preview": ("search.cli.sweeps:preview", "Say what a sweep would run, and what it would cost."),
    "sweep": ("search.cli.sweeps:sweep", "Run a search, as its sweep file says."),
    "status": ("search.cli.look:status", "Say where a run stands."),
    "resume": ("search.cli.sweeps:resume", "Go on with a run, from its directory alone."),
    "stop": ("search.cli.look:stop", "Ask a run, or one of its trials, to stop."),
    "table": ("search.cli.look:table", "Print the trials, or check the tables against the record."),
    "report": ("search.cli.results:report", "Write report.html, and its charts as pictures and tables."),
    "confirm": ("search.cli.results:confirm", "Train the best and the baselines over several seeds."),
    "export": ("search.cli.look:export", "Write the best configuration as a file that `train` runs."),
    "train": ("search.cli.single:train", "Train one configuration, without a search."),
    "predict": ("search.cli.single:predict", "Write masks for a folder of images."),
    "doctor": ("search.cli.start:doctor", "Check versions, devices, disk, storage and keys."),
    "wandb-sync": ("search.cli.results:wandb_sync", "Send a run's record to wandb, once."),
}


_EPILOG = """\
First: `thresher demo`, or with images of your own `thresher init FOLDER`. Exit codes: 0 done, 1 nothing usable, 2 the
input is wrong, 3 usable but trials failed, 130 Ctrl+C, 143 SIGTERM.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done, 1 nothing usable, 2 the input is wrong, 3 usable but trials failed, 130 Ctrl+C, 143 SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    named = next((word for word in given if not word.startswith("-")), None)
    try:
        build(named)(given, prog_name="thresher")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except ThresherError as error:
        print(f"thresher: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        # While a command's modules load; later `interruptible` answers.
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def build(named: str | None) -> typer.Typer:
    """The command line with one command loaded; the others are known by name and one line of help."""
    app = typer.Typer(
        name="thresher", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
        rich_markup_mode=None, help="Searches for semi-supervised segmentation that lose nothing.", epilog=_EPILOG,
    )  # fmt: skip
    app.callback()(_root)
    for name, (place, about) in COMMANDS.items():
        if name != named:
            app.command(name, help=about)(_unloaded)
            continue
        module, attribute = place.split(":")
        command = getattr(importlib.import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, help=about)
        else:
            app.command(name)(interruptible(command))
    return app


def interruptible(command: Callable[..., Any]) -> Callable[..., Any]:
    """Ctrl+C outside a search ends a command with 130 and no traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    return run


def _unloaded() -> None:
    """A command that was not named."""


def _version(asked: bool) -> None:
    if asked:
        print(importlib.metadata.version("thresher"))
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the whole command."""
