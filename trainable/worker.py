"""The Ray Train entry; the only file that imports ray.train and names TorchTrainer.

One worker runs in the trial's own process: `TorchTrainer` in local mode is the entry point, not the machinery.
Several workers are a group of processes; reports and the question whether to stop travel through a small actor of
ours, because Ray Train's own channel can hang a trial whose driver is busy.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.train import RunConfig as TrainRunConfig
from ray.train import ScalingConfig, get_context
from ray.train.torch import TorchTrainer, get_device

from trainable.config import RunConfig
from trainable.loop import train
from trainable.state import Observer, Outcome, Report, Reporter, StopQuestion

_DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
POLL_S = 0.2
ASK_EVERY_S = 1.0


def fit(
    run: Mapping[str, Any], directory: str, *, base: str = ".", workers: int = 1, use_gpu: bool = False,
    threads: int = 1, report: Reporter, should_stop: StopQuestion, observer: Observer | None = None,
) -> Outcome:  # fmt: skip
    """Train one configuration with Ray Train.

    Args:
        run: a `RunConfig` as plain data. directory: the run's folder. base: where relative data paths start.
        workers: processes that share each batch. use_gpu: whether each has a GPU. threads: torch threads of each.
        report: takes every evaluation, in this process. should_stop: asked in this process.
        observer: sees progress; one worker only.

    Returns:
        How the run ended.
    """
    config = RunConfig.model_validate(run)
    with _without_distributed_environment():
        if workers == 1:
            return _fit_here(config, directory, base, use_gpu, threads, report, should_stop, observer)
        return _fit_group(config, directory, base, workers, use_gpu, threads, report, should_stop)


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


class _Relay:
    """Carries reports to the trial and the wish to stop to the workers."""

    def __init__(self) -> None:
        self._report: Report | None = None
        self._reason: str | None = None
        self._outcome: Outcome | None = None

    def put_report(self, report: Report) -> None:
        self._report = report

    def waiting(self) -> tuple[Report | None, Outcome | None]:
        return self._report, self._outcome

    def taken(self) -> None:
        self._report = None

    def is_taken(self) -> bool:
        return self._report is None

    def ask_to_stop(self, reason: str | None) -> None:
        self._reason = self._reason or reason

    def reason(self) -> str | None:
        return self._reason

    def put_outcome(self, outcome: Outcome) -> None:
        self._outcome = outcome


def _work_in_group(settings: dict[str, Any]) -> None:
    """What each worker of a group runs."""
    torch.set_num_threads(max(1, settings["threads"]))
    context = get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    relay = settings["relay"]

    def hand_over(report: Report) -> None:
        """Blocks until the trial has recorded it, on every rank: nobody runs ahead of the record."""
        if rank == 0:
            ray.get(relay.put_report.remote(report))
            while not ray.get(relay.is_taken.remote()):
                time.sleep(POLL_S / 4)
        dist.barrier()

    outcome = train(
        RunConfig.model_validate(settings["run"]), settings["directory"], base=settings["base"],
        device=get_device() if settings["use_gpu"] else "cpu", rank=rank, world_size=world_size, report=hand_over,
        should_stop=_agreed(relay, rank),
    )  # fmt: skip
    if rank == 0:
        ray.get(relay.put_outcome.remote(outcome))


def _agreed(relay: Any, rank: int) -> StopQuestion:
    """A stop question whose answer is the same on all ranks at the same call: rank 0 asks, all hear."""
    asked = [0.0]
    known: list[str | None] = [None]
    group: Any = dist.new_group(backend="gloo")

    def should_stop() -> str | None:
        if rank == 0 and known[0] is None and time.monotonic() - asked[0] >= ASK_EVERY_S:
            asked[0] = time.monotonic()
            known[0] = ray.get(relay.reason.remote())
        message = [known[0]]
        dist.broadcast_object_list(message, src=0, group=group)
        known[0] = message[0]
        return known[0]

    return should_stop


def _fit_group(
    config: RunConfig, directory: str, base: str, workers: int, use_gpu: bool, threads: int, report: Reporter,
    should_stop: StopQuestion,
) -> Outcome:  # fmt: skip
    relay = ray.remote(num_cpus=0)(_Relay).remote()
    settings = {
        "run": config.model_dump(mode="json", by_alias=True), "directory": directory,
        "base": str(Path(base).absolute()), "use_gpu": use_gpu, "threads": threads, "relay": relay,
    }  # fmt: skip
    resources = {"CPU": float(threads)} | ({"GPU": 1.0} if use_gpu else {})
    with tempfile.TemporaryDirectory(prefix="thresher-train-") as scratch:
        trainer = TorchTrainer(
            _work_in_group, train_loop_config=settings,
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=resources),
            run_config=TrainRunConfig(storage_path=scratch),
        )  # fmt: skip
        return _carry(trainer, relay, report, should_stop)


def _carry(trainer: TorchTrainer, relay: Any, report: Reporter, should_stop: StopQuestion) -> Outcome:
    """Run the group in a thread, and hand its reports on in this one until it has ended."""
    errors: list[BaseException] = []
    thread = threading.Thread(target=_run, args=(trainer.fit, errors), name="worker-group", daemon=True)
    thread.start()
    while True:
        alive = thread.is_alive()
        waiting, outcome = ray.get(relay.waiting.remote())
        if waiting is not None:
            report(waiting)
            ray.get(relay.taken.remote())
        ray.get(relay.ask_to_stop.remote(should_stop()))
        if not alive:
            break
        time.sleep(POLL_S)
    if errors:
        raise errors[0]
    assert isinstance(outcome, Outcome)
    return outcome


def _run(act: Callable[[], Any], errors: list[BaseException]) -> None:
    try:
        act()
    except BaseException as error:  # raised in the trial's own thread
        errors.append(error)
