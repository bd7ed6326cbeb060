"""What Tune calls: thin classes that hand everything to the driver, the searcher and the scheduler.

Tune pickles what it is given into a file that nobody reads; these classes pickle to nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from search import messages
from search.driver import Driver


def keep_secrets_home() -> None:
    """Keeps Tune from copying the driver's credentials to its trials, on the way to which Ray writes them to a log.

    Trials of a Ray of our own inherit the environment; the nodes of a cluster have access of their own, or none.
    """
    known: set[str] = class_cache.ENV_VARS_TO_PROPAGATE
    known -= {name for name in known if name.startswith("AWS_")}


class _NotPickled:
    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class AskHook(_NotPickled, Searcher):
    """Suggests attempts.

    Args:
        inner: decides which trial is next, and records that.
        driver: where the run stands.
        data: the data section as it is now.
    """

    def __init__(self, inner: Searcher, driver: Driver, data: Mapping[str, Any]) -> None:
        super().__init__()
        self._inner, self._driver, self._data = inner, driver, dict(data)

    def suggest(self, trial_id: str) -> Any:
        """The next attempt, None while there is none yet, FINISHED when there will be none."""
        self._driver.raise_kept()
        control = self._driver.control
        if control is not None and control.reason is not None:
            return Searcher.FINISHED
        if self._driver.on_hold():
            return None
        found = self._inner.suggest(trial_id)
        if not isinstance(found, dict):
            return found
        # Where the data lie may have changed since the trial was asked for; what they are has not.
        config = {**found["config"], "data": self._data}
        return {**found, "config": json.dumps(config)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler has recorded it."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """An attempt is over, and recorded: the sampler hears of it."""
        try:
            self._inner.on_trial_complete(trial_id, result=result, error=error)
        except Exception as problem:  # Tune swallows it here: kept, and raised at the next step.
            self._driver.keep(problem)
            raise

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the log is what there is to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see `save`."""


class DecideHook(_NotPickled, TrialScheduler):
    """Records what trials say, and lets the scheduler decide; always lets Tune go on.

    Args:
        inner: records an evaluation with its decision, and raises the flag where a trial is to leave.
        driver: records everything else.
    """

    def __init__(self, inner: TrialScheduler, driver: Driver) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inner, self._driver = inner, driver

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Tune has taken up an attempt."""
        self._driver.added(trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """A message of a trial."""
        kind = result.get("kind")
        try:
            if kind == messages.STARTED:
                self._driver.started(result)
            elif kind == messages.EVALUATED:
                self._inner.on_trial_result(tune_controller, trial, result)
            elif kind in messages.LAST:
                self._driver.settle(result)
        except Exception as problem:  # Tune would turn it into text: kept whole, and raised at the next step.
            self._driver.keep(problem)
            raise
        return str(TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """An attempt's process died."""
        try:
            self._driver.settle_death(trial)
        except Exception as problem:  # As above.
            self._driver.keep(problem)
            raise
        self._driver.removed(trial)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """An attempt has returned; it has said its last word, unless it lost the driver on the way."""
        if result.get("kind") not in messages.LAST:
            self.on_trial_error(tune_controller, trial)
            return
        self._driver.removed(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """An attempt was dropped before it began."""
        self._driver.removed(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The first that waits; none once the run is to end: those are dropped."""
        control = self._driver.control
        waiting = [trial for trial in tune_controller.get_live_trials() if trial.status == Trial.PENDING]
        if control is not None and control.reason is not None:
            for trial in waiting:
                if trial.temporary_state.ray_actor is None:
                    tune_controller.stop_trial(trial)
            return None
        return min(waiting, key=lambda trial: int(trial.config["trial"]), default=None)

    def debug_string(self) -> str:
        """Nothing: progress is drawn elsewhere."""
        return ""


class StepHook(_NotPickled, TrialProgressCallback):
    """Called at every step of Tune; takes the place of the callback that prints Tune's own lines.

    Args:
        driver: whose kept exception is raised.
        each_step: draws, writes tables.
    """

    def __init__(self, driver: Driver, each_step: Callable[[], None]) -> None:
        super().__init__()
        self._driver, self._each_step = driver, each_step

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Before Tune looks for news."""
        self._driver.raise_kept()
        self._each_step()

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        """Nothing: the scheduler has recorded it."""

    def on_trial_error(self, *args: Any, **info: Any) -> None:
        """Nothing: the driver has said it."""

    def on_trial_complete(self, *args: Any, **info: Any) -> None:
        """Nothing: the driver has said it."""
