"""What is said of a trial of several workers when one of them fails or is killed: no Ray, the worker's own code."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import WorkerGroupError

import search.trial
from search import messages
from search.failure import Failure, classify
from search.trial import LOG_NAME, Job
from search.trial_record import TrialState
from search.verdicts import common_cause
from trainable import worker
from trainable.errors import WorkerLost
from trainable.relay import Board, Relay

KILLED = "The worker died. Some common causes include: (1) the process was killed by the OOM killer due to high memory"
LOW = "Task was killed due to the node running low on memory."
SHORT: Exception = cast(Any, OutOfMemoryError)(LOW)
PLACES = {"trainable/feed.py": "take", "trainable/recipes/pixel.py": "step", "trainable/meters.py": "add"}


def raising(place: str, name: str) -> Callable[..., Any]:
    """A function of a file of ours that raises, after one that calls it."""
    inner: dict[str, Any] = {}
    exec(compile(f"\n\ndef {name}():\n    raise ValueError('no number')\n", f"/any/{place}", "exec"), inner)
    outer: dict[str, Any] = {"call": inner[name]}
    exec(compile("def train(*args, **more):\n    call()\n", "/any/trainable/loop.py", "exec"), outer)
    found: Callable[..., Any] = outer["train"]
    return found


class Called:
    """An actor's handle, in this process; whatever is handed over is pickled, as Ray does it."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._relay, name)
        return SimpleNamespace(remote=lambda *given: method(*pickle.loads(pickle.dumps(given))))


def failed_in(monkeypatch: pytest.MonkeyPatch, folder: Path, train: Callable[..., Any]) -> Failure:
    """What becomes of an error that the training raises in worker 1 of 2."""
    relay = Relay()
    context = SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: 2)
    inside = SimpleNamespace(get=lambda found, timeout=None: found)
    inside.get_runtime_context = lambda: SimpleNamespace(current_actor=None)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "ray", inside)
        patch.setattr(worker, "get_context", lambda: context)
        patch.setattr(worker, "get_current_placement_group", lambda: None)
        patch.setattr(worker, "train", train)
        patch.setattr(worker._Pulse, "agreed", lambda pulse: lambda: None)
        settings = {
            "threads": 1, "relay": Called(relay), "directory": str(folder), "base": ".", "use_gpu": False,
            "start_limit_s": 600.0, "run": {"name": "pair", "recipe": "per_class", "data": {"root": "data"}},
        }  # fmt: skip
        with pytest.raises(ValueError, match="no number"):
            worker._work_in_group(settings)
    return classify(raised_by(group(), relay.board()))


def group(*errors: BaseException) -> worker._Group:
    """A trial's side of two workers, with what Ray Train said of them."""
    made = object.__new__(worker._Group)
    made._workers, made._errors = 2, list(errors)
    return made


def raised_by(found: worker._Group, board: Board) -> BaseException:
    try:
        found._ended(board)
    except Exception as error:
        return error
    raise AssertionError("a group that failed must raise")


def test_the_cause_of_a_groups_error_is_where_its_worker_raised_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [failed_in(monkeypatch, tmp_path, raising(*place)) for place in PLACES.items()]
    assert [one.cause for one in found] == [
        f"ValueError at {file}:4 in {name}" for file, name in PLACES.items()
    ]
    assert found[0].message == "ValueError: no number (trainable/feed.py:4 in take)"
    assert common_cause([(TrialState.FAILED, one.cause) for one in found], 3, 9) is None
    again = [failed_in(monkeypatch, tmp_path, raising("trainable/feed.py", "take")) for _ in range(3)]
    assert common_cause([(TrialState.FAILED, one.cause) for one in again], 3, 9) == found[0].cause


def test_of_a_chain_of_errors_the_last_one_counts() -> None:
    chain = (
        'Traceback (most recent call last):\n  File "/any/trainable/feed.py", line 4, in take\n    x\nKeyError: 3\n\n'
        "The above exception was the direct cause of the following exception:\n\n"
        'Traceback (most recent call last):\n  File "/any/trainable/loop.py", line 9, in train\n    y\nValueError: z\n'
    )
    error = ValueError("z")
    error.add_note("what somebody else noted")
    error.add_note(f"in worker 12:\n{chain}")
    assert classify(error).cause == "ValueError at trainable/loop.py:9 in train"


@pytest.mark.fault(
    25,
    how="what Ray says of a worker of two that its memory monitor, or a signal, has killed",
    saw="host_memory where it was for lack of memory, else worker_died; both are tried again",
    seam=True,
)
@pytest.mark.parametrize(
    ("said", "kind"),
    [(SHORT, "host_memory"), (ActorDiedError(), "worker_died"), (RuntimeError(LOW), "worker_died"),
     (SimpleNamespace(health_check_failure=SHORT), "host_memory")],
)  # fmt: skip
def test_a_worker_that_ray_killed_for_lack_of_memory_is_named_so(said: Any, kind: str) -> None:
    board = Board(members={0: None, 1: None}, errors={0: RuntimeError("gloo: connection closed by peer")})  # type: ignore[dict-item]
    found = classify(raised_by(group(WorkerGroupError(KILLED, {1: said})), board))
    assert (found.kind, found.retry) == (kind, True)
    assert "worker 1 of a group of 2 is gone" in found.message
    assert classify(WorkerLost("worker 1 is gone")).kind == "worker_died"


def test_memory_of_the_machine_is_not_taken_for_memory_of_the_device() -> None:
    assert classify(SHORT, on_gpu=True).kind == "host_memory"


def lose(run: Mapping[str, Any], directory: str, **more: Any) -> None:
    """A training of two workers, of which one is lost."""
    raise WorkerLost("worker 1 of a group of 2 is gone")


@pytest.mark.parametrize(("kills", "kind"), [((3, 4), "host_memory"), ((4, 4), "worker_died")])
def test_a_worker_that_the_system_killed_for_lack_of_memory_is_named_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kills: tuple[int, int], kind: str
) -> None:
    counted, connected = iter(kills), ray.is_initialized()
    monkeypatch.setattr(search.trial, "memory_kills", lambda: next(counted))
    (tmp_path / LOG_NAME).write_text("")
    job = Job(run=str(tmp_path), namespace="r", fit=f"{__name__}:lose", workers=2)
    question = SimpleNamespace(excused=nullcontext, refresh=lambda: None, reason=None, steps=0)
    said = search.trial._attempt(job, {}, 0, 1, tmp_path, question, lambda: None, None)  # type: ignore[arg-type]
    failure = Failure.from_json(messages.payload_of(said)["failure"])
    assert failure.kind == kind and failure.retry
    assert ray.is_initialized() == connected, "a Ray of its own was started"
