"""How right pseudo-labels are: measured on hidden labels, which change nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainable import train
from trainable.config import RunConfig
from trainable.data.dataset import open_dataset
from trainable.data.synth import GROUP_BY, write_scenes
from trainable.evaluation import hidden_labels
from trainable.predict import load_predictor
from trainable.state import Report

TRAIN: dict[str, Any] = {
    "steps": 4, "eval_every_steps": 2, "batch_size": 2, "crop_size": 32, "patience": 0, "encoder_weights": None,
    "architecture": "unet", "encoder": "tu-test_resnet", "amp": "off", "optimizer": {"lr": 0.02, "warmup_steps": 1},
    "st": {"start_step": 2}, "threshold": 0.0,
}  # fmt: skip

WITHOUT_A_THRESHOLD: dict[str, dict[str, Any]] = {
    "diverse_head": {"num_heads": 2, "head_channels": 8, "freeze_draws": 1},
    "s4gan": {"d_threshold": 0.0}, "s4gan_v2": {"d_threshold": 0.0, "d_threshold_init": 0.0},
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "scenes", photos=4, patches_per_photo=4, size=48, labeled=4, seed=0)
    return tmp_path / "scenes"


def run(recipe: str, scenes: Path, folder: Path, **train_values: Any) -> list[Report]:
    reports: list[Report] = []
    train(configuration(recipe, scenes, **train_values), folder, report=reports.append)
    return reports


def configuration(recipe: str, scenes: Path, **train_values: Any) -> RunConfig:
    data: dict[str, Any] = {
        "root": str(scenes), "classes": "class_mapping.csv", "labeled": "splits/labelled.txt",
        "unlabeled": "splits/unlabelled.txt", "val": "splits/val.txt", "group_by": GROUP_BY,
        "cache": {"dir": str(scenes / "cache")},
    }  # fmt: skip
    return RunConfig(name="t", recipe=recipe, data=data, train=TRAIN | train_values)  # type: ignore[arg-type]


def test_it_is_the_share_of_right_pixels_among_those_kept(scenes: Path, tmp_path: Path) -> None:
    (only,) = run("per_class", scenes, tmp_path, ema_decay=0.0, num_heads=1, eval_every_steps=4)
    assert only.record["st/ratio"] == 1.0, "at threshold 0 every pixel is kept"
    data = open_dataset(configuration("per_class", scenes).data, Path())
    truth = hidden_labels(data, 0, 20)
    assert truth.keys() == set(data.splits["unlabeled"])
    predictor = load_predictor(tmp_path)
    right = known = 0
    for position, label in truth.items():
        found = predictor.probabilities(data.source.image(position)).argmax(0).numpy()
        right += int(np.sum((found == label) & (label != 255)))
        known += int(np.sum(label != 255))
    assert only.record["st/pl_accuracy"] == pytest.approx(right / known, abs=1e-4)


def test_it_is_missing_before_self_training_and_where_nothing_is_kept(scenes: Path, tmp_path: Path) -> None:
    before, after = run("per_class", scenes, tmp_path, threshold=0.999999)
    assert "st/pl_accuracy" not in before.record and "st/pl_accuracy" not in after.record


def test_a_hidden_mask_that_cannot_be_used_is_left_out_with_a_warning(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_dataset(configuration("per_class", scenes).data, Path())
    broken = data.manifest.items[data.hidden[0]]
    assert broken.hidden is not None
    broken.hidden.write_bytes(b"no picture")
    reports = run("per_class", scenes, tmp_path)
    assert reports[-1].record["st/pl_accuracy"] is not None
    assert broken.id in capsys.readouterr().out
    assert hidden_labels(data, 0, 20).keys() == set(data.hidden[1:])


@pytest.mark.parametrize("recipe", ["fixmatch", "mean_teacher", "cps", "diverse_head", "s4gan", "s4gan_v2"])
def test_measuring_changes_nothing_else(recipe: str, scenes: Path, tmp_path: Path) -> None:
    if recipe in WITHOUT_A_THRESHOLD:
        values = {k: v for k, v in TRAIN.items() if k != "threshold"} | WITHOUT_A_THRESHOLD[recipe]
    else:
        values = TRAIN | {"threshold_mode": "flexmatch", "selection": {"momentum": 0.5}, "threshold": 0.2}
    measured, blind = (
        train_with(values, recipe, scenes, tmp_path / str(number), number) for number in (5, 0)
    )
    accuracy = [r.record.pop("st/pl_accuracy", None) for r in measured]
    assert accuracy[-1] is not None and 0 <= accuracy[-1] <= 1
    assert [r.record for r in measured] == [r.record for r in blind]


def train_with(values: dict[str, Any], recipe: str, scenes: Path, folder: Path, hidden: int) -> list[Report]:
    base = configuration(recipe, scenes)
    data = base.data.model_copy(update={"hidden_labels": hidden})
    reports: list[Report] = []
    train(base.model_copy(update={"data": data, "train": values}), folder, report=reports.append)
    return reports
