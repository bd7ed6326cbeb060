"""The Ray Train entry; the only file that imports ray.train and names TorchTrainer.

One worker runs in the trial's own process: `TorchTrainer` in local mode is the entry point, not the machinery.
Several workers are a group of processes; reports and the question whether to stop travel through a small actor of
ours, because Ray Train's own channel can hang a trial whose driver is busy. The actor ends with the trial's process,
and the workers with the actor, so that a trial that is killed leaves none of them.
"""

from __future__ import annotations

import os
import platform
import re
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import RunConfig as TrainRunConfig
from ray.train import ScalingConfig, TrainingFailedError, get_context
from ray.train.torch import TorchTrainer, get_device
from ray.util.placement_group import get_current_placement_group

from trainable.config import RunConfig
from trainable.errors import TrainingHung, WorkerLost
from trainable.loop import train
from trainable.processes import end_process
from trainable.relay import Board, Member, Relay
from trainable.state import Observer, Outcome, Report, Reporter, StopQuestion
from trainable.watchdog import Watchdog

_DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
POLL_S = 0.2
ASK_EVERY_S = 1.0
LOG_NAME = "train.log"
_ASK_TIMEOUT_S = 10.0
_LEAVE_S, _END_S = 5.0, 30.0
_PEERS = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe|process group", re.IGNORECASE)
"""What an error says that only follows from another worker's end."""


def fit(
    run: Mapping[str, Any], directory: str, *, base: str = ".", workers: int = 1, use_gpu: bool = False,
    threads: int = 1, report: Reporter, should_stop: StopQuestion, observer: Observer | None = None,
    resources: Mapping[str, float] | None = None, limit_s: float = 1800.0, start_limit_s: float = 7200.0,
    holds: Callable[[str], object] = lambda place: None,
) -> Outcome:  # fmt: skip
    """Train one configuration with Ray Train.

    Args:
        run: a `RunConfig` as plain data. directory: the run's folder. base: where relative data paths start.
        workers: processes that share each batch. use_gpu: whether each has a GPU. threads: torch threads of each.
        report: takes every evaluation, in this process. should_stop: asked in this process.
        observer: sees progress; one worker only.
        resources: of each worker of a group, as Ray counts them; None: its threads, and a GPU where it uses one.
        limit_s: seconds without a step after which a group counts as hung. start_limit_s: the same before its first.
        holds: told what a group holds of the cluster, by its id; Ray frees that only where this process ends in order.

    Returns:
        How the run ended.

    Raises:
        WorkerLost: a process of a group is gone. TrainingHung: a group stood still. Of either no process is left.
    """
    config = RunConfig.model_validate(run)
    with _without_distributed_environment():
        if workers == 1:
            return _fit_here(config, directory, base, use_gpu, threads, report, should_stop, observer)
        held = resources or {"CPU": float(threads)} | ({"GPU": 1.0} if use_gpu else {})
        settings = {
            "run": config.model_dump(mode="json", by_alias=True), "directory": directory,
            "base": str(Path(base).absolute()), "use_gpu": use_gpu, "threads": threads, "limit_s": limit_s,
        }  # fmt: skip
        return _Group(settings, workers, held, start_limit_s, holds).fit(report, should_stop)


