"""First steps: a demo, a starter file, and a look at the machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from search.cli.output import Json, print_rows, say
from search.doctor import examine
from search.starter import starter
from trainable.errors import ConfigError, Fault


def init(
    folder: Annotated[Path, typer.Argument(help="The data set's folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The sweep file.")] = Path("sweep.yaml"),
    name: Annotated[str | None, typer.Option("--name", help="The run's name; left out: the folder's.")] = None,
    group_by: Annotated[str | None, typer.Option("--group-by", help="Pattern of what makes one photo.")] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="The training system; left out: by what the folder holds.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that exists.")] = False,
) -> None:
    """Write a commented sweep file for a folder of images."""
    if output.exists() and not force:
        message = "the file must not exist yet, but it does; name another by --output, or give --force"
        raise ConfigError([Fault(str(output), message)])
    text = starter(folder, output, name, group_by, recipe)
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([Fault(str(output), f"the file must be writable, but got {error.strerror}")]) from error
    say(f"{output} written. Next:", f"  thresher data check {output}", f"  thresher preview {output}",
        f"  thresher sweep {output}")  # fmt: skip


def doctor(
    storage: Annotated[str, typer.Option("--storage", help="Where runs are to be kept.")] = "./runs",
    as_json: Json = False,
) -> None:
    """Check versions, devices, disk, storage and keys; 1 if something will not work."""
    found = list(examine(storage))
    print_rows([asdict(check) for check in found], ("what", "state", "detail"), as_json=as_json)
    if any(check.state == "fail" for check in found):
        raise typer.Exit(1)
