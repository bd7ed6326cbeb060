"""Seconds to rebuild the record of a search from its log, in a folder and on S3, and to make its tables.

    python -m tests.bench.record_rebuild [--trials 200] [--evaluations 50] [--metrics 60] [--rounds 5] [--record]

On S3 the log stands as an owner that was killed leaves it: merged objects, and up to a thousand small ones. It is read
by a process of its own, so that its CPU seconds are not the server's; the wall seconds wait for that server, which
answers one request after the other in Python.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from search.events import Event, encode, natural
from search.store import RunLog, Store, open_store
from search.tables import history_table, trials_table
from search.tables.history import to_bytes
from tests.bench.results import record
from tests.support.runs import opened
from tests.support.s3 import s3_server

_SMALL = 999


def events(
    trials: int, evaluations: int, metrics: int, rng: random.Random
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A finished search: type and payload of each event."""
    names = ["val/miou", *(f"val/iou/class_{index}" for index in range(metrics - 1))]
    knobs = [f"knob_{index}" for index in range(15)]
    yield "run_opened", opened(metrics=names, space=None)
    for number in range(trials):
        params = {knob: rng.random() for knob in knobs}
        config = {"train": {f"setting_{index}": index / 10 for index in range(60)}}
        yield (
            "asked",
            {"trial": number, "source": "sampled", "params": params, "coords": params, "config": config},
        )
        yield "started", {"trial": number, "attempt": 1, "node": "n", "pid": 1, "device": "cuda:0"}
        for step in range(1, evaluations + 1):
            record = {name: rng.random() for name in names}
            decision = {"action": "continue", "rung": None, "milestone": None, "cutoff": None, "reason": None}
            yield (
                "evaluated",
                {
                    "trial": number,
                    "attempt": 1,
                    "step": step * 500,
                    "time_s": step * 60.0,
                    "objective": record["val/miou"],
                    "record": record,
                    "decision": decision,
                },
            )
        yield "ended", {"trial": number, "attempt": 1, "state": "COMPLETE", "time_s": evaluations * 60.0}
        yield "told", {"trial": number, "state": "complete", "value": 0.5}


def best_of(rounds: int, act: Callable[[], object]) -> dict[str, float]:
    """The fastest of some rounds: wall and CPU seconds."""
    found = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        act()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        "wall_s": round(min(wall for wall, _ in found), 3),
        "cpu_s": round(min(cpu for _, cpu in found), 3),
    }


def rebuild(uri: str, rounds: int) -> dict[str, float]:
    """Reads a run's whole log and folds it, as every command that looks at a run does."""
    return best_of(rounds, lambda: RunLog.open(open_store(uri)))


def elsewhere(uri: str, rounds: int) -> dict[str, float]:
    """The same in a new process."""
    command = [sys.executable, "-m", "tests.bench.record_rebuild", "--read", uri, "--rounds", str(rounds)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def put_as_objects(store: Store, lines: list[bytes]) -> int:
    """Merged objects for all but the last lines, which stand alone; returns how many objects there are."""
    merged = max(len(lines) - _SMALL, 0)
    for first in range(0, merged, 1000):
        store.write_bytes(f"events/{first:012d}.jsonl", b"".join(lines[first : min(first + 1000, merged)]))
    for first in range(merged, len(lines)):
        store.write_bytes(f"events/{first:012d}.jsonl", lines[first])
    return len(store.list("events"))


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in (("trials", 200), ("evaluations", 50), ("metrics", 60), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--read", help="a run: measure only its log")
    parser.add_argument("--record", action="store_true", help="write results.json")
    args = parser.parse_args()
    if args.read:
        print(json.dumps(rebuild(args.read, args.rounds)))
        return
    made = events(args.trials, args.evaluations, args.metrics, random.Random(0))
    lines = [
        encode(Event(seq, 1, "2026-01-01T00:00:00.000000Z", kind, natural(payload)))
        for seq, (kind, payload) in enumerate(made)
    ]
    result: dict[str, Any] = {"events": len(lines), "log_mb": round(sum(map(len, lines)) / 1e6, 1)}
    with tempfile.TemporaryDirectory() as folder, s3_server() as server:
        local = open_store(Path(folder) / "run")
        local.write_bytes("events/000000.jsonl", b"".join(lines))
        result["folder"] = elsewhere(str(Path(folder) / "run"), args.rounds)
        remote = f"{server.uri}/run"
        result["s3_objects"] = put_as_objects(open_store(remote), lines)
        result["s3"] = elsewhere(remote, args.rounds)
        state = RunLog.open(local).state
    result["trials_table"] = best_of(args.rounds, lambda: to_bytes(trials_table(state)))
    result["history_table"] = best_of(args.rounds, lambda: to_bytes(history_table(state)))
    print(json.dumps(result, indent=1))
    if args.record:
        record("record_rebuild", f"python -m tests.bench.record_rebuild --trials {args.trials}", result)


if __name__ == "__main__":
    main()
