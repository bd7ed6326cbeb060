"""Who looks on while a search runs: what is derived from the record as it grows."""

from __future__ import annotations

from search.keeping import Keeper
from search.patient_log import PatientLog
from search.publisher_process import Tracking
from search.running import Watcher
from search.schema import SweepConfig
from search.tables import TableWriter


def watchers_of(log: PatientLog, config: SweepConfig) -> tuple[Watcher, ...]:
    """The watchers of a sitting."""
    tracking = Tracking(log.store.uri, config.tracking.wandb, lambda line: log.say(line))
    return Keeper(log, config.search.keep), TableWriter(log.store), tracking
