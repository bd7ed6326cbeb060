"""The run's flags: one named actor, without a CPU of its own, that tells trials to leave.

Nothing ends a trial from outside as long as it listens. The driver raises a flag; the trial asks after every report
and once a second, finishes its step, writes its checkpoint and returns. The same actor hears whether a trial still
moves, and keeps the last words of a process that is about to end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ACTOR_NAME = "flags"
EVERY_TRIAL = -1


@dataclass
class _Pulse:
    attempt: int
    beats: int
    since: float
    limit_s: float


class Flags:
    """What trials are told, and what is heard of them. Trials go by their number.

    >>> flags = Flags()
    >>> flags.raise_flag(3, "prune")
    >>> flags.ask(3, 1, 10, 60.0), flags.ask(4, 1, 10, 60.0)
    ('prune', None)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._flags: dict[int, str] = {}
        self._pulses: dict[int, _Pulse] = {}
        self._words: dict[tuple[int, int], str] = {}
        self._places: dict[int, str] = {}

    def raise_flag(self, trial: int, reason: str) -> None:
        """Tells a trial, or with `EVERY_TRIAL` all of them, to leave; the first reason stands."""
        self._flags.setdefault(trial, reason)

    def ask(self, trial: int, attempt: int, beats: int, limit_s: float) -> str | None:
        """Why the trial should leave, or None; a trial's own flag comes before everybody's.

        Args:
            trial: who asks.
            attempt: which start of it.
            beats: grows whenever the training moves.
            limit_s: after so many seconds without growth the trial counts as hung.
        """
        pulse = self._pulses.get(trial)
        if pulse is None or (pulse.attempt, pulse.beats) != (attempt, beats):
            self._pulses[trial] = _Pulse(attempt, beats, self._clock(), limit_s)
        else:
            pulse.limit_s = limit_s
        return self._flags.get(trial) or self._flags.get(EVERY_TRIAL)

    def silent(self, margin_s: float) -> list[int]:
        """Trials that have not moved for their limit and a margin."""
        now = self._clock()
        return [n for n, pulse in self._pulses.items() if now - pulse.since > pulse.limit_s + margin_s]

    def leave_words(self, trial: int, attempt: int, words: str) -> None:
        """Keeps what a process says before it ends itself."""
        self._words[trial, attempt] = words

    def last_words(self, trial: int, attempt: int) -> str | None:
        """What that attempt left."""
        return self._words.get((trial, attempt))

    def hold(self, trial: int, place: str) -> None:
        """Notes what a trial's group of workers holds of the cluster, by its id."""
        self._places[trial] = place

    def held(self, trial: int) -> str | None:
        """What a trial's group held, once: whoever asks gives it back."""
        return self._places.pop(trial, None)

    def forget(self, trial: int) -> None:
        """A trial has left: its flag and its pulse no longer count."""
        self._flags.pop(trial, None)
        self._pulses.pop(trial, None)


def start_flags(namespace: str) -> Any:
    """Starts the actor beside the driver, and returns its handle; it ends with the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(Flags)
    actor = remote.options(
        name=ACTOR_NAME,
        namespace=namespace,
        num_cpus=0,
        scheduling_strategy=here,
        max_restarts=-1,
        max_task_retries=-1,
    ).remote()
    ray.get(actor.last_words.remote(0, 0), timeout=120)
    return actor


def give_back(place: str) -> None:
    """Ends what still runs of a group of workers, and frees what it held; what is free already stays so.

    Ray does so by itself only where the process that started the group ended in order, or where its dashboard runs.
    """
    if place:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(place))))


def find_flags(namespace: str) -> Any:
    """The handle of a run's actor, in a trial.

    Raises:
        ValueError: there is none: the driver is gone.
    """
    return ray.get_actor(ACTOR_NAME, namespace=namespace)
