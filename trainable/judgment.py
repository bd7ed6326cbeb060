"""What an evaluation means for a run: whether it is the best so far, which rules it breaks, and whether it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from trainable.config import nearest
from trainable.errors import ConfigError, Fault
from trainable.metrics.objective import Objective
from trainable.recipes.interface import Recipe
from trainable.state import LoopState, OutcomeState, Report


class Judge:
    """Looks at one evaluation after another; what it remembers of them stands in the loop's state.

    Args:
        recipe: whose rules and knobs count. objective: what the best model is. say: takes a note for people.

    Attributes:
        verdict: how the run ends by what was seen, and why; None while it goes on.
    """

    def __init__(self, recipe: Recipe[Any], objective: Objective, say: Callable[[str], None]) -> None:
        self._recipe, self._objective, self._say = recipe, objective, say
        self.verdict: tuple[OutcomeState, str] | None = None

    def value(self, record: Mapping[str, float | None]) -> float | None:
        """The objective's value in a record.

        Raises:
            ConfigError: the recipe reports no such metric.
        """
        metric = self._objective.metric
        if metric not in record and metric != self._recipe.objective:
            message = (
                f"objective must be a metric that {self._recipe.name} reports, but got objective={metric!r}"
            )
            raise ConfigError([Fault("objective", f"{message}{nearest(metric, record)}")])
        return record.get(metric)

    def remember(self, state: LoopState, report: Report) -> bool:
        """Keep a report in the state; returns whether it is the best so far."""
        value = report.objective
        better = self._objective.better(value, state.best_value)
        state.evaluated_step = report.step
        state.evals_since_best = 0 if better else state.evals_since_best + 1
        state.last_report = {"record": report.record, "time_s": report.time_s, "objective": value}
        if better:
            state.best_value, state.best_step = value, report.step
        return better

    def look(self, state: LoopState, report: Report) -> None:
        """Health rules first, then patience."""
        known = {n: v if v is not None and math.isfinite(v) else None for n, v in report.record.items()}
        for rule in self._recipe.rules():
            memory = state.health.setdefault(rule.name, {})
            message = rule.check({**known, "step": float(report.step)}, memory)
            if message is None:
                if (sign := rule.sign(memory)) is not None:
                    self._say(f"{rule.name}: {sign}")
                continue
            state.broken.setdefault(rule.name, float(report.step))
            self._say(f"{rule.name}: {message}")
            if rule.action == "stop":
                self.verdict = self.verdict or ("STOPPED", rule.name)
        patience = self._recipe.cfg.patience
        if patience and state.evals_since_best >= patience:
            self._say(f"patience: {state.evals_since_best} evaluations without a better value")
            if self._recipe.cfg.patience_action == "stop":
                self.verdict = self.verdict or ("STOPPED", "patience")
