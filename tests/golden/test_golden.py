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

from tests.support.recipe_rows import ROWS, Row, run_row
from trainable.config import merge
from trainable.recipes import RECIPES
from trainable.state import Report

FILE = Path(__file__).with_name("twenty_steps.json")
KEPT = ("train/miou", "loss/total", "st/pixels_seen", "lr")
GENTLE: dict[str, dict[str, Any]] = {
    "s4gan": {"d_lr": 1e-4},
    "s4gan-mlmt": {"d_lr": 1e-4, "mlmt": {"lr": 1e-3}},
    "s4gan_v2": {"d_lr": 1e-4, "optimizer": {"lr": 3e-4}},
    "mean_teacher": {"optimizer": {"lr": 3e-4}},
    "cps": {"optimizer": {"lr": 1e-4}, "selection": {"momentum": 0.99}},
    "self_training_rounds": {"optimizer": {"lr": 1e-4}, "rounds": {"lr": 1e-4}},
    "surface": {"optimizer": {"lr": 1e-4}},
}
"""Rates at which what processors round differently stays below what a changed rule moves."""

JUMPY = ("loss/mlmt", "val/particle_f1", "st/pixels_grown")
"""Batch norm over two values turns rounding into signs, and one pick more or less is a twentieth of the score; a region
grows as a whole or not at all."""

Curve = list[dict[str, float | None]]


def curves(row: Row) -> Curve:
    """The kept metrics of every evaluation: those of every recipe, its objective, and what its row names."""
    reports: list[Report] = []
    named = (RECIPES[row.recipe].objective, *KEPT, *row.signals)
    kept = [name for name in dict.fromkeys(named) if name not in JUMPY]
    changes = merge({"steps": 20, "eval_every_steps": 5, "optimizer": {"lr": 1e-3}}, GENTLE.get(str(row), {}))
    with tempfile.TemporaryDirectory() as scratch:
        run_row(row, Path(scratch), report=reports.append, **changes)
    return [{"step": float(r.step)} | {k: r.record[k] for k in kept if k in r.record} for r in reports]


def test_every_recipe_has_its_curve() -> None:
    assert list(json.loads(FILE.read_text(encoding="utf-8"))) == [str(row) for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_twenty_steps_are_what_they_were(row: Row) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = curves(row)
    finally:
        torch.set_num_threads(threads)
    for got, then in zip(found, json.loads(FILE.read_text(encoding="utf-8"))[str(row)], strict=True):
        assert got.keys() == then.keys()
        for name, value in then.items():
            # processors round differently; a changed rule moves these by far more
            near = value if value is None else pytest.approx(value, rel=2e-2, abs=2e-2)
            assert got[name] == near, f"{name} at step {then['step']:.0f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = {str(row): curves(row) for row in ROWS}
    FILE.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
