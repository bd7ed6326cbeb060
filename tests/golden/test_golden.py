"""Twenty steps on the CPU at a fixed seed: the curves must stay what they were, or the change must be explained.

Regenerate with `python -m tests.golden.test_golden` and say in the commit why the numbers moved.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

import trainable.session
from tests.support.images import blocks_dataset
from trainable import train
from trainable.config import RunConfig
from trainable.state import Report

FILE = Path(__file__).with_name("twenty_steps.json")
KEPT = ("val/miou", "train/miou", "loss/total", "loss/sup", "loss/st", "st/pixels_seen", "st/ratio", "lr")
TRAIN: dict[str, Any] = {
    "steps": 20, "eval_every_steps": 5, "batch_size": 2, "crop_size": 32, "patience": 0, "encoder_weights": None,
    "architecture": "deeplabv3plus", "encoder": "tu-test_resnet", "optimizer": {"lr": 0.01, "warmup_steps": 2},
    "scale_min": 32, "scale_max": 64, "scale_every_steps": 3, "st": {"start_step": 4, "ramp_steps": 4},
    "threshold": 0.34, "ema_decay": 0.9, "amp": "off",
}  # fmt: skip


def curves(recipe: str) -> list[dict[str, float | None]]:
    """The kept metrics of every evaluation."""
    torch.set_num_threads(1)
    reports: list[Report] = []
    run = RunConfig.model_validate(
        {"name": "golden", "recipe": recipe, "data": {"root": "."}, "train": TRAIN, "seed": 7}
    )
    with tempfile.TemporaryDirectory() as scratch:
        train(run, scratch, report=reports.append)
    return [{"step": float(r.step)} | {k: r.record[k] for k in KEPT if k in r.record} for r in reports]


@pytest.mark.parametrize("recipe", ["per_class", "supervised"])
def test_twenty_steps_are_what_they_were(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable.session, "open_dataset", lambda cfg, base, **kwargs: blocks_dataset())
    expected = json.loads(FILE.read_text(encoding="utf-8"))[recipe]
    for got, then in zip(curves(recipe), expected, strict=True):
        assert got.keys() == then.keys()
        for name, value in then.items():
            # processors round differently; a changed rule moves these by far more
            assert got[name] == pytest.approx(value, rel=2e-2, abs=2e-2), f"{name} at step {then['step']:.0f}"


if __name__ == "__main__":
    trainable.session.open_dataset = lambda cfg, base, **kwargs: blocks_dataset()
    made = {recipe: curves(recipe) for recipe in ("per_class", "supervised")}
    FILE.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
