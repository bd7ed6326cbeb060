"""Evaluation: who computes what, in what company, and that several workers find what one finds."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.images import blocks_dataset, dots_dataset, stacked_dataset
from trainable import collective
from trainable.collective import gathered
from trainable.data.dataset import Dataset
from trainable.evaluation import Interrupted, batches, evaluate, predictions
from trainable.recipes.interface import Examiner
from trainable.recipes.particles import ParticleExaminer
from trainable.recipes.surface_parts import SurfaceExaminer, SurfaceLossConfig, SurfacePostConfig
from trainable.task import Task

CPU = torch.device("cpu")


class Meeting:
    """All-reduce among threads that stand for workers."""

    ReduceOp = dist.ReduceOp

    def __init__(self, workers: int) -> None:
        self._barrier = threading.Barrier(workers, timeout=30)
        self._given: dict[int, Tensor] = {}

    def all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        self._given[threading.get_ident()] = tensor.clone()
        self._barrier.wait()
        every = torch.stack(list(self._given.values()))
        self._barrier.wait()
        tensor.copy_(every.sum(0) if op == dist.ReduceOp.SUM else every.amax(0))
        self._barrier.wait()


def each_worker(workers: int, act: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the workers return, by rank."""
    found: dict[int, Any] = {}

    def work(rank: int) -> None:
        found[rank] = act(rank)

    with monkeypatch.context() as patch:
        patch.setattr(collective, "dist", Meeting(workers))
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return [found[rank] for rank in range(workers)]


def answer(image: Tensor) -> Tensor:
    """Two classes by brightness; each image's own, whoever stands beside it."""
    positive = (image.mean(1, keepdim=True) * 0.9).sigmoid()
    return torch.cat([1 - positive, positive], 1)


def surface() -> SurfaceExaminer:
    return SurfaceExaminer(SurfaceLossConfig(), SurfacePostConfig(min_component=4, max_hole=2), None)


def pixels() -> Dataset:
    return blocks_dataset(labeled=1, unlabeled=0, val=5, num_classes=2)


CASES: dict[str, tuple[Callable[[], Dataset], Callable[[], Examiner | None]]] = {
    "pixels": (pixels, lambda: None),
    "particles": (lambda: dots_dataset(val=5), lambda: ParticleExaminer(5, 5, 0.5)),
    "surfaces": (lambda: dots_dataset(val=3), surface),
    "one volume": (stacked_dataset, surface),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_that_share_the_images_find_what_one_finds(
    case: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, examiner = CASES[case]

    def scores(rank: int, world_size: int) -> dict[str, float | None]:
        data = dataset()
        task = Task(("a", "b"), (1, 1), ndim=data.task().ndim)
        return evaluate(
            data, data.positions("val"), answer, task, prefix="val", device=CPU, stride=4, size=2, rank=rank,
            world_size=world_size, examiner=examiner(),
        )  # fmt: skip

    alone = scores(0, 1)
    assert alone["val/auc"] is not None and (case == "pixels" or len(alone) > 10)
    assert each_worker(workers, lambda rank: scores(rank, workers), monkeypatch) == [alone] * workers


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_each_image_is_predicted_once_in_the_company_it_has_with_one_worker(workers: int) -> None:
    data = blocks_dataset(labeled=0, unlabeled=0, val=9)
    positions = data.positions("val")
    asked, groups = [], []
    for rank in range(workers):
        questions: list[None] = []
        shared = predictions(
            data, positions, answer, device=CPU, stride=4, size=2, rank=rank, world_size=workers,
            should_stop=lambda: questions.append(None),  # noqa: B023
        )  # fmt: skip
        groups += [group for group, _ in shared]
        asked.append(len(questions))
    assert sorted(groups) == list(batches(data.shapes, positions, 2))
    assert asked == [math.ceil(5 / workers)] * workers, "who asks less often leaves the others waiting"


def test_a_large_image_is_predicted_alone_and_small_ones_together() -> None:
    shapes = [(64, 64)] * 5 + [(16, 16)] * 5
    assert list(batches(shapes, range(10), 4, room=4 * 32 * 32)) == [
        [0], [1], [2], [3], [4], [5, 6, 7, 8], [9],
    ]  # fmt: skip


def test_a_worker_that_is_told_to_stop_predicts_nothing_more() -> None:
    data, seen = pixels(), []
    with pytest.raises(Interrupted):
        for group, _ in predictions(
            data, data.positions("val"), answer, device=CPU, stride=4, size=1,
            should_stop=lambda: "stop" if seen else None,
        ):  # fmt: skip
            seen.append(group)
    assert len(seen) == 1


def test_what_was_noted_reaches_every_worker_and_none_stays_none(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[dict[int, Sequence[float | None]]] = [
        {4: (0.1, None, -2.0)}, {}, {9: (None, math.inf, 0.0), 2: (1e-300, 3.0, 0.5)},
    ]  # fmt: skip
    found = each_worker(3, lambda rank: gathered(noted[rank], [2, 4, 9], CPU, 3), monkeypatch)
    assert found == [[[1e-300, 3.0, 0.5], [0.1, None, -2.0], [None, math.inf, 0.0]]] * 3


def test_images_without_a_label_take_no_part_in_the_surface_scores() -> None:
    data, examiner = dots_dataset(val=2), surface()
    first = data.positions("val")[0]
    found = answer(torch.from_numpy(data.source.image(first) / 255.0).float().movedim(-1, 0)[None])[0].numpy()
    labeled = examiner.see(found, data.source.mask(first), None)
    blank = examiner.see(found, np.full((64, 64), 255, np.uint8), None)
    assert len(blank) == len(labeled)
    with_blank, alone = examiner.scores([blank, labeled]), surface().scores([labeled])
    assert with_blank == alone and alone["val/loss"] is not None
    assert set(surface().scores([blank]).values()) == {None}


def test_a_loss_that_is_no_number_is_told_apart_from_none() -> None:
    examiner = surface()
    spoiled = examiner.see(np.full((2, 8, 8), np.nan, np.float32), np.zeros((8, 8), np.uint8), None)
    loss = examiner.scores([spoiled])["val/loss"]
    assert loss is not None and math.isnan(loss)
