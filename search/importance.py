"""How much each searched coordinate mattered, as far as the finished trials tell."""

from __future__ import annotations

import logging

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from search.records import RunState, TrialRecord, TrialState
from spaces import SearchSpace

logging.getLogger("optuna").setLevel(logging.WARNING)

FEWEST_TRIALS = 8
"""Below this many results a share of the variance is mere noise."""


def importances(state: RunState) -> dict[str, float]:
    """Share of each coordinate in what made trials good, largest first; empty where there are too few results.

    Formula: PED-ANOVA: how far the density of a coordinate among the best trials departs from that among all.

    Args:
        state: the run. Trials of an earlier search space, baselines outside the space, and trials without a finite
            objective are left out; a pruned trial counts with its best value.

    Source: Watanabe et al., PED-ANOVA (arXiv 2304.10255), as Optuna has it.
    """
    found = state.spaces.get(state.generation, {}).get("space")
    if found is None:
        return {}
    space = SearchSpace.from_json(found)
    axes = set(space.axes)
    told = [t for t in state.trials.values() if _counts(t, state) and axes <= t.coords.keys()]
    if len(told) < FEWEST_TRIALS or len({t.best_value for t in told}) < 2:
        return {}
    study = optuna.create_study(direction="minimize" if state.direction == "min" else "maximize")
    for trial in told:
        params = {name: trial.coords[name] for name in axes}
        study.add_trial(create_trial(value=trial.best_value, params=params, distributions=space.distributions))
    quantile = max(0.1, 2.0 / len(told))
    shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile))
    return {name: float(share) for name, share in shares.items()}


def _counts(trial: TrialRecord, state: RunState) -> bool:
    ended = trial.state in (TrialState.COMPLETE, TrialState.STOPPED, TrialState.PRUNED)
    return ended and trial.best_value is not None and trial.generation == state.generation
