"""What Tune runs next: trials that must go on, then new ones, each recorded before Tune hears of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray.tune.search import Searcher

from search.records import RunState, TrialRecord, repair
from search.scheduler import Log
from search.suggestion import Suggestion


class Asks(Protocol):
    """What suggests trials."""

    def ask(self, state: RunState, number: int) -> Suggestion:
        """The trial of a number, from what the record says of the trials before it."""


class ThresherSearcher(Searcher):
    """Hands out trials: first those that must go on, then new ones, until there are enough.

    Args:
        log: the run's record.
        asker: suggests new trials.
        total: trials asked for, asked anew each time.
        configure: the full run configuration of a suggestion, as JSON.
        bracket: the rung ladder of a trial's number.
        seed: what a trial trains with where its configuration does not say.
        may_start: whether a new trial may start, for a search by budget.
    """

    def __init__(
        self,
        log: Log,
        asker: Asks,
        *,
        total: Callable[[], int],
        configure: Callable[[Suggestion], Mapping[str, Any]],
        bracket: Callable[[int], int] = lambda number: 0,
        seed: int = 0,
        may_start: Callable[[RunState], bool] = lambda state: True,
    ) -> None:
        super().__init__()
        self._log, self._asker, self._total, self._configure = log, asker, total, configure
        self._bracket, self._seed, self._may_start = bracket, seed, may_start
        self._live: dict[str, int] = {}
        self._kept: BaseException | None = None
        self._settled = False

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Tune's own search space is not used."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next attempt `{trial, attempt, config}`; None while there is none; FINISHED when there will be none."""
        self.raise_kept()
        if not self._settled:
            self._settle(None)
            self._settled = True
        state, live = self._log.state, set(self._live.values())
        waiting = [trial for trial in state.pending() if trial.number not in live]
        if waiting:
            trial = waiting[0]
        elif state.next_number < self._total() and self._may_start(state):
            trial = self._new(state)
        else:
            # FINISHED is final for Tune, and a trial that runs may yet have to be started again.
            return None if live else Searcher.FINISHED
        self._live[trial_id] = trial.number
        return {"trial": trial.number, "attempt": trial.attempts + 1, "config": trial.config}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """An attempt is over; where its trial has ended, the sampler is told. Tune swallows what is raised here."""
        number = self._live.pop(trial_id, None)
        if number is None:
            return
        try:
            self._settle(number)
        except Exception as problem:  # Kept, because Tune only logs it; raised at the next step.
            self._kept = self._kept or problem
            raise

    def raise_kept(self) -> None:
        """Raises what a hook raised before, where Tune has swallowed it."""
        if self._kept is not None:
            raise self._kept

    def _new(self, state: RunState) -> TrialRecord:
        suggestion = self._asker.ask(state, state.next_number)
        number, config = suggestion.number, self._configure(suggestion)
        self._log.append(
            "asked",
            **suggestion.payload(),
            generation=state.generation,
            bracket=self._bracket(number),
            config=config,
            seed=config.get("seed", self._seed),
        )
        return self._log.state.trials[number]

    def _settle(self, number: int | None) -> None:
        """Writes the `ended` that a crash ate, and the `told` that follows every `ended`."""
        for event_type, payload in repair(self._log.state):
            if number is None or payload["trial"] == number:
                self._log.append(event_type, **payload)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the log is what there is to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see `save`."""
