"""The demo from nothing to its last line, with a training that is a formula."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from search.cli import main
from search.demo import verdict
from search.records import RunState, TrialRecord, TrialState
from search.running import Options


@pytest.mark.ray
def test_the_demo_leaves_a_table_a_verdict_and_the_next_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_ray: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("search.cli.demo.Options", functools.partial(Options, fit="tests.support.toy:fit"))
    assert main(["demo", "--storage", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for part in ("preset:V3.1", "the search ", "thresher resume", "thresher train", "thresher predict"):
        assert part in shown
    assert (tmp_path / "demo" / "best.yaml").is_file()
    assert main(["demo", "--storage", str(tmp_path)]) == 2
    assert "--fresh" in capsys.readouterr().err
    assert main(["demo", "--storage", str(tmp_path), "--fresh", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 8 and found["verdict"].startswith("the search ")
    assert len(list(tmp_path.glob("demo.*Z"))) == 1


def of(*values: tuple[str, float | None]) -> RunState:
    state = RunState()
    for number, (source, value) in enumerate(values):
        state.trials[number] = TrialRecord(
            number, source, {}, {}, state=TrialState.COMPLETE, best_value=value, best_step=1
        )
    return state


def test_the_verdict_says_plainly_whether_the_search_won() -> None:
    assert verdict(of(("default", 0.2), ("sampled", 0.3))).startswith(
        "the search beat the recipe's defaults: 0.3000 (trial 1, sampled) against 0.2000"
    )
    for state in (of(("default", 0.3), ("sampled", 0.2)), of(("default", 0.3), ("sampled", 0.3))):
        assert verdict(state) == "the search did not beat the recipe's defaults: 0.3000 is the best value"
    assert "came to no result" in verdict(of(("default", None), ("sampled", 0.3)))
    assert verdict(RunState()) == "no trial came to a result"
