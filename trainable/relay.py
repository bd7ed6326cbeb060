"""Between a trial and the group of workers that trains it: what each side has said, kept in one small actor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trainable.state import Outcome, Report


@dataclass(frozen=True)
class Member:
    """A worker.

    Attributes:
        host: its machine. pid: its process. actor: by which it is ended also on another machine.
        place: what the group holds of the cluster, by its id; empty where it holds nothing.
    """

    host: str
    pid: int
    actor: Any
    place: str = ""


@dataclass
class Board:
    """What the trial sees of its group.

    Attributes:
        report: waits to be recorded. outcome: how the training ended. beats: by rank, how often it has moved.
        members: by rank. errors: by rank, what the training raised there.
    """

    report: Report | None = None
    outcome: Outcome | None = None
    beats: dict[int, int] = field(default_factory=dict)
    members: dict[int, Member] = field(default_factory=dict)
    errors: dict[int, Exception] = field(default_factory=dict)


class Relay:
    """Carries reports to the trial and the wish to stop to the workers."""

    def __init__(self) -> None:
        self._board = Board()
        self._reason: str | None = None
        self._hung = False

    def join(self, rank: int, member: Member) -> None:
        """A worker is there."""
        self._board.members[rank] = member

    def put_report(self, report: Report) -> None:
        """Rank 0 waits for this to be recorded."""
        self._board.report = report

    def put_outcome(self, outcome: Outcome) -> None:
        """The training has ended."""
        self._board.outcome = outcome

    def put_error(self, rank: int, error: Exception) -> None:
        """The training has raised."""
        self._board.errors[rank] = error

    def board(self) -> Board:
        """Everything that the workers have said."""
        return self._board

    def taken(self) -> None:
        """The report is recorded."""
        self._board.report = None

    def is_taken(self) -> bool:
        """Whether rank 0 may go on."""
        return self._board.report is None

    def ask_to_stop(self, reason: str | None) -> None:
        """Why the group is to stop; the first reason stands."""
        self._reason = self._reason or reason

    def give_up(self) -> None:
        """The group counts as hung."""
        self._hung = True

    def ask(self, rank: int, beats: int) -> tuple[str | None, bool]:
        """Why to stop, and whether the group counts as hung; tells how often the worker has moved."""
        self._board.beats[rank] = beats
        return self._reason, self._hung
