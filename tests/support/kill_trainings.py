"""Kills at instants that nobody chose, of processes that train with torch, without Ray."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

from tests.support.tally import Tally
from tests.support.trainings import Job, Trainings, said


def kill_trainings(server: Trainings, make: Callable[[int], Job], kills: int, whole: Job, rng: random.Random) -> Tally:
    """Kills trainings at random instants and goes on with them until they are done, again and again.

    Args:
        server: a `Trainings`. make: the n-th training. kills: how often. whole: one that nothing happened to.
        rng: the instants.
    """
    tally, wanted, number = Tally(), {step: rest for step, *rest in said(whole)}, 0
    while tally.kills < kills:
        job, code = make(number), None
        number += 1
        while code != 0:
            before = said(job)
            begun = time.monotonic()
            pid = server.start(job)
            code, first = _kill(server, pid, job, len(before), rng)
            reported = said(job)
            if before and first is not None:
                tally.resume_s.append(first - begun)
            if code == -signal.SIGKILL:
                tally.kills += 1
            elif code != 0:
                tally.wrong.append(f"{job.directory}: exit code {code}")
                break
            _check_attempt(tally, [step for step, *_ in before], [step for step, *_ in reported[len(before) :]])
        found = said(job)
        tally.recorded += len(found)
        curve = {step: rest for step, *rest in reversed(found)}
        tally.lost += len(wanted.keys() - curve.keys())
        if curve != wanted or any(curve[step] != rest for step, *rest in found):
            tally.wrong.append(f"{job.directory}: differs from a training that nothing happened to")
    return tally


def _kill(
    server: Trainings, pid: int, job: Job, before: int, rng: random.Random
) -> tuple[int, float | None]:
    """Waits for some reports, or for none, and for a part of what follows; then kills the process if it still runs.

    Returns:
        Its exit code, and when it first reported.
    """
    wanted, first = rng.choice((0, 1, 1, 1, 2)), None
    while server.poll(pid) is None and (new := len(said(job)) - before) < max(wanted, 1):
        if wanted == 0 and rng.random() < 0.01:
            break
        if new and first is None:
            first = time.monotonic()
        time.sleep(0.002)
    if first is None and len(said(job)) > before:
        first = time.monotonic()
    time.sleep(rng.expovariate(20.0) if wanted else 0.0)
    if server.poll(pid) is None:
        os.kill(pid, signal.SIGKILL)
    return server.wait(pid), first


def _check_attempt(tally: Tally, before: list[int], steps: list[int]) -> None:
    """An attempt begins at the last result at the earliest, and gives each once."""
    tally.doubled += len(steps) - len(set(steps))
    if before and steps and steps[0] < max(before):
        tally.wrong.append(f"went back from step {max(before)} to {steps[0]}")
