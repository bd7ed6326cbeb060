"""Masks for images or volumes, from the best model of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import TypeAdapter

from trainable.checkpoint import load_best
from trainable.config import RunConfig, resolve
from trainable.data.files import SUFFIXES
from trainable.data.images import read_image
from trainable.data.streams import U8
from trainable.data.volume_files import find_volumes
from trainable.errors import DataError, Fault
from trainable.evaluation import padded
from trainable.recipes import get_recipe
from trainable.recipes.interface import Recipe
from trainable.task import Task


@dataclass
class Predictor:
    """A trained model, ready for images of any size.

    Attributes:
        recipe: what it was trained by. nets: the evaluated network by name. colors: of the classes.
        step: where the model was the best. value: its objective there. device: where it computes.
        group_by: which volume a section of its data belongs to, and order_by where; empty for images.
    """

    recipe: Recipe[Any]
    nets: dict[str, torch.nn.Module]
    colors: list[tuple[int, ...]]
    step: int
    value: float
    device: torch.device
    group_by: str = ""
    order_by: str = ""

    @torch.no_grad()
    def probabilities(self, image: U8) -> torch.Tensor:
        """Class probabilities, float32[C, *S]; image or volume: uint8[*S, 3]."""
        batch = padded([image], self.recipe.stride, self.device)
        found = self.recipe.probabilities(self.nets, batch)[0]
        return found[(slice(None), *(slice(0, n) for n in image.shape[:-1]))].cpu()

    def mask(self, image: U8) -> U8:
        """The most likely class of every pixel or voxel, uint8[*S]."""
        return self.probabilities(image).max(0).indices.to(torch.uint8).numpy()


def load_predictor(directory: Path, device: str | torch.device = "cpu") -> Predictor:
    """The best model in a trial's folder.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    best, weights = load_best(directory)
    run = RunConfig.model_validate(best.model["run"])
    kind = get_recipe(run.recipe)
    task = TypeAdapter(Task).validate_python(best.model["task"])
    train = best.model["train"] | {"encoder_weights": None, "init_from": None}
    recipe = kind(resolve(kind.config, train=train, class_names=task.class_names), task)
    recipe.use_device_state(recipe.device_state())
    net = recipe.build()[recipe.evaluated]
    net.load_state_dict(weights)
    where = torch.device(device)
    net.to(where).eval()
    colors = [tuple(c) for c in best.model["class_colors"]]
    volume = run.data.volume
    patterns = (volume.group_by, volume.order_by) if volume is not None else ("", "")
    return Predictor(recipe, {recipe.evaluated: net}, colors, best.step, best.value, where, *patterns)


def predict_folder(predictor: Predictor, images: Path, output: Path) -> Iterator[Path]:
    """Write one palette PNG per image: pixel value = class id, colors = the data's.

    A model of volumes takes volumes: those in one file (an array [D, H, W], a TIFF of many pages) become an array of
    class ids of the same shape, the sections in a folder one PNG each.

    Args:
        predictor: the model. images: a folder, searched to its depth, or one file. output: where the masks go, under
        the same relative names.

    Yields:
        each written file.

    Raises:
        DataError: there are no images, or one cannot be read.
    """
    root = images if images.is_dir() else images.parent
    volumes = find_volumes(images, predictor.group_by, predictor.order_by) if predictor.recipe.task.ndim == 3 else []
    if predictor.recipe.task.ndim == 3:
        found = [path for volume in volumes for path in volume.files]
    else:
        found = sorted(p for p in images.rglob("*") if p.suffix.lower() in SUFFIXES) if images.is_dir() else [images]
    if not found:
        raise DataError([Fault(str(images), "must hold images (PNG, JPEG, TIFF, WebP, NPY), but there are none")])
    whole = {volume.files[0] for volume in volumes if volume.whole}
    _refuse_overwriting({p: _target(p, root, output, ".npy" if p in whole else ".png") for p in found})
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(predictor.colors)] = predictor.colors

    def write(mask: U8, path: Path, suffix: str) -> Path:
        target = _target(path, root, output, suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npy":
            np.save(target, mask)
            return target
        made = Image.fromarray(mask, mode="P")
        made.putpalette(palette.tobytes())
        made.save(target)
        return target

    if predictor.recipe.task.ndim == 3:
        for volume in volumes:
            mask = predictor.mask(volume.read())
            if volume.whole:
                yield write(mask, volume.files[0], ".npy")
            else:
                yield from (write(section, path, ".png") for section, path in zip(mask, volume.files, strict=True))
        return
    for path in found:
        yield write(predictor.mask(read_image(path)), path, ".png")


def _target(path: Path, root: Path, output: Path, suffix: str) -> Path:
    return output / path.relative_to(root).with_suffix(suffix)


def _refuse_overwriting(targets: Mapping[Path, Path]) -> None:
    """Masks must take the place neither of an input nor of each other."""
    sources = {path.resolve() for path in targets}
    taken: dict[Path, Path] = {}
    faults = []
    for path, target in targets.items():
        place = target.resolve()
        if place in sources:
            faults.append(Fault(str(path), f"its mask would replace the input {target}; name another output folder"))
        elif place in taken:
            faults.append(Fault(str(path), f"its mask and that of {taken[place]} would both be {target}; rename one"))
        taken[place] = path
    if faults:
        raise DataError(faults)
