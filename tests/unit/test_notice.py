"""SIGTERM announces the end of the machine: what trials may take of the time that is left."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from search.cli import build
from search.control import Control, notice_s
from search.store import open_store


class Desk:
    """A control over one trial, by a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.now, self.said, self.killed, self.flags = 0.0, [], [], []
        self.control = Control(
            open_store(folder), raise_flag=lambda trial, reason: self.flags.append((trial, reason)),
            kill=self.killed.append, running=lambda: {3}, say=self.said.append, clock=lambda: self.now,
        )  # fmt: skip

    def terminated(self) -> None:
        self.control._on_signal(signal.SIGTERM, None)
        self.control.tick()

    def at(self, now: float) -> list[int]:
        self.now = now
        self.control.tick()
        return self.killed


@pytest.mark.fault(
    6,
    how="SIGTERM with notices of 30, 120 and 2.5 s, by an injected clock",
    saw=(
        "trials are told at once; one that has not left after seven tenths of the notice is ended, so "
        "that its record is safe"
    ),
    seam=True,
)
@pytest.mark.parametrize(("given", "notice"), [(None, 30.0), ("120", 120.0), ("2.5", 2.5)])
def test_trials_have_seven_tenths_of_the_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, notice: float
) -> None:
    monkeypatch.delenv("THRESHER_NOTICE_S", raising=False)
    if given is not None:
        monkeypatch.setenv("THRESHER_NOTICE_S", given)
    desk = Desk(tmp_path)
    desk.terminated()
    assert (None, "sigterm") in desk.flags and desk.control.reason == "sigterm"
    assert desk.at(0.69 * notice) == [] and desk.at(0.71 * notice) == [3]


@pytest.mark.parametrize("given", ["soon", "-1", "0", "nan", "inf", ""])
def test_a_notice_that_is_no_number_is_said_and_the_default_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("THRESHER_NOTICE_S", given)
    said: list[Any] = []
    assert notice_s(said.append) == 30.0 and f"but got {given!r}" in said[0]
    desk = Desk(tmp_path)
    desk.terminated()
    assert (None, "sigterm") in desk.flags and desk.at(20.9) == [] and desk.at(21.1) == [3]


def test_the_help_of_a_sweep_says_so() -> None:
    words = " ".join(CliRunner().invoke(build("sweep"), ["sweep", "--help"]).output.split())
    assert "After SIGTERM they have 70 % of THRESHER_NOTICE_S seconds (30 where it is not set)" in words
    assert "143" in words
