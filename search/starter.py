"""A first sweep file for a folder of images: what the folder says is filled in, everything else is explained."""

from __future__ import annotations

import os
import re
from pathlib import Path

from trainable.config import DataConfig
from trainable.data.layouts import CLASS_FILES, Layout, find_layout
from trainable.data.photos import looks_like_patches
from trainable.errors import DataError, Fault
from trainable.scalars import scalar

_LISTS = {
    "labeled": ("labeled.txt", "labelled.txt"),
    "unlabeled": ("unlabeled.txt", "unlabelled.txt"),
    "val": ("val.txt", "valid.txt"),
    "test": ("test.txt",),
}
_TEMPLATE = """\
# A sweep: which knobs are searched, on which data, for how long. Check it: thresher preview {file}
name: {name}
recipe: per_class                  # thresher recipes
data:
  root: {root}
  layout: {layout}
{data}
train:                             # fixed knobs; every knob: thresher recipes per_class --knobs
  steps: 20000
  eval_every_steps: 500
  batch_size: 8
  crop_size: 256
  architecture: deeplabv3plus
  encoder: resnet50
  encoder_weights: imagenet        # null = random
space: per_class/thresholds        # thresher spaces; or your own: {{st.weight: {{low: 0.5, high: 2, log: true}}}}
search:
  trials: 32
  objective: val/miou
  max_hours: null                  # a number pauses the search; `thresher resume` goes on
  asha: {{grace_steps: auto, reduction_factor: 3}}     # null = prune nothing
resources: {{gpus_per_trial: auto}}  # 0.5 = two trials on one GPU
storage: ./runs                    # or s3://bucket/prefix
tracking: {{wandb: {{mode: auto, project: thresher}}}} # online with a key, else offline; `disabled` for none
seed: 0
"""


def starter(folder: Path, output: Path, name: str | None = None, group_by: str | None = None) -> str:
    """The text of a sweep file.

    Args:
        folder: the data set.
        output: where the file will stand; its root is written relative to that.
        name: of the run; left out: the folder's.
        group_by: what names the photo; left out: a guess from the ids.

    Raises:
        DataError: there is no data set in the folder.
    """
    if not folder.is_dir():
        raise DataError([Fault(str(folder), "the data must be in a folder, but there is none; correct the path")])
    faults: list[Fault] = []
    layout = find_layout(DataConfig(root=str(folder.resolve())), Path.cwd(), faults)
    if not layout.images:
        raise DataError(faults)
    return _TEMPLATE.format(
        file=output.name,
        name=_quoted(name or _slug(folder.resolve().name)),
        root=_quoted(_relative(folder, output)),
        layout=f"{layout.kind:<25}# {len(layout.images)} images, {_labels(layout)}",
        data="\n".join(_data_lines(folder, layout, group_by)),
    )


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
    if layout.kind == "points":
        found.append(f"  points: {{radius: {layout.radius}}}             # half the particles' diameter, in pixels")
    lists = _lists(folder)
    found += [f"  {split}: {_quoted(path)}" for split, path in lists.items()]
    others = [path for path in _labeled_lists(folder) if path != lists.get("labeled")]
    if others:
        found.append(f"  # other lists of labeled images: {', '.join(others)}")
    if not lists:
        found.append("  val_fraction: 0.2                # of the labeled photos; images without labels are unlabeled")
    return found


def _places(folder: Path) -> list[Path]:
    """Where lists of ids are looked for."""
    return [folder, folder / "splits", *sorted(p for p in (folder / "splits").glob("*") if p.is_dir())]


def _labeled_lists(folder: Path) -> list[str]:
    """Every list of labeled images, relative to the folder."""
    paths = (place / name for place in _places(folder) for name in _LISTS["labeled"])
    return [path.relative_to(folder).as_posix() for path in paths if path.is_file()]


def _lists(folder: Path) -> dict[str, str]:
    """Lists of ids: for each split those of the folder itself, else of the first set of splits that has one."""
    found: dict[str, str] = {}
    for split, names in _LISTS.items():
        paths = (place / name for place in _places(folder) for name in names)
        path = next((p for p in paths if p.is_file()), None)
        if path is not None:
            found[split] = path.relative_to(folder).as_posix()
    return found if "labeled" in found else {}


def _relative(folder: Path, output: Path) -> str:
    """The data's folder as seen from the file's, or absolute where they share nothing."""
    start = output.resolve().parent
    try:
        return Path(os.path.relpath(folder.resolve(), start)).as_posix()
    except ValueError:
        return folder.resolve().as_posix()


def _slug(name: str) -> str:
    """A run's name from a folder's.

    >>> _slug("Meine Luftbilder (2)")
    'Meine-Luftbilder-2'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "sweep"


def _quoted(text: str) -> str:
    """A text as a YAML scalar that is read back as that text.

    >>> _quoted("images"), _quoted("^(t\\\\d+)"), _quoted("12")
    ('images', "'^(t\\\\d+)'", "'12'")
    """
    plain = re.fullmatch(r"[A-Za-z0-9./_][A-Za-z0-9./_ -]*", text) and text == text.strip()
    return text if plain and scalar(text) == text else "'" + text.replace("'", "''") + "'"
