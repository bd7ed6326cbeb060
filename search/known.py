"""What the sampler is shown of a run: which trials, where they lie, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from search.records import RunState, TrialRecord, TrialState, told_payload

ALL_SEEN = 2_000
BEST_SEEN, NEWEST_SEEN = 500, 1_500


def startup_trials(trials: int) -> int:
    """How many sampled trials spread over the space before the sampler learns: a quarter, from 4 to 10.

    Args:
        trials: what the search was opened with; a search that is extended later keeps its start.

    >>> startup_trials(12), startup_trials(32), startup_trials(500)
    (4, 8, 10)
    """
    return min(10, max(4, trials // 4))


@dataclass(frozen=True)
class Known:
    """What the sampler sees of a trial.

    Attributes:
        number: ours.
        coords: in the space that is searched now.
        said: `complete`, `pruned` or `fail`; None while it runs.
        value: best objective of a complete one.
        rungs: of a pruned one (milestone, best objective so far there), rising.
    """

    number: int
    coords: Mapping[str, float]
    said: str | None = None
    value: float | None = None
    rungs: tuple[tuple[int, float], ...] = ()


def known_trials(
    state: RunState, number: int, coords_of: Callable[[RunState, TrialRecord], Mapping[str, float] | None]
) -> list[Known]:
    """What the record says of the trials before a number, in number order.

    Args:
        state: the run.
        number: of the trial that is asked for.
        coords_of: a trial's coordinates in the space of this generation; None where it has none.
    """
    rungs: dict[int, dict[int, float]] = {}
    for (_, _, milestone), values in state.rungs.items():
        for member, value in values.items():
            if value is not None:
                rungs.setdefault(member, {})[milestone] = value
    found = []
    for trial in state.trials.values():
        coords = coords_of(state, trial) if trial.number < number else None
        if coords is not None:
            found.append(_known(trial, coords, rungs.get(trial.number, {})))
    return found


def _known(trial: TrialRecord, coords: Mapping[str, float], rungs: Mapping[int, float]) -> Known:
    said, value = trial.told_state, trial.told_value
    if said == "skip":
        # An earlier space could not represent it; this one can.
        told = told_payload(replace(trial, coords=dict(coords)))
        said, value = str(told["state"]), told["value"]
    if said == "complete":
        return Known(trial.number, coords, said, value)
    if said == "pruned" and trial.state is not TrialState.DIVERGED:
        return Known(trial.number, coords, said, None, tuple(sorted(rungs.items())))
    return Known(trial.number, coords, said)


def seen(known: Sequence[Known], direction: str) -> list[Known]:
    """The trials that the sampler is shown: all of up to 2,000 ended ones, else the best 500 and the newest 1,500.

    Args:
        known: in number order.
        direction: `max` or `min`.
    """
    ended = [one for one in known if one.said is not None]
    if len(ended) <= ALL_SEEN:
        return list(known)
    sign = 1.0 if direction == "min" else -1.0

    def rank(one: Known) -> tuple[int, float, float]:
        """As TPE ranks them: complete ones by value, then pruned ones by last rung and value there."""
        if one.said == "complete" and one.value is not None:
            return 0, 0.0, sign * one.value
        if one.rungs:
            return 1, -one.rungs[-1][0], sign * one.rungs[-1][1]
        return (2 if one.said == "pruned" else 3), 0.0, 0.0

    newest = {one.number for one in ended[-NEWEST_SEEN:]}
    older = [one for one in ended if one.number not in newest]
    shown = newest | {one.number for one in sorted(older, key=rank)[:BEST_SEEN]}
    return [one for one in known if one.said is None or one.number in shown]
