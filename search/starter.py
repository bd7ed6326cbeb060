"""A first sweep file for a folder of images: what the folder says is filled in, everything else is explained."""

from __future__ import annotations

import os
import re
import statistics
import textwrap
from pathlib import Path
from typing import Any

from spaces import NAMED
from trainable.config import DataConfig, PointsConfig, check_name
from trainable.data.images import read_header
from trainable.data.layouts import CLASS_FILES, Layout, find_layout
from trainable.data.photos import looks_like_patches
from trainable.data.points import FILES as POINT_FILES
from trainable.errors import ConfigError, DataError, Fault
from trainable.knob import knobs_of
from trainable.recipes import get_recipe
from trainable.recipes.interface import Recipe
from trainable.scalars import scalar
from trainable.task import Task

PIXELS, PARTICLES = "per_class", "self_training_rounds"
MOST_STEPS = 20_000
_LISTS = {
    "labeled": ("labeled.txt", "labelled.txt"),
    "unlabeled": ("unlabeled.txt", "unlabelled.txt"),
    "val": ("val.txt", "valid.txt"),
    "test": ("test.txt",),
}
_LOOKED_AT = 50
_WIDTH = 110
_TEMPLATE = """\
# A sweep: which knobs are searched, on which data, for how long. Check it: thresher preview {file}
name: {name}
recipe: {recipe:<26} # thresher recipes
data:
  root: {root}
  layout: {layout}
{data}
train:                             # fixed knobs; every knob: thresher recipes {recipe} --knobs
  steps: {steps}
  eval_every_steps: {eval_every_steps}
  batch_size: {batch_size}
  crop_size: {crop_size}
  architecture: {architecture}
  encoder: {encoder}
  encoder_weights: {encoder_weights:<15} # null = random
space: {space:<27} # thresher spaces; or your own: {{{own}}}
search:
  trials: 32
  objective: {objective}
  max_hours: null                  # a number pauses the search; `thresher resume` goes on
  asha: {{grace_steps: auto, reduction_factor: 3}}     # null = prune nothing
resources: {{gpus_per_trial: auto}}  # 0.5 = two trials on one GPU
storage: ./runs                    # or s3://bucket/prefix
tracking: {{wandb: {{mode: auto, project: thresher}}}} # online with a key, else offline; `disabled` for none
seed: 0
"""


def starter(
    folder: Path, output: Path, name: str | None = None, group_by: str | None = None, recipe: str | None = None
) -> str:
    """The text of a sweep file.

    Args:
        folder: the data set.
        output: where the file will stand; its root is written relative to that.
        name: of the run; left out: the folder's.
        group_by: what names the photo; left out: a guess from the ids.
        recipe: the training system; left out: by what the folder holds, see `recipe_for`.

    Raises:
        ConfigError: a name or a pattern cannot be used, or the recipe does not fit the classes.
        DataError: there is no data set in the folder.
    """
    if not folder.is_dir():
        raise DataError([Fault(str(folder), "the data must be in a folder, but there is none; correct the path")])
    _check(name, group_by)
    faults: list[Fault] = []
    layout = find_layout(DataConfig(root=str(folder.resolve())), Path.cwd(), faults)
    if not layout.images:
        raise DataError(faults)
    kind = get_recipe(recipe or recipe_for(folder, layout))
    names = layout.classes.names
    kind.adapt(Task(names, (0,) * len(names)))
    own = "st.weight: {low: 0.5, high: 2, log: true}" if "st.weight" in knobs_of(kind.config) else "optimizer.lr: {}"
    return _TEMPLATE.format(
        file=output.name,
        name=_quoted(name or _slug(folder.resolve().name)),
        recipe=kind.name,
        root=_quoted(_relative(folder, output)),
        layout=f"{layout.kind:<25}# {len(layout.images)} images, {_labels(layout)}",
        data="\n".join(_data_lines(folder, layout, group_by)),
        space=_space(kind.name),
        own=own,
        objective=kind.objective,
        **_train(kind, layout),
    )


def recipe_for(folder: Path, layout: Layout) -> str:
    """The recipe to begin with: where coordinates of one kind of thing are given, the one that learns from those."""
    return PARTICLES if _points_file(folder) and len(layout.classes.names) == 2 else PIXELS


def _check(name: str | None, group_by: str | None) -> None:
    """What is written must be what the file's own check takes."""
    try:
        check_name(name or "x")
    except ValueError as error:
        raise ConfigError([Fault("--name", str(error))]) from error
    try:
        re.compile(group_by or "")
    except re.error as error:
        message = f"group_by must be a regular expression, but got group_by={group_by!r} ({error}); correct it"
        raise ConfigError([Fault("--group-by", message)]) from error


