"""A real training ends at every fault point in turn, and is killed in between; it goes on and comes to the same."""

from __future__ import annotations

import ast
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.folders import listed_folder
from tests.support.kill_trainings import kill_trainings
from tests.support.s3 import S3Server, s3_server
from tests.support.trainings import EVERY, STEPS, Job, Trainings, said
from tests.unit import test_store_faults
from trainable.checkpoint import load_best, read_snapshot
from trainable.faults import KILLED

ROOT = Path(__file__).parents[2]

POINTS = {
    "checkpoint.write": (1,),
    "checkpoint.fsync": (3,),
    "checkpoint.rotate": (1,),
    "checkpoint.rename": (1, 3),
    "checkpoint.dirsync": (1,),
    "best.write": (3,),
    "best.fsync": (2,),
    "best.rename": (2,),
    "best.dirsync": (2,),
    "best.index.write": (1,),
    "best.index.fsync": (2,),
    "best.index.rename": (1, 2),
    "best.index.dirsync": (2,),
    "best.drop": (1, 2),
    "targets.write": (1,),
    "targets.fsync": (2,),
    "targets.rename": (2,),
    "targets.dirsync": (2,),
    "targets.drop": (1,),
    "output.write": (1,),
    "output.fsync": (2,),
    "output.rename": (2,),
    "output.dirsync": (3,),
}
CACHE = {
    "memo.write": (1,),
    "memo.rename": (1,),
    "cache.write": (5,),
    "cache.fsync": (1,),
    "cache.rename": (2,),
    "cache.dirsync": (1,),
    "cache.index.write": (1,),
    "cache.index.fsync": (1,),
    "cache.index.rename": (1, 2),
    "cache.index.dirsync": (2,),
}
MIRROR = {"mirror.put": (1, 4, 7, 9), "mirror.delete": (1,)}
PREPARED = {"cache.drop", "checkpoint.aside", "mirror.pull"}
"""Points that are only passed on the way back from something: each has a test of its own."""

Curve = dict[int, Any]


def _cases(points: dict[str, tuple[int, ...]]) -> list[str]:
    return [f"{point}:{nth}" for point, nths in points.items() for nth in nths]


@pytest.fixture(scope="module")
def trainings() -> Iterator[Trainings]:
    made = Trainings()
    yield made
    made.close()


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trainings") / "data"
    listed_folder(folder)
    # What has just been written might still change, and is not remembered.
    before = time.time() - 100
    for path in folder.rglob("*"):
        os.utime(path, (before, before))
    return folder


