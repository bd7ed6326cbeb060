"""Data sets: check one, decode one, make one up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.lines import told_by_line
from search.cli.output import Json, Sets, print_json, print_rows, say
from search.config import load_data
from trainable.data.cache import open_cache
from trainable.data.check import inspect
from trainable.data.manifest import build_manifest
from trainable.data.report import CheckReport
from trainable.data.synth import GROUP_BY, write_scenes
from trainable.errors import ConfigError, Fault

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Source = Annotated[Path, typer.Argument(help="A sweep file, a configuration, or a data set's folder.")]
Leak = Annotated[bool, typer.Option("--allow-leak", help="Accept a photo on both sides of a split.")]


@app.command(short_help="Count splits and classes; 2 if anything must be mended.")
def check(source: Source, sets: Sets = None, allow_leak: Leak = False, as_json: Json = False) -> None:
    """Count splits and classes, and refuse what would spoil a search; 2 if anything must be mended."""
    section, supervised = load_data(source, sets or ())
    if allow_leak:
        section = section.model_copy(update={"allow_leak": True})
    report = inspect(section, Path.cwd(), supervised=supervised)
    if as_json:
        print_json(report.to_dict())
        if not report.ok:
            raise typer.Exit(2)
        return
    _print(report)
    with told_by_line(source, sets or ()):
        report.raise_faults()


def _print(report: CheckReport) -> None:
    say(f"{report.root}: layout {report.layout or 'unknown'}, masks {report.mask_kind or 'none'}")
    if report.splits:
        print_rows(report.split_rows())
    if report.class_names:
        say("")
        print_rows(report.class_rows(), keys=2)
    for warning in report.warnings:
        say(f"note: {warning}")
    if report.ok:
        say(f"nothing is wrong; data_hash {report.data_hash[:16]}")


@app.command(short_help="Decode every image into the cache of all trials.")
def index(source: Source, sets: Sets = None) -> None:
    """Decode every image once into the cache that all trials share; a search does it by itself."""
    section, _ = load_data(source, sets or ())
    with told_by_line(source, sets or ()):
        manifest = build_manifest(section, Path.cwd())
    open_cache(manifest, section.cache)
    say(f"{len(manifest.items)} images are decoded; data_hash {manifest.data_hash[:16]}")


@app.command(short_help="Write generated land-cover scenes.")
def synth(
    directory: Annotated[Path, typer.Argument(help="Where the data set is written.")],
    photos: Annotated[int, typer.Option(help="Photos; about one in six each for val and test.")] = 12,
    patches_per_photo: Annotated[int, typer.Option(help="Patches cut from each photo.")] = 16,
    size: Annotated[int, typer.Option(help="Side of a patch, in pixels.")] = 128,
    labeled: Annotated[int, typer.Option(help="Labeled patches; the rest of the training photos has none.")] = 24,
    seed: Annotated[int, typer.Option(help="Another seed, other scenes.")] = 0,
) -> None:
    """Write generated land-cover scenes: 7 classes, thin roads, a rare class, shadow and texture."""
    if directory.exists() and not directory.is_dir():
        raise ConfigError([Fault(str(directory), "must be a folder that is empty or new, but is a file; name another")])
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError([Fault(str(directory), "the folder must be empty or new, but holds files; name another")])
    try:
        write_scenes(
            directory, photos=photos, patches_per_photo=patches_per_photo, size=size, labeled=labeled, seed=seed
        )
    except OSError as error:
        message = f"the folder must be writable, but got {error.strerror or error}; name another"
        raise ConfigError([Fault(str(directory), message)]) from error
    say(f"{photos} photos in {photos * patches_per_photo} patches of {size} px are in {directory}. Next:",
        f"  thresher init {directory} --group-by '{GROUP_BY}'")  # fmt: skip
