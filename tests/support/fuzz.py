"""A command on input that nobody would write: how it ends, what it says, and what it changes."""

from __future__ import annotations

import contextlib
import io
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from search.cli import main

LIMIT_S = 60.0


class Hung(BaseException):
    """A command took too long."""


class ReachedRay(BaseException):
    """A command got as far as starting Ray."""


@dataclass(frozen=True)
class Answer:
    """How a command ended.

    Attributes:
        code: its exit code; None where it would have started Ray. text: what it said.
    """

    code: int | None
    text: str


@contextlib.contextmanager
def no_ray(*args: Any, **options: Any) -> Iterator[None]:
    """Stands for the start of Ray."""
    raise ReachedRay
    yield


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Ends the block by an error when it takes too long."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hung

    handler = signal.signal(signal.SIGALRM, ring)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, handler)


def command(*arguments: str) -> Answer:
    """Runs a command in this process; an exception that a user would see as a traceback is raised."""
    said = io.StringIO()
    code: int | None = None
    streams = contextlib.redirect_stdout(said), contextlib.redirect_stderr(said)
    with streams[0], streams[1], limited(LIMIT_S), contextlib.suppress(ReachedRay):
        code = main(arguments)
    text = said.getvalue()
    assert code in (None, 0, 1, 2, 3), (arguments, code, text)
    assert "Traceback" not in text, text
    if code == 2:
        assert text.strip(), "a refusal must say why"
    return Answer(code, text)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file with its content, and every folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
