"""What a person sees while a search runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.events import Event
from search.records import RunState, TrialRecord, TrialState

ROWS = 12
_LINE_EVERY_S = 10.0
_DRAW_EVERY_S = 0.5
_LEFT = (TrialState.COMPLETE, TrialState.STOPPED, TrialState.PRUNED, TrialState.DIVERGED, TrialState.FAILED)


class Progress:
    """Draws a run as its events come; may fail without touching the search.

    Args:
        state: the run as it is now.
        total: trials asked for.
        console: where to draw; None = standard output.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        state: Callable[[], RunState],
        total: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state, self._total, self._clock = state, total, clock
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._ascii = not (self._console.encoding or "").lower().startswith("utf")
        self._live: Live | None = None
        self._began, self._drawn, self._line_at = clock(), 0.0, 0.0
        self._lock = threading.RLock()
        self._unseen = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            live = Live(console=self._console, auto_refresh=False, transient=False)
            self._safely(live.start)
            self._live = None if self._unseen else live
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._draw()
            with contextlib.suppress(OSError, SystemExit):
                self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """Prints a line, above the table where there is one; may be called from any thread."""

        def printed() -> None:
            text = line.encode("ascii", "replace").decode() if self._ascii else line
            self._console.print(Text(text), soft_wrap=True)
            if not self._console.is_terminal:
                sys.stdout.flush()

        self._safely(printed)

    def event(self, event: Event) -> None:
        """Takes notice of an event."""
        if event.type == "ended":
            self.say(self._end_line(self._state().trials[event.payload["trial"]]))
        elif event.type == "evaluated" and self._live is None:
            self._evaluation_line(event)

    def tick(self) -> None:
        """Draws again where it is time to."""
        now = self._clock()
        if self._live is not None and now - self._drawn >= _DRAW_EVERY_S:
            self._drawn = now
            self._draw()

    def _evaluation_line(self, event: Event) -> None:
        now = self._clock()
        if now - self._line_at < _LINE_EVERY_S:
            return
        self._line_at = now
        found = event.payload
        value = found.get("objective")
        self.say(
            f"trial {found['trial']} step {found['step']}: {self._objective} "
            f"{'-' if value is None else f'{value:.4f}'} ({self._counts()})"
        )

    def _end_line(self, trial: TrialRecord) -> str:
        why = f" ({trial.stop_reason})" if trial.stop_reason else ""
        value = "no value" if trial.best_value is None else f"best {self._objective} {trial.best_value:.4f}"
        at = "" if trial.best_step is None else f" at step {trial.best_step}"
        return f"trial {trial.number} {trial.state}{why}: {value}{at}; {self._counts()}"

    @property
    def _objective(self) -> str:
        return self._state().objective

    def _counts(self) -> str:
        state = self._state()
        done = len(state.finished)
        best = state.best()
        leader = "" if best is None else f", best so far {best.best_value:.4f} (trial {best.number})"
        return f"{done}/{self._total} trials{leader}"

    def _draw(self) -> None:
        live = self._live
        if live is not None:
            self._safely(lambda: live.update(self._picture(), refresh=True))

    def _safely(self, draw: Callable[[], object]) -> None:
        """Draws, unless nobody can see it any more: a terminal that was closed must not end a search of days."""
        with self._lock:
            if self._unseen:
                return
            try:
                draw()
            except (OSError, SystemExit):  # rich leaves the program where the reader of a pipe has left.
                self._unseen = True

    def _picture(self) -> RenderableType:
        state = self._state()
        table = Table(box=box.ASCII if self._ascii else box.SIMPLE_HEAD, pad_edge=False)
        for name in ("trial", "source", "state", "step", self._objective, "best", "at step"):
            table.add_column(name, justify="left" if name in ("source", "state") else "right")
        for trial in _shown(state):
            last = trial.evaluations[-1].objective if trial.evaluations else None
            table.add_row(
                str(trial.number), trial.source, str(trial.state), str(trial.step), _number(last),
                _number(trial.best_value), "-" if trial.best_step is None else str(trial.best_step),
            )  # fmt: skip
        minutes, seconds = divmod(int(self._clock() - self._began), 60)
        states = [trial.state for trial in state.trials.values()]
        parts = [
            f"{states.count(s)} {s}" for s in (TrialState.RUNNING, TrialState.PAUSED, *_LEFT) if s in states
        ]
        return Group(table, Text(f"{minutes}:{seconds:02d}  {self._counts()}  {', '.join(parts)}"))


def _shown(state: RunState) -> list[TrialRecord]:
    """The trials that run, then the best of the others."""
    running = [trial for trial in state.trials.values() if trial.state is TrialState.RUNNING]
    others = [trial for trial in state.ranked() if trial.state is not TrialState.RUNNING]
    return [*running[:ROWS], *others[: max(0, ROWS - len(running))]]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
