"""What is tried next: Optuna by ask and tell, as a function of the run's record.

Every suggestion comes from a fresh sampler, seeded from (sweep seed, trial number), on a study made of the trials
before it in number order. So it can be computed again, in another process, from the log up to that point alone.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import optuna
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from search.events import Event, natural
from search.known import Known, known_trials, seen
from search.records import RunState, TrialRecord
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
        params, sampler = self.space.params(baseline.config), dict[str, Any](name="baseline")
        if baseline.also:
            sampler["also"] = list(baseline.also)
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