def _train(kind: type[Recipe[Any]], layout: Layout) -> dict[str, Any]:
    """The knobs that nearly everybody changes, as the recipe has them; no longer and no larger than makes sense."""
    knobs = knobs_of(kind.config)
    shown = ("eval_every_steps", "batch_size", "architecture", "encoder", "encoder_weights")
    found = {name: "null" if knobs[name].default is None else knobs[name].default for name in shown}
    side, crop = _side(layout), int(knobs["crop_size"].default)
    size = crop if side is None or side >= crop else max(32, side // 32 * 32)
    said = "" if side is None else f"# the images' shorter side: {side}"
    return found | {"steps": min(MOST_STEPS, int(knobs["steps"].default)), "crop_size": f"{size:<21} {said}".rstrip()}


def _side(layout: Layout) -> int | None:
    """The shorter side that is usual among images from all over the folder; None where none can be read."""
    paths, sides = list(layout.images.values()), []
    for path in paths[:: max(1, len(paths) // _LOOKED_AT)]:
        try:
            header = read_header(path)
        except DataError:
            continue  # `data check` names what cannot be read.
        sides.append(min(header.height, header.width))
    return statistics.median_low(sides) if sides else None


def _space(recipe: str) -> str:
    return next(name for name in (f"{recipe}/thresholds", f"{recipe}/quick") if name in NAMED)


def _points_file(folder: Path) -> str | None:
    return next((name for name in POINT_FILES if (folder / name).is_file()), None)


def _labels(layout: Layout) -> str:
    count = len(layout.points) if layout.points is not None else len(layout.masks)
    return f"{count} with labels, {len(layout.classes.names)} classes"


def _data_lines(folder: Path, layout: Layout, group_by: str | None) -> list[str]:
    """What the folder says of classes, photos and splits."""
    found = []
    table = next((name for name in CLASS_FILES if (folder / name).is_file()), None)
    if table:
        found.append(f"  classes: {table:<24}# row = class id: {', '.join(layout.classes.names)}")
    pattern = group_by or looks_like_patches(list(layout.images)) or None
    if pattern is not None:
        found.append(f"  group_by: {_quoted(pattern):<22} # what makes one photo; one photo never stands on two sides")
    elif layout.photo_of is None:
        found.append("  group_by: none    # each image stands alone; else a pattern for the photo's name")
    found += _point_lines(folder, layout)
    lists = _lists(folder)
    found += [f"  {split}: {_quoted(path)}" for split, path in lists.items()]
    others = [path for path in _labeled_lists(folder) if path != lists.get("labeled")]
    if others:
        found += textwrap.wrap(
            f"other lists of labeled images: {', '.join(others)}", _WIDTH, break_long_words=False,
            break_on_hyphens=False, initial_indent="  # ", subsequent_indent="  #   ",
        )  # fmt: skip
    if not lists and any(layout.lists.values()):
        found.append("  # splits: those of ImageSets/Segmentation")
    elif not lists:
        found.append("  val_fraction: 0.2                # of the labeled photos; images without labels are unlabeled")
    return found


def _point_lines(folder: Path, layout: Layout) -> list[str]:
    """Coordinates: those that are learned from, or those that might be."""
    file, radius = _points_file(folder), layout.radius or PointsConfig().radius
    if file is None:
        return []
    section = f"points: {{file: {file}, radius: {radius}}}"
    if layout.kind == "points":
        return [f"  {section}    # radius: half the particles' diameter, in pixels"]
    return [f"  # {file} is here, too: discs around its points take the place of masks by", f"  # {section}"]


def _places(folder: Path) -> list[Path]:
    """Where lists of ids are looked for."""
    return [folder, folder / "splits", *sorted(p for p in (folder / "splits").glob("*") if p.is_dir())]


def _labeled_lists(folder: Path) -> list[str]:
    """Every list of labeled images, relative to the folder."""
    paths = (place / name for place in _places(folder) for name in _LISTS["labeled"])
    return [path.relative_to(folder).as_posix() for path in paths if path.is_file()]


def _lists(folder: Path) -> dict[str, str]:
    """Lists of ids: for each split those of the folder itself, else of the first set of splits that has one.

    Without one of labeled or of val images the others are of no use: the photos are drawn.
    """
    found: dict[str, str] = {}
    for split, names in _LISTS.items():
        paths = (place / name for place in _places(folder) for name in names)
        path = next((p for p in paths if p.is_file()), None)
        if path is not None:
            found[split] = path.relative_to(folder).as_posix()
    return found if {"labeled", "val"} & found.keys() else {}


def _relative(folder: Path, output: Path) -> str:
    """The data's folder as seen from the file's, or absolute where they share nothing."""
    start = output.resolve().parent
    try:
        return Path(os.path.relpath(folder.resolve(), start)).as_posix()
    except ValueError:
        return folder.resolve().as_posix()


def _slug(name: str) -> str:
    """A run's name from a folder's.

    >>> _slug("Meine Luftbilder (2)"), _slug("_raw"), _slug("a..b"), _slug("con")
    ('Meine-Luftbilder-2', 'raw', 'a.b', 'sweep')
    """
    plain = re.sub(r"\.+", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", name)).strip("-._")[:80].rstrip("-._")
    try:
        return check_name(plain)
    except ValueError:
        return "sweep"


def _quoted(text: str) -> str:
    """A text as a YAML scalar that is read back as that text.

    >>> _quoted("images"), _quoted("^(t\\\\d+)"), _quoted("12")
    ('images', "'^(t\\\\d+)'", "'12'")
    """
    plain = re.fullmatch(r"[A-Za-z0-9./_][A-Za-z0-9./_ -]*", text) and text == text.strip()
    return text if plain and scalar(text) == text else "'" + text.replace("'", "''") + "'"
