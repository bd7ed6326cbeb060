"""What a confirmation trains: each configuration once, and floors that leave only self-training to explain a gain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.confirm import no_floor, variants
from search.opening import configure
from search.records import RunState
from search.schema import SweepConfig
from search.store import RunLog, open_store
from search.suggestion import Suggestion
from tests.support.drive import toy_config
from tests.support.runs import opened
from trainable.config import flatten

CLASSES = ("land", "road")
FIXED = {
    "steps": 40, "eval_every_steps": 5, "encoder_weights": None, "encoder": "resnet18", "batch_size": 6,
    "st.start_step": 0,
}  # fmt: skip


def search(folder: Path, sampled: dict[str, Any], **sections: Any) -> tuple[RunState, SweepConfig]:
    config = toy_config(folder, train=FIXED, **sections)
    log = RunLog.create(open_store(folder / "run"), heartbeat=False, **opened())
    made = configure(config, CLASSES, "r")(Suggestion(0, "sampled", sampled, {}, {}))
    log.append("asked", trial=0, source="sampled", params=sampled, coords={}, config=made)
    log.append("started", trial=0, attempt=1)
    log.append("evaluated", trial=0, attempt=1, step=5, time_s=1.0, objective=0.5, record={"val/miou": 0.5},
               decision={"action": "complete"})  # fmt: skip
    log.close()
    return log.state, config


def floors(state: RunState, config: SweepConfig) -> dict[str, dict[str, Any]]:
    found = {v.name: flatten(v.train) for v in variants(state, config, "run", CLASSES, None)}
    assert next(iter(found)) == "best"
    assert {"default", "preset:V3.0", "preset:V3.1"} <= set(found)
    return {name: train for name, train in found.items() if name.startswith("supervised")}


def test_the_floor_comes_with_defaults_and_with_all_that_the_best_shares_with_it(tmp_path: Path) -> None:
    sampled = {"optimizer.lr": 0.0125, "loss.ce": 0.9, "st.weight": 3.0, "threshold": 0.7}
    plain, shared = floors(*search(tmp_path, sampled)).values()
    for name in ("steps", "eval_every_steps", "encoder", "encoder_weights", "batch_size"):
        assert plain[name] == shared[name] == FIXED[name]
    assert (shared["optimizer.lr"], shared["loss.ce"]) == (0.0125, 0.9)
    assert plain["optimizer.lr"] != 0.0125 and plain["loss.ce"] != 0.9
    assert not any(name.startswith(("st.", "threshold")) for name in (*plain, *shared))


def test_floors_that_are_one_are_trained_once(tmp_path: Path) -> None:
    state, config = search(tmp_path, {"st.weight": 3.0})
    assert list(floors(state, config)) == ["supervised (defaults)"]


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"recipe": "supervised", "space": {"optimizer.lr": {}}}, "the search itself is supervised"),
        ({"search": {"objective": "val/voi", "direction": "min"}}, "does not measure val/voi"),
        ({"data": {"layout": "volume"}}, "takes images, not volumes"),
        ({}, None),
    ],
)
def test_a_search_without_a_floor_says_why(tmp_path: Path, sections: dict[str, Any], why: str | None) -> None:
    said = no_floor(toy_config(tmp_path, **sections), CLASSES)
    assert said is None if why is None else why in str(said)
