"""Which checkpoints stay on disk: those of trials that go on, and the best ones of the leaders."""

from __future__ import annotations

import logging
import re

from search.patient_log import PatientLog
from search.records import RunState, TrialRecord, TrialState
from search.schema import KeepConfig
from trainable.errors import StoreError

LAST, BEST = "last", "best"
_LAST_FILE = re.compile(r"checkpoints/(last|previous)\.[a-z]+$")
_BEST_FILE = re.compile(r"checkpoints/best[^/]*$")

_logger = logging.getLogger(__name__)


def to_delete(state: RunState, keep: KeepConfig) -> list[tuple[int, str]]:
    """What no longer has to be kept, as (trial, `last` or `best`), in number order.

    A trial that may still go on keeps everything. A failed one keeps its last checkpoint, because `resume
    --retry-failed` goes on from it; its best counts among the leaders as any other's.

    Args:
        state: the run.
        keep: what the sweep says.
    """
    ended = state.finished
    leaders = {trial.number for trial in [t for t in state.ranked() if t.ended][: keep.best]}
    found = []
    for trial in ended:
        if keep.last == "until_end" and trial.state is not TrialState.FAILED and LAST not in trial.deleted:
            found.append((trial.number, LAST))
        if trial.number not in leaders and BEST not in trial.deleted and _may_lose_best(trial):
            found.append((trial.number, BEST))
    return found


def _may_lose_best(trial: TrialRecord) -> bool:
    return trial.state is not TrialState.FAILED


class Keeper:
    """Deletes checkpoints as trials end; every deletion is an event.

    Args:
        log: the run.
        keep: what the sweep says.
    """

    def __init__(self, log: PatientLog, keep: KeepConfig) -> None:
        self._log, self._keep = log, keep
        self._ended = -1

    def update(self, state: RunState) -> None:
        """Deletes what the trials that ended since made superfluous."""
        ended = sum(trial.ended for trial in state.trials.values())
        if ended == self._ended:
            return
        self._ended = ended
        for number, what in to_delete(state, self._keep):
            self._delete(number, what)

    def close(self, state: RunState) -> None:
        """As at every step."""
        self._ended = -1
        self.update(state)

    def _delete(self, number: int, what: str) -> None:
        pattern = _LAST_FILE if what == LAST else _BEST_FILE
        # Recorded first: a crash between the two leaves a file too many, never an event that lies about one gone.
        self._log.append("deleted", trial=number, what=what, reason="search.keep")
        store = self._log.store
        try:
            for name in store.list(f"trials/{number}"):
                if pattern.search(name):
                    store.delete(name)
        except StoreError as error:
            # A file too many costs room and nothing else.
            _logger.warning("trial %d: its %s checkpoint could not be deleted: %s", number, what, error)
