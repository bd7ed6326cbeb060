"""One configuration: train it, and predict with what was trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import torch
import typer

from search.cli.bar import TrainingBar
from search.cli.lines import told_by_line
from search.cli.output import Sets, say
from search.config import load_run
from search.single import Look, train_single
from search.trained import trained
from trainable.errors import ConfigError, Fault
from trainable.predict import load_predictor, predict_folder
from trainable.recipes import get_recipe


def train(
    file: Annotated[Path, typer.Argument(help="What `export` wrote, or a sweep file.")],
    sets: Sets = None,
    storage: Annotated[str, typer.Option("--storage", help="Folder or s3://... for the run.")] = "./runs",
    fresh: Annotated[bool, typer.Option("--fresh", help="Put a run of that name aside, renamed.")] = False,
    go_on: Annotated[bool, typer.Option("--resume", help="Go on with a run of that name.")] = False,
) -> None:
    """Run one configuration, without a search; the run directory holds the same files as a search's."""
    if fresh and go_on:
        raise ConfigError([Fault("--fresh", "a run is either put aside or gone on with; give --fresh or --resume")])
    config, aside = load_run(file, sets or ())
    if aside:
        config = config.model_copy(update={"name": f"{config.name[:94]}-train"})
        say(f"{file} is a sweep file: {', '.join(aside)} are left aside, and {config.name} trains its fixed knobs")
    with TrainingBar(objective=config.objective or get_recipe(config.recipe).objective) as bar:
        look = Look(bar.say, bar)
        with told_by_line(file, sets or ()):
            code = train_single(config, storage, fresh=fresh, go_on=go_on, look=look)
    run = f"{storage.rstrip('/')}/{config.name}"
    say("Next:", f"  thresher table {run}", f"  thresher predict {run} IMAGES MASKS"
        if code == 0 else f"  thresher resume {run}")  # fmt: skip
    raise typer.Exit(code)


def predict(
    source: Annotated[str, typer.Argument(help="A run, a trial's folder, or what `export` wrote.")],
    images: Annotated[Path, typer.Argument(help="A folder of images, sections or volumes, or one file.")],
    output: Annotated[Path, typer.Argument(help="Where the masks go: PNG or NPY, pixel value = class id.")],
    trial: Annotated[int | None, typer.Option("--trial", help="Which trial of a run; left out: the best.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")] = "auto",
) -> None:
    """Write masks for images or volumes, colored by the data's palette."""
    if not images.exists():
        raise ConfigError(
            [Fault(str(images), "the images must be in a folder or a file, but there is neither; correct the path")]
        )
    chosen = _known(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    with trained(source, trial) as model:
        predictor = load_predictor(model.directory, chosen)
        try:
            count = sum(1 for _ in predict_folder(predictor, images, output))
        except OSError as error:
            message = f"the masks must be writable there, but got {error.strerror or error}; name another folder"
            raise ConfigError([Fault(str(error.filename or output), message)]) from error
    say(f"{count} masks are in {output}, by {model.words} (best at step {predictor.step}: {predictor.value:.4f})")


def _known(device: str) -> str:
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if found is None:
        raise ConfigError([Fault("--device", f"must be cpu, cuda, cuda:<n> or auto, but got {device!r}")])
    have = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device != "cpu" and int(found[1] or 0) >= have:
        there = f"there are {have}" if have else "there is none"
        raise ConfigError([Fault("--device", f"there must be this CUDA device, but {there}; use cpu or another")])
    return device
