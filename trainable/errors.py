"""The error tree: what went wrong, where, what must hold, what was given and what to do.

A `ConfigError` or `DataError` is the user's to mend: commands print it without a traceback and exit 2.
Every class here survives pickling, because a trial raises in one process and is read in another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing wrong with an input.

    Attributes:
        where: file:line:key, a file name, or a dotted key.
        message: what must hold, what was given, and what to do.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class ThresherError(Exception):
    """Base of every error that thresher raises on purpose.

    Attributes:
        exit_code: what a command returns when it ends with this error.
    """

    exit_code = 1


class FaultsError(ThresherError):
    """Several faults of one input, reported together.

    Args:
        faults: the faults, or one message.

    >>> str(ConfigError([Fault("sweep.yaml:3:train.steps", "steps must be at least 1, but got steps=0")]))
    'sweep.yaml:3:train.steps: steps must be at least 1, but got steps=0'
    """

    exit_code = 2

    def __init__(self, faults: Iterable[Fault] | str) -> None:
        found = (Fault("", faults),) if isinstance(faults, str) else tuple(faults)
        super().__init__(found)
        self.faults = found

    def __str__(self) -> str:
        return "\n".join(str(fault) for fault in self.faults)


class ConfigError(FaultsError):
    """A sweep file, a configuration, an override or a command's argument is wrong."""


class DataError(FaultsError):
    """The data cannot be used as they stand: a leak, an unknown color, an unreadable file."""


class StoreError(ThresherError):
    """The run's record cannot be read or written."""


class RunExistsError(StoreError):
    """A new run was to begin where one is already."""

    exit_code = 2


class StoreFullError(StoreError):
    """The storage has no room left; what was written before is whole."""


class StoreAwayError(StoreError):
    """The storage does not answer, after as many tries as are reasonable; the same call may be made again."""


class LeaseHeldError(StoreError):
    """Another process owns the run."""

    exit_code = 2


class LeaseLostError(StoreError):
    """This process owned the run and no longer does: it must stop writing."""


class SchemaError(StoreError):
    """The record was written by a newer version."""

    exit_code = 2


class CheckpointError(ThresherError):
    """A checkpoint cannot be used: damaged, or of another network or number of classes."""


class WorkerLost(ThresherError):
    """A process of a group that trains together is gone; the rest was ended."""


class TrainingHung(ThresherError):
    """A group of processes made no step for too long and was ended.

    Args:
        message: starts with `hung`, as the last words of a single process do.
    """


class WeightsUnavailable(ConfigError):
    """Pretrained weights were asked for and cannot be had."""


class TrainingDiverged(ThresherError):
    """The loss was not finite for too long.

    Args:
        message: step, learning rate and parts of the loss.
    """