@contextmanager
def _without_distributed_environment() -> Iterator[None]:
    """Inherited addresses of another process group would break this one."""
    kept = {name: os.environ.pop(name) for name in _DISTRIBUTED if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _fit_here(
    config: RunConfig, directory: str, base: str, use_gpu: bool, threads: int, report: Reporter,
    should_stop: StopQuestion, observer: Observer | None,
) -> Outcome:  # fmt: skip
    ended: list[Outcome] = []

    def work() -> None:
        torch.set_num_threads(max(1, threads))
        device = get_device() if use_gpu else torch.device("cpu")
        ended.append(
            train(
                config, directory, base=base, device=device, report=report, should_stop=should_stop,
                observer=observer,
            )
        )  # fmt: skip

    TorchTrainer(work, scaling_config=ScalingConfig(num_workers=0, use_gpu=use_gpu)).fit()
    return ended[0]


# -- several workers -----------------------------------------------------------------------------------------------


class _Pulse:
    """A worker's side of the relay: it is asked once a second by a thread, and answers the training from memory."""

    def __init__(self, relay: Any, rank: int) -> None:
        self._relay, self._rank = relay, rank
        self.reason: str | None = None
        self.beats = 0

    def look(self) -> bool:
        """Whether the process is to end.

        Raises:
            EOFError: the trial is gone, and nobody records what this group does.
        """
        try:
            reason, hung = ray.get(self._relay.ask.remote(self._rank, self.beats), timeout=_ASK_TIMEOUT_S)
        except GetTimeoutError:
            return False
        except RayActorError as error:
            raise EOFError from error
        self.reason = self.reason or reason
        return bool(hung)

    def agreed(self) -> StopQuestion:
        """A stop question whose answer is the same on all ranks at the same call: rank 0 says it, all hear."""
        group: Any = dist.new_group(backend="gloo")
        known: list[str | None] = [None]

        def should_stop() -> str | None:
            self.beats += 1
            message = [known[0] or self.reason]
            dist.broadcast_object_list(message, src=0, group=group)
            known[0] = message[0]
            return known[0]

        return should_stop


def _work_in_group(settings: dict[str, Any]) -> None:
    """What each worker of a group runs."""
    torch.set_num_threads(max(1, settings["threads"]))
    context = get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    relay, pulse = settings["relay"], _Pulse(settings["relay"], rank)
    place = get_current_placement_group()
    me = Member(
        platform.node(), os.getpid(), ray.get_runtime_context().current_actor,
        place.id.hex() if place is not None else "",
    )  # fmt: skip
    ray.get(relay.join.remote(rank, me))

    def hand_over(report: Report) -> None:
        """Blocks until the trial has recorded it, on every rank: nobody runs ahead of the record."""
        if rank == 0:
            ray.get(relay.put_report.remote(report))
            while not ray.get(relay.is_taken.remote()):
                time.sleep(POLL_S / 4)
        dist.barrier()

    log = Path(settings["directory"]) / LOG_NAME
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file, Watchdog(pulse.look, file, every_s=ASK_EVERY_S, limit_s=settings["start_limit_s"]):
        try:
            outcome = train(
                RunConfig.model_validate(settings["run"]), settings["directory"], base=settings["base"],
                device=get_device() if settings["use_gpu"] else "cpu", rank=rank, world_size=world_size,
                report=hand_over, should_stop=pulse.agreed(),
            )  # fmt: skip
        except Exception as error:  # Ray Train would pass on its text alone.
            error.add_note(f"in worker {rank}:\n{traceback.format_exc()}")
            ray.get(relay.put_error.remote(rank, error))
            raise
    if rank == 0:
        ray.get(relay.put_outcome.remote(outcome))


class _Group:
    """A trial's side: starts the workers, hands on what they say, and ends them where they stand still.

    Args:
        settings: what each worker is told. workers: how many. resources: of each.
        start_limit_s: seconds that the group may take to its first step; `limit_s` in the settings between steps.
        holds: told what it holds of the cluster.
    """

    def __init__(
        self, settings: dict[str, Any], workers: int, resources: Mapping[str, float], start_limit_s: float,
        holds: Callable[[str], object],
    ) -> None:  # fmt: skip
        self._relay: Any = ray.remote(num_cpus=0)(Relay).remote()
        self._settings = {**settings, "relay": self._relay, "start_limit_s": start_limit_s}
        self._workers = workers
        self._scaling = ScalingConfig(
            num_workers=workers, use_gpu=bool(settings["use_gpu"]), resources_per_worker=dict(resources)
        )
        self._errors: list[BaseException] = []
        self._moved_at, self._beats = time.monotonic(), 0
        self._introduced, self._held, self._holds = False, False, holds

    def fit(self, report: Reporter, should_stop: StopQuestion) -> Outcome:
        """Run the group in a thread, and hand its reports on in this one until it has ended."""
        with tempfile.TemporaryDirectory(prefix="thresher-train-") as scratch:
            trainer = TorchTrainer(
                _work_in_group, train_loop_config=self._settings, scaling_config=self._scaling,
                run_config=TrainRunConfig(storage_path=scratch),
            )  # fmt: skip
            thread = threading.Thread(target=self._run, args=(trainer.fit,), name="worker-group", daemon=True)
            thread.start()
            while True:
                alive = thread.is_alive()
                board: Board = ray.get(self._relay.board.remote())
                if board.report is not None:
                    report(board.report)
                    ray.get(self._relay.taken.remote())
                    self._moved_at = time.monotonic()
                ray.get(self._relay.ask_to_stop.remote(should_stop()))
                if not alive:
                    return self._ended(board)
                self._introduce(board)
                self._watch(board, thread)
                time.sleep(POLL_S)

    def _introduce(self, board: Board) -> None:
        """Says once what the workers hold, as soon as one is there, and where all are, in the trial's log."""
        places = [member.place for member in board.members.values() if member.place]
        if places and not self._held:
            self._held = True
            self._holds(places[0])
        if not self._introduced and len(board.members) == self._workers:
            self._introduced = True
            for rank, member in sorted(board.members.items()):
                print(f"worker {rank}: process {member.pid} on {member.host}", flush=True)

    def _run(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except BaseException as error:  # raised in the trial's own thread
            self._errors.append(error)

    def _ended(self, board: Board) -> Outcome:
        own = [error for error in board.errors.values() if not _PEERS.search(str(error))]
        if own:
            raise own[0]
        failed = self._errors[0] if self._errors else None
        if failed is not None and not isinstance(failed, TrainingFailedError):
            raise failed
        if failed is not None or board.outcome is None:
            raise WorkerLost(self._what_is_lost(board)) from failed
        return board.outcome

    def _what_is_lost(self, board: Board) -> str:
        silent = [str(rank) for rank in range(self._workers) if rank not in board.errors]
        if silent and board.members:
            return f"worker {', '.join(silent)} of a group of {self._workers} is gone"
        causes = [*board.errors.values(), *self._errors, "they ended without a word"]
        said = " ".join(str(causes[0]).split())[:200]
        return f"the {self._workers} workers of a group did not find, or have lost, each other ({said})"

    def _watch(self, board: Board, thread: threading.Thread) -> None:
        """Notes that the group moves, and ends one that does not.

        Raises:
            TrainingHung: it did not for too long; none of its processes is left.
        """
        beats = sum(board.beats.values())
        if beats != self._beats:
            self._beats, self._moved_at = beats, time.monotonic()
        begun = beats > self._workers
        limit_s = self._settings["limit_s"] if begun else self._settings["start_limit_s"]
        still = time.monotonic() - self._moved_at
        if still <= limit_s:
            return
        # Each worker writes its stacks and ends; one that cannot even do that is killed.
        ray.get(self._relay.give_up.remote())
        thread.join(2 * ASK_EVERY_S + _LEAVE_S)
        for member in board.members.values():
            ray.kill(member.actor)
        thread.join(_LEAVE_S)
        for member in board.members.values():
            if thread.is_alive() and member.host == platform.node():
                end_process(member.pid)
        thread.join(_END_S)
        raise TrainingHung(f"hung: no step or report of the group's {self._workers} workers for {still:.0f} s")
