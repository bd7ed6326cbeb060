"""What is read out of a finished search: comparison over seeds, importance, report, export."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.comparison import compare
from search.export import export
from search.importance import FEWEST_TRIALS, importances
from search.records import RunState, TrialRecord
from search.report import page
from search.store import RunLog, open_store
from spaces import SearchSpace
from trainable import strict_yaml
from trainable.config import PixelRecipeConfig
from trainable.errors import ConfigError

SPACE = SearchSpace.from_spec({"st.weight": {}, "ema_decay": {}}, PixelRecipeConfig, ("land", "road"), train={})


def trials(values: list[float]) -> list[TrialRecord]:
    return [
        TrialRecord(n, "x", {}, {}, best_value=value, best_record={"val/iou/road": value / 2, "val/f1": 0.1})
        for n, value in enumerate(values)
    ]


def search(folder: Path, values: list[float], direction: str = "max") -> RunState:
    """A finished run whose objective follows st.weight alone."""
    log = RunLog.create(
        open_store(folder), heartbeat=False, schema=1, run_id="r", name="small",
        config={"recipe": "per_class", "search": {"direction": direction, "objective": "val/miou", "trials": 40}},
        metrics=["val/miou"], space=SPACE.to_json(), space_hash=SPACE.space_hash, data_hash="d" * 64,
        git_revision="abc", generation=0, versions={"thresher": "0"},
    )  # fmt: skip
    draw = np.random.default_rng(0)
    for number, value in enumerate(values):
        coords = SPACE.at([min(0.99, value), float(draw.random())])
        config = {"name": "small", "recipe": "per_class", "data": {"root": "/data"}, "train": {"steps": 5}, "seed": 3}
        log.append("asked", trial=number, source="sampled", params=SPACE.natural(coords), coords=coords, config=config)
        log.append("started", trial=number, attempt=1)
        log.append("evaluated", trial=number, attempt=1, step=5, time_s=1.0, objective=value,
                   record={"val/miou": value}, decision={"action": "complete"})  # fmt: skip
        log.append("ended", trial=number, state="COMPLETE", time_s=1.0)
    log.close()
    return log.state


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=6), st.lists(st.floats(0, 1), min_size=2, max_size=6),
    st.sampled_from(["max", "min"]),
)  # fmt: skip
def test_a_difference_counts_from_two_standard_deviations_on(
    first: list[float], second: list[float], direction: str
) -> None:
    best, other = compare({"best": trials(first), "other": trials(second)}, direction)
    assert best.mean == statistics.fmean(first) and best.verdict == "" and best.difference is None
    assert best.sd == pytest.approx(np.std(first, ddof=1))
    difference = float(np.mean(first) - np.mean(second))
    assert other.difference == pytest.approx(difference, abs=1e-12)
    spread = math.sqrt((np.var(first, ddof=1) + np.var(second, ddof=1)) / 2)
    if abs(abs(difference) - 2 * spread) > 1e-9 and abs(difference) > 1e-9:
        sign = difference if direction == "max" else -difference
        assert other.verdict == ("none" if abs(difference) < 2 * spread else "better" if sign > 0 else "worse")


def test_too_few_seeds_prove_nothing() -> None:
    rows = compare({"best": trials([0.5]), "one": trials([0.1]), "nothing": []})
    assert [row.verdict for row in rows] == ["", "unknown", "unknown"]
    assert rows[2].mean is None and rows[2].sd is None
    assert rows[0].classes == {"road": 0.25}
    assert compare({}) == []


def test_importance_finds_the_coordinate_that_decides(tmp_path: Path) -> None:
    values = [float(v) for v in np.random.default_rng(1).random(40)]
    shares = importances(search(tmp_path, values))
    assert list(shares) == ["st.weight", "1-ema_decay"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["st.weight"] > 0.7


def test_importance_says_nothing_of_few_results(tmp_path: Path) -> None:
    assert importances(search(tmp_path / "few", [0.1] * (FEWEST_TRIALS - 1))) == {}
    assert importances(search(tmp_path / "same", [0.5] * FEWEST_TRIALS)) == {}
    assert importances(RunState()) == {}


def test_the_page_holds_every_part_and_escapes_what_it_shows(tmp_path: Path) -> None:
    state = search(tmp_path, [0.1, 0.9, 0.4, 0.3, 0.2, 0.6, 0.7, 0.5])
    state.trials[2].error = "<script>alert(1)</script>\nmore"
    text = page(state, "runs/<small>")
    parts = ("Best trials", "Learning curves", "Searched knobs", "Importance", "Errors", "runs/&lt;small&gt;", "0.9000")
    for part in parts:
        assert part in text
    assert "<script>alert(1)" not in text
    assert text.count("Plotly.newPlot") >= 4
    assert "Importance" in page(RunState(run={"name": "empty"}), "x")


def test_the_best_trial_is_exported_whatever_the_direction(tmp_path: Path) -> None:
    for direction, best in (("max", 1), ("min", 0)):
        folder = tmp_path / direction
        search(folder, [0.2, 0.8, 0.5], direction)
        found = export(str(folder))
        data: dict[str, Any] = strict_yaml.load(folder / "best.yaml").data
        assert found.trial.number == best
        assert data["name"] == f"small-trial{best}"
        assert data["seed"] == 3
        assert data["provenance"] == {
            "run": str(folder), "run_id": "r", "trial": best, "source": "sampled", "objective": found.trial.best_value,
            "step": 5, "metric": "val/miou", "space_hash": SPACE.space_hash, "data_hash": "d" * 64,
            "git_revision": "abc",
        }  # fmt: skip


def test_export_names_what_there_is(tmp_path: Path) -> None:
    search(tmp_path / "run", [0.2])
    assert export(str(tmp_path / "run"), 0).path.endswith("trial-0.yaml")
    with pytest.raises(ConfigError, match=r"\(0 to 0\), but got trial=9"):
        export(str(tmp_path / "run"), 9)
    with pytest.raises(ConfigError, match="must be a file that can be written"):
        export(str(tmp_path / "run"), output=tmp_path / "gone" / "x.yaml")
    search(tmp_path / "empty", [])
    with pytest.raises(ConfigError, match="must have a result"):
        export(str(tmp_path / "empty"))
