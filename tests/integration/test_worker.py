"""A trial of two workers: one curve, ended by the flag at the same step on both, and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from trainable.checkpoint import load_last
from trainable.data.synth import GROUP_BY, write_scenes
from trainable.state import Outcome
from trainable.worker import fit

pytestmark = pytest.mark.ray

TRAIN = {
    "steps": 8, "eval_every_steps": 2, "batch_size": 4, "crop_size": 32, "patience": 0, "encoder_weights": None,
    "architecture": "unet", "encoder": "tu-test_resnet", "num_heads": 1, "scale_every_steps": 0, "amp": "off",
    "optimizer": {"lr": 0.01, "warmup_steps": 1}, "st": {"start_step": 1}, "threshold": 0.2,
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, photos=4, patches_per_photo=4, size=64, labeled=4, seed=0)
    return root


def configuration(root: Path) -> dict[str, Any]:
    data = {
        "root": str(root), "classes": "class_mapping.csv", "labeled": "splits/labelled.txt",
        "unlabeled": "splits/unlabelled.txt", "val": "splits/val.txt", "group_by": GROUP_BY,
        "cache": {"dir": str(root / "cache")},
    }  # fmt: skip
    return {"name": "pair", "recipe": "per_class", "data": data, "train": TRAIN, "seed": 0}


@ray.remote(num_cpus=0)
def trial(
    run: dict[str, Any], folder: str, workers: int, stop_after: int | None
) -> tuple[list[Any], Outcome]:
    """What a Tune trial does, in a process of its own."""
    reports: list[Any] = []

    def should_stop() -> str | None:
        return "prune" if stop_after is not None and len(reports) >= stop_after else None

    outcome = fit(run, folder, workers=workers, report=reports.append, should_stop=should_stop)
    return [(r.step, r.objective, r.record["loss/sup"]) for r in reports], outcome


def test_two_workers_train_as_one_leave_together_and_go_on(
    shared_ray: str, scenes: Path, tmp_path: Path
) -> None:
    run = configuration(scenes)
    whole, ended = ray.get(trial.remote(run, str(tmp_path / "whole"), 2, None))
    assert ended.state == "COMPLETE" and [step for step, *_ in whole] == [2, 4, 6, 8]

    first, paused = ray.get(trial.remote(run, str(tmp_path / "broken"), 2, 1))
    assert paused.state == "PAUSED" and paused.step < 8
    snapshot, _ = load_last(tmp_path / "broken")
    assert snapshot is not None and snapshot.loop["step"] == paused.step

    rest, again = ray.get(trial.remote(run, str(tmp_path / "broken"), 2, None))
    assert again.state == "COMPLETE"
    assert {step for step, *_ in first + rest} == {2, 4, 6, 8}
    curve = {step: (value, loss) for step, value, loss in first + rest}
    for step, value, loss in whole:
        assert curve[step] == pytest.approx((value, loss), rel=1e-4)
