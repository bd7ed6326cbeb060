"""The publisher beside the driver: a process of its own, which may be slow or die; people are told once of either."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from search.records import RunState
from search.schema import WandbConfig
from search.trial_folder import private_folder
from search.wandb_key import Mode, mode_of

NOTICE = "notice: "
"""Begins the lines of the publisher's log that the driver shows."""

LOG_NAME = "publisher.log"


def local_folder(run: str) -> Path:
    """Where wandb keeps its own files: in a local run's folder, else in a temporary one of its own."""
    if "://" in run:
        return Path(tempfile.gettempdir()) / f"thresher-wandb-{hashlib.sha256(run.encode()).hexdigest()[:12]}"
    return Path(run) / "wandb"


def own_folder(run: str) -> Path:
    """That folder, made where it is not there yet.

    Raises:
        OSError: it cannot be made; or it lies where everybody may write, and somebody else has made it.
    """
    folder = local_folder(run)
    if "://" not in run:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    return private_folder(folder)


class Tracking:
    """Starts the publisher beside the driver, and leaves it to itself; what people should know of it is said once.

    Args:
        run: path or URI. config: the sweep's wandb section. say: takes a line for the user, once the search goes on.
    """

    def __init__(self, run: str, config: WandbConfig, say: Callable[[str], object] = print) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._say, self._run, self._log, self._read = say, run, local_folder(run) / LOG_NAME, 0
        self._warning: str | None = None
        mode = mode_of(config)
        if mode == "disabled":
            return
        try:
            self._start(config, mode)
        except OSError as error:
            self._warning = f"cannot write {error.filename or self._log.parent} ({error.strerror or error})"

    def _start(self, config: WandbConfig, mode: Mode) -> None:
        own_folder(self._run)
        with self._log.open("ab") as output:
            self._read = output.tell()
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "search.tracking", self._run, "--config", config.model_dump_json(),
                    "--mode", mode,
                ],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def update(self, state: RunState) -> None:
        """Pass on the publisher's notices; it reads the record by itself."""
        if self._process is not None:
            self._pass_on()
            if self._process.poll():
                self._warning = f"has ended with exit code {self._process.returncode}; see {self._log}"
                self._process = None
        if self._warning is not None:
            self._say(
                f"wandb: its publisher {self._warning}: this run is not drawn any further; mend that, and "
                f"`thresher wandb-sync {self._run}` draws the rest"
            )
            self._warning = None

    def _pass_on(self) -> None:
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(self._read)
            whole = log.read().rpartition(b"\n")[0]
            self._read += len(whole) + 1 if whole else 0
            for line in whole.decode("utf-8", "replace").splitlines():
                if line.startswith(NOTICE):
                    self._say(line.removeprefix(NOTICE))

    def close(self, state: RunState) -> None:
        """The same; the publisher sees that the run is closed, draws the rest and ends."""
        self.update(state)