@pytest.fixture(scope="module")
def whole(trainings: Trainings, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A training that nothing happened to."""
    job = job_in(tmp_path_factory.mktemp("whole"), data)
    assert trainings.run(job) == 0, Path(job.out).read_text()
    assert list(curve(job)) == list(range(EVERY, STEPS + 1, EVERY))
    return job


def job_in(folder: Path, data: Path, **changes: Any) -> Job:
    folder.mkdir(exist_ok=True)
    cache = changes.pop("cache", str(data.with_name("cache")))
    return Job(str(folder / "run"), str(data), cache, str(folder / "said"), str(folder / "out"), **changes)


def curve(job: Job) -> Curve:
    """The first report of each step; a later one must be equal to it, bit for bit."""
    found: Curve = {}
    for step, objective, record in said(job):
        assert found.setdefault(step, (objective, record)) == (objective, record)
    return found


def keeps_best(job: Job) -> None:
    """The best of what was reported has its model."""
    reported = curve(job)
    if reported:
        best, _ = load_best(Path(job.directory))
        assert best.value <= min(objective for objective, _ in reported.values())


def partial(*folders: str) -> list[Path]:
    return [path for folder in folders for path in Path(folder).rglob("*.tmp")]


def go_on(trainings: Trainings, job: Job, whole: Job) -> list[int]:
    """The next attempt: at most one interval is done again, and all is as if nothing had happened."""
    before = said(job)
    last = max((step for step, *_ in before), default=0)
    assert trainings.run(replace(job, fault=None, kill_after=0)) == 0, Path(job.out).read_text()
    steps = [step for step, *_ in said(job)[len(before) :]]
    assert steps == list(range(steps[0] if steps else STEPS + EVERY, STEPS + 1, EVERY))
    assert not steps or steps[0] >= last, "more than one interval was done again"
    assert curve(job) == curve(whole)
    ours, theirs = load_best(Path(job.directory))[0], load_best(Path(whole.directory))[0]
    assert (ours.step, ours.value, ours.sha256) == (theirs.step, theirs.value, theirs.sha256)
    assert partial(job.directory) == []
    assert names(job) == names(whole)
    return steps


def names(job: Job) -> set[str]:
    """Which files there are; a kill at the end may keep some targets that are not needed any more."""
    root = Path(job.directory)
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    return found - {"checkpoints/last.damaged", "targets/phase-1.npz"}


def say_what_was_removed(job: Job, left: list[Path]) -> None:
    text = Path(job.out).read_text()
    for path in left:
        assert path.name in text, f"{path} was removed without a word"


def declared() -> set[str]:
    """The arguments of every `declare` in the sources."""
    found = set()
    for package in ("trainable", "spaces", "search"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "declare":
                    found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return {str(name) for name in found}


def test_every_point_that_is_declared_is_crashed_at() -> None:
    store = {*test_store_faults.LOCAL, *test_store_faults.REMOTE, *test_store_faults.PREPARED}
    assert declared() == {*POINTS, *CACHE, *MIRROR, *PREPARED, *store}


@pytest.mark.fault(
    3,
    how=(
        "a real training ends at every write, fsync, rename and removal of its checkpoints, best model, "
        "targets and outputs"
    ),
    saw=(
        "the state before is used, at most one interval is done again, half-written files are removed "
        "and named in the log; the end is bit for bit that of an undisturbed training"
    ),
)
@pytest.mark.parametrize("fault", _cases(POINTS))
def test_at_a_write_of_the_training(
    fault: str, tmp_path: Path, trainings: Trainings, data: Path, whole: Job
) -> None:
    job = job_in(tmp_path, data, fault=fault)
    assert trainings.run(job) == KILLED, f"{fault} was not passed often enough"
    keeps_best(job)
    left = partial(job.directory)
    assert bool(left) == fault.partition(":")[0].endswith(("write", "fsync", "rename", "rotate"))
    go_on(trainings, job, whole)
    say_what_was_removed(job, left)


@pytest.mark.parametrize("fault", _cases(CACHE))
def test_at_a_write_of_the_cache(
    fault: str, tmp_path: Path, trainings: Trainings, data: Path, whole: Job
) -> None:
    job = job_in(tmp_path, data, fault=fault, cache=str(tmp_path / "cache"))
    assert trainings.run(job) == KILLED
    go_on(trainings, job, whole)
    assert partial(job.cache) == [] or fault.startswith("memo.")


def test_while_the_remains_of_a_build_are_removed(
    tmp_path: Path, trainings: Trainings, data: Path, whole: Job
) -> None:
    job = job_in(tmp_path, data, cache=str(tmp_path / "cache"))
    for fault in ("cache.rename", "cache.drop"):
        assert trainings.run(replace(job, fault=fault)) == KILLED
        assert partial(job.cache)
    say_what_was_removed(job, partial(job.cache))
    go_on(trainings, job, whole)


@pytest.mark.fault(
    3,
    how="SIGKILL to a real training between a report and its checkpoint",
    saw="the interval is done again from the state before, bit for bit",
)
@pytest.mark.parametrize("kill_after", [1, 2, 4])
def test_killed_after_a_report(
    kill_after: int, tmp_path: Path, trainings: Trainings, data: Path, whole: Job
) -> None:
    job = job_in(tmp_path, data, kill_after=kill_after)
    assert trainings.run(job) == -9
    keeps_best(job)
    assert go_on(trainings, job, whole)[0] == kill_after * EVERY


@pytest.mark.fault(
    3,
    how="SIGKILL to real trainings at random instants",
    saw="nothing reported is lost, and the end is bit for bit that of an undisturbed training",
)
def test_killed_at_instants_that_nobody_chose(
    tmp_path: Path, trainings: Trainings, data: Path, whole: Job
) -> None:
    tally = kill_trainings(
        trainings, lambda number: job_in(tmp_path / str(number), data), 6, whole, random.Random(4)
    )
    print(tally.line())
    assert tally.kills >= 6 and tally.recorded and tally.clean, tally.line()


def test_killed_phases_after_the_last_checkpoint(
    tmp_path: Path, trainings: Trainings, data: Path, whole: Job
) -> None:
    # Each phase has targets of its own, and the state lies two phases back.
    job = job_in(tmp_path, data, kill_after=3, train={"checkpoint_every_steps": 2 * EVERY})
    assert trainings.run(job) == -9
    keeps_best(job)
    assert trainings.run(replace(job, kill_after=1)) == -9
    keeps_best(job)
    assert trainings.run(replace(job, kill_after=0)) == 0
    assert [step for step, *_ in said(job)] == [3, 6, 9, 9, 9, 12]
    assert curve(job) == curve(whole)


# -- damage --------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # More than the room between two records, in which a flipped bit does no harm.
    for place in range(len(content) // 2, len(content) // 2 + 128):
        content[place] ^= 16
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def killed_after_three(trainings: Trainings, folder: Path, data: Path) -> tuple[Job, Path]:
    job = job_in(folder, data, kill_after=3)
    assert trainings.run(job) == -9
    return job, Path(job.directory) / "checkpoints"


@pytest.mark.fault(
    18,
    how="bits flipped in the last checkpoint of a killed training, and it cut in half and emptied",
    saw="named in the log and put aside; the training goes on from the one before, bit for bit",
)
@pytest.mark.parametrize("damage", [flip, truncate, empty])
def test_a_damaged_state_is_put_aside_for_the_one_before(
    damage: Callable[[Path], None], tmp_path: Path, trainings: Trainings, data: Path, whole: Job
) -> None:
    job, folder = killed_after_three(trainings, tmp_path, data)
    assert read_snapshot(folder / "last.pt").loop["step"] == 2 * EVERY
    damage(folder / "last.pt")
    # The state that was damaged must not take the place of the one before when the next one is written.
    for fault in ("checkpoint.aside", "checkpoint.rename"):
        assert trainings.run(replace(job, kill_after=0, fault=fault)) == KILLED
        assert read_snapshot(folder / "previous.pt").loop["step"] == EVERY
    go_on(trainings, replace(job, said=f"{job.said}-again"), replace(whole, said=later(whole, EVERY, tmp_path)))
    text = Path(job.out).read_text()
    assert "last.pt: must be" in text and "previous.pt: goes on from this one, at step 3" in text


def later(job: Job, after: int, folder: Path) -> str:
    """What a training said after a step."""
    path = folder / "later"
    lines = Path(job.said).read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if int(line[1:].partition(",")[0]) > after))
    return str(path)


@pytest.mark.fault(
    18,
    how="both checkpoints damaged",
    saw=(
        "`no whole checkpoint is left; training starts again from step 0`; the best model that was "
        "reported stays"
    ),
)
@pytest.mark.parametrize("damage", [flip, truncate])
def test_with_no_whole_state_left_training_starts_again_and_says_so(
    damage: Callable[[Path], None], tmp_path: Path, trainings: Trainings, data: Path, whole: Job
) -> None:
    job, folder = killed_after_three(trainings, tmp_path, data)
    damage(folder / "last.pt")
    damage(folder / "previous.pt")
    best = load_best(Path(job.directory))[0]
    again = replace(job, said=f"{job.said}-again", kill_after=1)
    assert trainings.run(again) == -9
    assert load_best(Path(job.directory))[0] == best, "a worse model replaced the best one that was reported"
    assert trainings.run(replace(again, kill_after=0)) == 0
    assert curve(again) == curve(whole)
    assert "no whole checkpoint is left; training starts again from step 0" in Path(job.out).read_text()


@pytest.mark.fault(
    18,
    how="bits flipped in the targets that a checkpoint needs",
    saw="it counts as damaged; the training goes on from the one before",
)
def test_damaged_targets_count_as_a_damaged_state(
    tmp_path: Path, trainings: Trainings, data: Path, whole: Job
) -> None:
    job, folder = killed_after_three(trainings, tmp_path, data)
    flip(folder.parent / "targets" / "phase-1.npz")
    again = replace(job, said=f"{job.said}-again", kill_after=0)
    assert trainings.run(again) == 0
    assert curve(again) == {step: found for step, found in curve(whole).items() if step > EVERY}
    assert "phase-1.npz: must hold its phase's targets" in Path(job.out).read_text()


# -- on object storage ---------------------------------------------------------------------------------------------

_runs = iter(range(10**9))


def remote_job(folder: Path, data: Path, server: S3Server, **changes: Any) -> Job:
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    uri = f"{server.uri}/run-{next(_runs)}"
    return job_in(folder, data, uri=uri, environment=environment, **changes)


def on_another_machine(job: Job, folder: Path) -> Job:
    """The same run, of which nothing is here."""
    return replace(job, directory=str(folder / f"machine-{next(_runs)}" / "run"))


@pytest.mark.fault(
    3,
    how="a real training ends while its folder is sent to an S3 server, and goes on on another machine",
    saw="it goes on from the last whole state there, bit for bit",
)
@pytest.mark.parametrize("fault", _cases(MIRROR))
def test_at_a_put_of_the_mirror(
    fault: str, tmp_path: Path, trainings: Trainings, data: Path, whole: Job, server: S3Server
) -> None:
    job = remote_job(tmp_path, data, server, fault=fault)
    assert trainings.run(job) == KILLED, f"{fault} was not passed often enough"
    go_on(trainings, on_another_machine(job, tmp_path), whole)


def test_while_a_folder_is_fetched(
    tmp_path: Path, trainings: Trainings, data: Path, whole: Job, server: S3Server
) -> None:
    job = remote_job(tmp_path, data, server, kill_after=3)
    assert trainings.run(job) == -9
    there = replace(on_another_machine(job, tmp_path), kill_after=0)
    assert trainings.run(replace(there, fault="mirror.pull:3")) == KILLED
    go_on(trainings, there, whole)
