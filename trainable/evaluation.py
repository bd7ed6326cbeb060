"""Evaluation at native size from one confusion matrix, read once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from trainable import metrics
from trainable.collective import gathered, total
from trainable.data.augment import normalize
from trainable.data.dataset import Dataset
from trainable.data.items import hidden_mask
from trainable.data.random import stream_rng
from trainable.data.streams import U8
from trainable.errors import DataError
from trainable.pseudo_labels import Target
from trainable.pseudo_labels.target import label_accuracy_counts
from trainable.recipes.interface import Examiner
from trainable.state import StopQuestion, never_stop
from trainable.task import IGNORE, Task

TRAIN_IMAGES = 200
Predict = Callable[[Tensor], Tensor]
Labels = Callable[[Tensor, Tensor], Target | None]


class Interrupted(Exception):
    """The run was asked to stop in the middle of an evaluation; nothing of it counts."""


def padded(images: Sequence[U8], stride: int, device: torch.device | None = None) -> Tensor:
    """Images of one size as a normalized batch, padded at the far ends to a multiple of the stride.

    Args:
        images: uint8[*S, 3] each. stride: of the network. device: where to; None leaves it on the CPU.

    Returns:
        float32[B, 3, *P]; 0 on the padding.
    """
    batch = normalize(torch.from_numpy(np.stack(images)).to(device or "cpu").movedim(-1, 1).float().div_(255))
    pad: list[int] = []
    for size in reversed(batch.shape[2:]):
        pad += [0, -size % stride]
    return torch.nn.functional.pad(batch, pad)


def batches(
    shapes: Sequence[tuple[int, ...]], positions: Sequence[int], size: int, room: int | None = None
) -> Iterator[list[int]]:
    """Positions in groups of equal shape.

    Args:
        shapes: by position. positions: which. size: the most of a group.
        room: pixels that the images of a group may have together, if there is more than one; None for any number.

    >>> list(batches([(4, 4), (8, 8), (4, 4), (8, 8)], [0, 1, 2, 3], 2, room=100))
    [[0, 2], [1], [3]]
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for position in positions:
        by_shape.setdefault(shapes[position], []).append(position)
    for shape, group in by_shape.items():
        most = size if room is None else max(1, min(size, room // math.prod(shape)))
        for start in range(0, len(group), most):
            yield group[start : start + most]


def predictions(
    data: Dataset, positions: Sequence[int], predict: Predict, *, device: torch.device, stride: int, size: int,
    room: int | None = None, rank: int = 0, world_size: int = 1, should_stop: StopQuestion = never_stop,
) -> Iterator[tuple[list[int], Tensor]]:  # fmt: skip
    """Probabilities of images at native size, padding cut off.

    Workers that share the images take turns with the groups that one worker would make, so that each image is
    predicted in the same company; all of them ask whether to stop equally often.

    Args:
        data: the images. positions: which. predict: float[B, 3, *P] to float[B, C, *P].
        device: where to. stride: of the network. size: images at a time. room: pixels at a time, see `batches`.
        rank: this worker. world_size: number of workers that share the images; 1: all are predicted here.
        should_stop: asked before each batch.

    Yields:
        positions, and float32[B, C, *S] on the device.

    Raises:
        Interrupted: `should_stop` said so.
    """
    groups = list(batches(data.shapes, positions, size, room))
    for first in range(0, len(groups), world_size):
        if should_stop() is not None:
            raise Interrupted
        for group in groups[first + rank : first + rank + 1]:
            image = padded([data.source.image(i) for i in group], stride, device)
            window = tuple(slice(0, n) for n in data.shapes[group[0]])
            yield group, predict(image)[(slice(None), slice(None), *window)]


def evaluate(
    data: Dataset, split_positions: Sequence[int], predict: Predict, task: Task, *, prefix: str,
    exclude: Sequence[int] = (), device: torch.device, stride: int, size: int, room: int | None = None,
    rank: int = 0, world_size: int = 1, should_stop: StopQuestion = never_stop, examiner: Examiner | None = None,
) -> dict[str, float | None]:  # fmt: skip
    """Every score of a split; the workers share its images, and all of them return the same.

    Args:
        data: the images. split_positions: which. predict: see `predictions`. task: the classes.
        prefix: `val` or `train`. exclude: classes left out of the means.
        device, stride, size, room, rank, world_size, should_stop: see `predictions`.
        examiner: sees every image, and adds its own scores.

    Returns:
        Metrics by name, see `metrics.scores`; `<prefix>/auc` for binary tasks; the examiner's.

    Raises:
        Interrupted: `should_stop` said so.
    """
    counts = [torch.zeros((task.num_classes, task.num_classes), dtype=torch.int64, device=device)]
    if task.binary:
        nothing = torch.zeros(0, device=device)
        counts.append(metrics.score_histogram(nothing, nothing.long()))
    noted: dict[int, Sequence[float | None]] = {}
    for group, probabilities in predictions(
        data, split_positions, predict, device=device, stride=stride, size=size, room=room, rank=rank,
        world_size=world_size, should_stop=should_stop,
    ):  # fmt: skip
        label = torch.from_numpy(np.stack([data.source.mask(i) for i in group])).to(device)
        counts[0] += metrics.confusion_matrix(probabilities.max(1).indices, label, task.num_classes, IGNORE)
        if task.binary:
            counts[1] += metrics.score_histogram(probabilities[:, 1], label, ignore_index=IGNORE)
        if examiner is not None:
            for position, found in zip(group, probabilities.float().cpu().numpy(), strict=True):
                noted[position] = examiner.see(found, data.source.mask(position), data.points.get(position))
    # Whole numbers, whose sum is the same whoever counted what.
    matrix, *histogram = (total(count, world_size).cpu() for count in counts)
    positive = 1 if task.binary else None
    values = metrics.scores(matrix, task.class_names, prefix=prefix, exclude_classes=exclude, positive_class=positive)
    if histogram:
        values[f"{prefix}/auc"] = metrics.histogram_auc(histogram[0])
    if examiner is None:
        return values
    return values | examiner.scores(gathered(noted, split_positions, device, world_size))


def label_accuracy(
    data: Dataset, truth: Mapping[int, U8], labels: Labels, *, device: torch.device, stride: int, size: int,
    room: int | None = None, world_size: int = 1, should_stop: StopQuestion = never_stop,
) -> float | None:  # fmt: skip
    """The share of right ones among the pseudo-labels that are kept, over pixels whose label is known.

    Workers do not share these images: some recipes choose by statistics that all workers gather together at each
    choice, so that all of them must make the same ones.

    Args:
        data: the images. truth: uint8[*S] by position, the hidden labels.
        labels: normalized images float[B, 3, *P] and bool[B, *P], true inside of the image, to pseudo-labels.
        device: where to. stride: of the network. size: images at a time. room: pixels at a time, see `batches`.
        world_size: number of workers. should_stop: asked before each batch.

    Returns:
        In [0, 1]; None where no pseudo-label was kept, or the recipe chooses none by pixel.

    Raises:
        Interrupted: `should_stop` said so.
    """
    counts = torch.zeros(2, dtype=torch.int64, device=device)
    for group in batches(data.shapes, sorted(truth), size, room):
        if should_stop() is not None:
            raise Interrupted
        image = padded([data.source.image(i) for i in group], stride, device)
        label = torch.full((len(group), *image.shape[2:]), IGNORE, dtype=torch.int64)
        inside = torch.zeros(label.shape, dtype=torch.bool)
        window = (slice(None), *(slice(0, n) for n in data.shapes[group[0]]))
        label[window] = torch.from_numpy(np.stack([truth[i] for i in group])).long()
        inside[window] = True
        target = labels(image, inside.to(device))
        if target is None:
            return None
        counts += torch.stack([*label_accuracy_counts(target, label.to(device)).values()])
    # Devices may differ in the last digit; the sum is the same for all workers.
    right, known = total(counts, world_size).tolist()
    return right / known if known else None


def hidden_labels(data: Dataset, seed: int, number: int) -> dict[int, U8]:
    """Labels of unlabeled images that happen to have a mask, of up to `number` of them, chosen by the seed.

    Nothing trains on them, so one that cannot be used is left out with a warning.
    """
    chosen = sorted(stream_rng(seed, "hidden_labels", 0).permutation(len(data.hidden))[:number])
    found: dict[int, U8] = {}
    for position in (data.hidden[k] for k in chosen):
        try:
            mask = hidden_mask(data.manifest, data.manifest.items[position])
        except DataError as error:
            print(f"warning: pseudo-labels are not measured on this image: {error}", flush=True)
        else:
            if mask is not None:
                found[position] = mask
    return found


def train_positions(data: Dataset, seed: int) -> list[int]:
    """The fixed labeled images on which train/miou is measured: up to 200, by the seed."""
    labeled = data.positions("labeled")
    if len(labeled) <= TRAIN_IMAGES:
        return labeled
    chosen = stream_rng(seed, "train_evaluation", 0).permutation(len(labeled))[:TRAIN_IMAGES]
    return sorted(labeled[i] for i in chosen)
