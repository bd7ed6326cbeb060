"""Kills at instants that nobody chose, of processes that search and write a record, without Ray or training."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess

from search.records import RunState, fold
from search.store import open_store
from tests.support import crash
from tests.support.runs import essence
from tests.support.tally import Tally


def kill_writers(job: crash.Job, kills: int, wanted: RunState, trials: int, rng: random.Random) -> Tally:
    """Kills, again and again, whoever works on the run; a search that gets done is followed by a new one.

    Args:
        job: what the processes do. kills: how often. wanted: an unbroken search of as many trials. rng: the instants.
    """
    tally, known, turn, searches = Tally(), dict[int, int](), 0, 0
    while tally.kills < kills:
        uri = f"{job.uri}-{searches}"
        this = replace(job, uri=uri, total=trials, said=job.said.with_name(f"said-{turn}"))
        begun = time.monotonic()
        process = crash.start(this)
        first = _let_it_work(process, this, rng)
        if first is not None and known:
            tally.resume_s.append(first - begun)
        turn += 1
        if process.exitcode is None:
            process.kill()
            process.join()
            tally.kills += 1
        if _count(tally, known, this, wanted):
            tally.recorded += len(known)
            searches, known = searches + 1, {}
    last = replace(job, uri=f"{job.uri}-{searches}", total=trials, said=job.said.with_name("said-last"))
    process = crash.start(last)
    process.join(120)
    if process.exitcode != 0 or not _count(tally, known, last, wanted):
        tally.wrong.append(f"{last.uri}: did not come to its end (exit code {process.exitcode})")
    tally.recorded += len(known)
    return tally


def _count(tally: Tally, known: dict[int, int], job: crash.Job, wanted: RunState) -> bool:
    """Compares the log with all that any process has ever acknowledged; returns whether the search is done."""
    lines = crash.acknowledged(job)
    durable = [index for index, line in enumerate(lines) if line[2]]
    known.update({seq: crc for seq, crc, _ in lines[: durable[-1] + 1]} if durable else {})
    begun = time.monotonic()
    events = list(open_store(job.uri).read())
    state = fold(events)
    tally.rebuilt_s.append(time.monotonic() - begun)
    there = {event.seq: crash.digest(event) for event in events}
    tally.lost += sum(there.get(seq) != crc for seq, crc in known.items())
    keys = [(number, row.step) for number, row in state.history]
    tally.doubled += len(keys) - len(set(keys)) + len(events) - len(there)
    if state.closed is not None and essence(state) != essence(wanted):
        tally.wrong.append(f"{job.uri}: differs from an unbroken search")
    return state.closed is not None


def _let_it_work(process: BaseProcess, job: crash.Job, rng: random.Random) -> float | None:
    """Waits for some events, or for none, and then for a part of the next one; returns when the first was there."""
    wanted, first = rng.randint(0, 25), None
    while process.exitcode is None and (there := len(crash.acknowledged(job))) < wanted:
        if there and first is None:
            first = time.monotonic()
        time.sleep(0.0005)
    time.sleep(rng.uniform(0.0, 0.004 if wanted else 0.1))
    return first
