"""What an evaluation means: best, patience and rules, also where a value is missing or no number."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from trainable import health
from trainable.config import RecipeConfig
from trainable.errors import ConfigError
from trainable.judgment import Judge
from trainable.metrics.objective import Objective
from trainable.state import LoopState, Report


def judge(said: list[str], **knobs: Any) -> Judge:
    rules = [health.collapsed("val/miou", 0.5, 2, "stop")]
    recipe: Any = SimpleNamespace(
        name="r", objective="val/miou", cfg=RecipeConfig(**knobs), rules=lambda: rules
    )
    return Judge(recipe, Objective("val/loss", "min"), said.append)


def seen(judged: Judge, state: LoopState, step: int, loss: float | None, miou: float | None = None) -> bool:
    record = {"val/loss": loss, "val/miou": miou}
    report = Report(step, 1.0, judged.value(record), record)
    best = judged.remember(state, report)
    judged.look(state, report)
    return best


def test_a_value_that_is_no_number_is_never_the_best_and_does_not_bar_a_later_one() -> None:
    judged, state = judge([]), LoopState()
    losses = [math.nan, None, 0.5, math.nan, 0.7, 0.4]
    assert [step for step, loss in enumerate(losses) if seen(judged, state, step, loss)] == [2, 5]
    assert (state.best_value, state.best_step, state.evals_since_best) == (0.4, 5, 0)


def test_a_rule_takes_what_is_no_number_for_missing() -> None:
    said: list[str] = []
    judged, state = judge(said), LoopState()
    for step, miou in enumerate([math.nan, 0.6, 0.1, math.nan, 0.1]):
        seen(judged, state, step, None, miou)
    assert judged.verdict == ("STOPPED", "collapsed") and state.broken == {"collapsed": 4.0}
    assert said == ["collapsed: val/miou fell from its best 0.600 to 0.100, for 2 evaluations"]


@pytest.mark.parametrize(("action", "verdict"), [("stop", ("STOPPED", "patience")), ("warn", None)])
def test_patience_counts_evaluations_without_a_better_value(action: str, verdict: Any) -> None:
    judged, state = judge([], patience=2, patience_action=action), LoopState()
    for step, loss in enumerate([0.5, 0.6]):
        seen(judged, state, step, loss)
    assert judged.verdict is None
    seen(judged, state, 2, 0.5)
    assert judged.verdict == verdict


def test_a_metric_that_nobody_reports_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'val/lose'"):
        judge([]).value({"val/lose": 0.5})
