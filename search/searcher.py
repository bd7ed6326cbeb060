"""What is tried next: Optuna by ask and tell, as a function of the run's record.

Every suggestion comes from a fresh sampler, seeded from (sweep seed, trial number), on a study made of the trials
before it in number order. So it can be computed again, in another process, from the log up to that point alone.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import optuna
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial
from ray.tune.search import Searcher

from search.events import Event, natural
from search.known import Known, known_trials, seen
from search.records import RunState, TrialRecord, repair
from search.scheduler import Log
from search.suggestion import SAMPLED, Baseline, Suggestion, seed_of, spans
from spaces.space import SearchSpace

SAMPLERS = ("tpe", "random")
LEAST_TOLD = 4
"""With fewer results than this there is nothing to learn from."""
_STATES = {"complete": OptunaState.COMPLETE, "pruned": OptunaState.PRUNED, "fail": OptunaState.FAIL}

logging.getLogger("optuna").setLevel(logging.WARNING)


class Asker:
    """Suggests trials from a run's record.

    Args:
        space: what is searched.
        seed: the sweep's.
        base: the full configuration that sampled values are put on, nested or flat.
        baselines: come first, in this order.
        direction: `max` or `min`.
        sampler: one of `SAMPLERS`.
        startup: sampled trials that spread over the space before the sampler learns (see `startup_trials`).
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        base: Mapping[str, Any],
        baselines: Sequence[Baseline] = (),
        direction: str = "max",
        sampler: str = "tpe",
        startup: int = 10,
    ) -> None:
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, but got {sampler=}")
        self.space, self.seed, self.baselines = space, seed, tuple(baselines)
        self.direction, self._base, self._sampler, self._startup = direction, base, sampler, startup
        self._study = _Study(space, direction)
        self._found: dict[int, Mapping[str, float] | None] = {}

    def ask(self, state: RunState, number: int) -> Suggestion:
        """The trial of a number, from what the record says of the trials before it.

        Args:
            state: the run; trials from `number` on are left aside.
            number: of the trial.
        """
        if number < len(self.baselines):
            return self._baseline(number)
        seed = seed_of(self.seed, number)
        index = number - len(self.baselines)
        known: list[Known] = []
        if self._sampler == "random":
            name, coords = "random", self._random(seed)
        elif index < self._startup:
            name, coords = "startup", self._spread(index)
        else:
            known = seen(known_trials(state, number, self.coords_of), self.direction)
            learned = [one for one in known if one.said in ("complete", "pruned")]
            if len(learned) < LEAST_TOLD:
                name, coords = "random", self._random(seed)
            else:
                name, coords = "tpe", self._study.ask(known, number, seed)
        sampler = {
            "name": name,
            "seed": seed,
            "told": spans(one.number for one in known if one.said is not None),
            "running": spans(one.number for one in known if one.said is None),
        }
        return Suggestion(number, SAMPLED, self.space.natural(coords), coords, sampler)

    def coords_of(self, state: RunState, trial: TrialRecord) -> Mapping[str, float] | None:
        """A trial's coordinates in the space of this generation; None where it has none."""
        if trial.generation == state.generation:
            return trial.coords or None
        if trial.number not in self._found:
            self._found[trial.number] = self.space.represent(_recipe_config(trial.config), self._base)
        return self._found[trial.number]

    def incompatible(self, state: RunState) -> list[int]:
        """Trials of the run that this space cannot represent: a new generation's sampler does not see them."""
        ahead = replace(state, generation=state.generation + 1)
        return [trial.number for trial in state.trials.values() if self.coords_of(ahead, trial) is None]

    def _baseline(self, number: int) -> Suggestion:
        baseline = self.baselines[number]
        coords = self.space.represent(baseline.config, self._base)
        params, sampler = self.space.params(baseline.config), {"name": "baseline"}
        return Suggestion(number, baseline.source, params, coords, sampler, baseline.config)

    def _random(self, seed: int) -> dict[str, float]:
        draw = random.Random(seed)
        return self.space.at([draw.random() for _ in self.space.axes])

    def _spread(self, index: int) -> dict[str, float]:
        """Latin hypercube: on every axis each of the start-up trials has a stretch of its own."""
        shares = []
        for name in self.space.axes:
            draw = random.Random(seed_of(self.seed, "startup", name))
            places = sorted((draw.random(), place) for place in range(self._startup))
            within = random.Random(seed_of(self.seed, "startup", name, index)).random()
            shares.append((places[index][1] + within) / self._startup)
        return self.space.at(shares)


def _recipe_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe's part of a run's configuration."""
    found: Mapping[str, Any] = config.get("train", config)
    return found


class _Study:
    """An Optuna study of known trials, in number order; kept from ask to ask as long as it only grows.

    What it suggests is the same as from a study made anew, which is only slower.
    """

    def __init__(self, space: SearchSpace, direction: str) -> None:
        self._space = space
        self._direction: Literal["minimize", "maximize"] = "minimize" if direction == "min" else "maximize"
        self._rows: list[Known] = []
        self._renew()

    def ask(self, known: Sequence[Known], number: int, seed: int) -> dict[str, float]:
        self._update(known)
        self._study.sampler = TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=0)
        drawn = self._study.ask(self._space.distributions).params
        coords = {name: drawn[name] for name in self._space.axes}
        # The study now has the asked trial as a running one, which it is as soon as it is recorded.
        self._rows.append(Known(number, coords))
        return coords

    def _renew(self) -> None:
        self._rows = []
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(storage=self._storage, direction=self._direction)
        self._id = self._storage.get_study_id_from_name(self._study.study_name)

    def _update(self, known: Sequence[Known]) -> None:
        if len(known) < len(self._rows) or not all(map(_follows, self._rows, known)):
            self._renew()
        for place, (row, one) in enumerate(zip(self._rows, known, strict=False)):
            if row != one:
                self._end(place, one)
        for one in known[len(self._rows) :]:
            self._study.add_trial(
                create_trial(
                    state=OptunaState.RUNNING if one.said is None else _STATES[one.said],
                    value=one.value,
                    params=dict(one.coords),
                    distributions=self._space.distributions,
                    intermediate_values=dict(one.rungs),
                )
            )
        self._rows = list(known)

    def _end(self, place: int, one: Known) -> None:
        trial = self._storage.get_trial_id_from_study_id_trial_number(self._id, place)
        for milestone, value in one.rungs:
            self._storage.set_trial_intermediate_value(trial, milestone, value)
        values = None if one.value is None else [one.value]
        self._storage.set_trial_state_values(trial, _STATES[str(one.said)], values)


def _follows(row: Known, now: Known) -> bool:
    """Whether a trial of the study is still the same, or has only ended since."""
    same_trial = row.number == now.number and dict(row.coords) == dict(now.coords)
    return same_trial and (row == now or (row.said is None and now.said is not None))


def replay(events: Iterable[Event], asker_of: Callable[[RunState], Asker]) -> list[str]:
    """Computes every suggestion of a log again, from the log before it; returns what differs, [] when nothing does.

    Args:
        events: a whole log.
        asker_of: the asker of a run's generation; may return the same one while the generation stays.
    """
    state, wrong = RunState(), []
    for event in events:
        if event.type == "asked":
            number = event.payload["trial"]
            expected = natural(asker_of(state).ask(state, number).payload())
            wrong += [
                f"trial {number}: {key} must be {value!r}, but got {event.payload.get(key)!r}"
                for key, value in expected.items()
                if event.payload.get(key) != value
            ]
        state.apply(event)
    return wrong


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
