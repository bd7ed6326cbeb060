"""What a person sees while one configuration trains: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainable.state import Progress as Where

WATCHED = (
    "loss/total", "loss/sup", "loss/st", "st/pixels_selected", "st/ratio", "lr", "val/miou", "gap",
)  # fmt: skip
LINE_EVERY_S = 15.0


class TrainingBar:
    """Draws the signals that people watch; sees a run's progress about once a second."""

    def __init__(self, console: Console | None = None, objective: str = "val/miou") -> None:
        # What the run goes by is watched whatever it is.
        self._watched = tuple(dict.fromkeys(name.replace("val/miou", objective) for name in WATCHED))
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._known: dict[str, float | None] = {}
        self._line_at = time.monotonic()
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
                TimeRemainingColumn(), TextColumn("{task.fields[signals]}"), console=self._console,
            )  # fmt: skip
            self._task = self._bar.add_task("train", total=None, signals="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        self._console.print(line, soft_wrap=True)

    def __call__(self, progress: Where) -> None:
        """Take notice of where the run is."""
        self._known |= {**progress.signals, **progress.record}
        if progress.message:
            self.say(f"step {progress.step}: {progress.message}")
        if self._bar is not None:
            self._bar.update(
                self._task, completed=progress.step, total=progress.steps, description=progress.phase,
                signals=self.signals(),
            )  # fmt: skip
            return
        now = time.monotonic()
        if progress.record or now - self._line_at >= LINE_EVERY_S:
            self._line_at = now
            self.say(f"step {progress.step}/{progress.steps}: {self.signals()}")

    def signals(self) -> str:
        """The watched signals that are known, in one line."""
        found = ((name, self._known.get(name)) for name in self._watched)
        return "  ".join(f"{name} {value:.4g}" for name, value in found if value is not None)
