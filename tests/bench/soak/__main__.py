"""Kills at random instants, four kinds of process, each on a disk and on an S3 server on loopback.

    python -m tests.bench.soak --kills 1000
    python -m tests.bench.soak --kills 40 --only drivers --record

writers: processes that search and write the record and the tables, with neither Ray nor training.
trainings: a real training with torch, without Ray.
drivers: whole sweeps with Ray, whose training is a formula with real checkpoint files.
searches: whole sweeps with Ray that really train.

"Seconds to resume" run from the start of the next process to the first thing that it acknowledges: an event of a
writer, a report of a training, the event `resumed` of a driver.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.store import open_store
from tests.bench.results import record
from tests.bench.soak.drivers import Drivers
from tests.support import crash
from tests.support.folders import listed_folder
from tests.support.kill_trainings import kill_trainings
from tests.support.kill_writers import kill_writers
from tests.support.runs import unbroken
from tests.support.s3 import S3Server, s3_server
from tests.support.tally import Tally
from tests.support.trainings import Job, Trainings

WRITER_TRIALS = 8
SHARES = {
    ("writers", "disk"): 0.42, ("writers", "s3"): 0.28, ("trainings", "disk"): 0.11, ("trainings", "s3"): 0.05,
    ("drivers", "disk"): 0.07, ("drivers", "s3"): 0.04, ("searches", "disk"): 0.02, ("searches", "s3"): 0.01,
}  # fmt: skip
"""Of all kills; a kind of process whose start is dear gets few."""


@dataclass
class Place:
    """Where a part of the soak works.

    Attributes:
        folder: of this machine. storage: where runs lie. server: the S3 server, where that is one.
    """

    folder: Path
    storage: str
    server: S3Server | None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        names = (name for name in os.environ if name.startswith("AWS_")) if self.server is not None else ()
        return {name: os.environ[name] for name in names}


@contextmanager
def place(where: str) -> Iterator[Place]:
    """An empty place."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thresher-soak-")))
        server = stack.enter_context(s3_server()) if where == "s3" else None
        yield Place(folder, str(folder) if server is None else server.uri, server)


def writers(at: Place, kills: int, rng: random.Random) -> Tally:
    """Processes that search and write."""
    wanted = unbroken(open_store(f"memory://soak-wanted-{at.folder.name}"), WRITER_TRIALS)
    job = crash.Job(
        f"{at.storage}/run", at.folder / "said", tables=at.server is None, environment=at.environment
    )
    return kill_writers(job, kills, wanted, WRITER_TRIALS, rng)


def trainings(at: Place, kills: int, rng: random.Random) -> Tally:
    """A training without Ray."""
    data = at.folder / "data"
    listed_folder(data)

    def job(number: int | str, **changes: Any) -> Job:
        folder = at.folder / f"training-{number}"
        folder.mkdir()
        names = (str(folder / "run"), str(data), f"{data}-cache", str(folder / "said"), str(folder / "out"))
        return Job(*names, train={"steps": 24}, environment=at.environment, **changes)

    server = Trainings()
    try:
        whole = job("whole")
        if server.run(whole) != 0:
            raise RuntimeError(Path(whole.out).read_text())
        uri = "" if at.server is None else f"{at.storage}/run-{{}}"
        return kill_trainings(server, lambda n: job(n, uri=uri.format(n)), kills, whole, rng)
    finally:
        server.close()


def drivers(at: Place, kills: int, rng: random.Random) -> Tally:
    """Sweeps whose training is a formula."""
    with Drivers(at.folder, at.environment) as found:
        return found.soak(at.storage, kills, rng)


def searches(at: Place, kills: int, rng: random.Random) -> Tally:
    """Sweeps that train."""
    with Drivers(at.folder, at.environment, real=True) as found:
        return found.soak(at.storage, kills, rng)


KINDS: dict[str, Callable[[Place, int, random.Random], Tally]] = {
    "writers": writers, "trainings": trainings, "drivers": drivers, "searches": searches,
}  # fmt: skip


def main() -> int:
    """Runs the parts one after the other; 1 if anything was lost, doubled or wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1000, help="of all kinds together")
    names = [*KINDS, *(f"{kind}-{where}" for kind, where in SHARES)]
    parser.add_argument("--only", choices=names, action="append", help="a part; may be given again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="write results.json")
    given = parser.parse_args()
    chosen = {
        part: share for part, share in SHARES.items()
        if not given.only or part[0] in given.only or "-".join(part) in given.only
    }  # fmt: skip
    total = Tally()
    for (kind, where), share in chosen.items():
        kills = max(1, round(given.kills * share / sum(chosen.values())))
        wall, cpu = time.monotonic(), sum(os.times()[:4])
        with place(where) as at:
            tally = KINDS[kind](at, kills, random.Random(f"{given.seed} {kind} {where}"))
        spent = {
            "wall_s": round(time.monotonic() - wall, 1),
            "cpu_s": round(sum(os.times()[:4]) - cpu, 1),
        }
        print(f"{kind} on {where}: {tally.line()} ({spent['wall_s']} s)", flush=True)
        total.add(tally)
        if given.record:
            command = f"python -m tests.bench.soak --kills {kills} --only {kind}-{where} --seed {given.seed}"
            record(f"soak: {kind} on {where}", command, tally.to_json() | spent)
    print(f"together: {total.kills} kills, {total.recorded} results recorded, {total.lost} lost, "
          f"{total.doubled} doubled, {len(total.wrong)} wrong", flush=True)  # fmt: skip
    return int(not total.clean)


if __name__ == "__main__":
    sys.exit(main())
