"""Commands on run directories of which files are gone, torn, flipped, replaced, or tell nonsense."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search.running
from search.config import load_sweep
from search.opening import examine, space_of
from search.store import RunLog, open_store
from search.sweep import opened
from search.tables import TableWriter
from tests.support import fuzz
from trainable import strict_yaml
from trainable.data.synth import write_scenes

SWEEP = """\
name: tiny
recipe: per_class
data:
  root: scenes
  group_by: '^(p\\d+)'
  labeled: splits/labelled.txt
  unlabeled: splits/unlabelled.txt
  val: splits/val.txt
train: {steps: 40, eval_every_steps: 10, patience: 0, encoder_weights: null, st: {start_step: 1}}
space: {st.weight: {}, ema_decay: {}}
search: {trials: 8, baselines: false, asha: {grace_steps: 10}}
storage: runs
tracking: {wandb: {mode: disabled}}
"""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
COMMANDS = (
    ("status",), ("status", "--trials"), ("status", "--json"), ("table",), ("table", "--verify"), ("export",),
    ("export", "--trial", "1"), ("report",), ("resume",), ("resume", "--retry-failed", "--add-trials", "2"),
    ("resume", "--set", "space.st.weight={low: 0.1, high: 0.5}"), ("stop",),
)  # fmt: skip
READ_ONLY = {"status"}

EXAMPLES = 30

_numbers = itertools.count()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and a run over it: two trials done, one failed, one that goes on."""
    folder = tmp_path_factory.mktemp("world")
    write_scenes(folder / "scenes", photos=6, patches_per_photo=4, size=32, labeled=8)
    (folder / "sweep.yaml").write_text(SWEEP)
    config = load_sweep(folder / "sweep.yaml")
    setting = examine(config)
    space = space_of(config, setting)
    store = open_store(config.run)
    with RunLog.create(store, heartbeat=False, **opened(config, setting, space)) as log:
        writer = TableWriter(store, 1e9, rows_per_part=3)
        for number, state in enumerate(("COMPLETE", "PRUNED", "FAILED", None)):
            _trial(log, space, number, state)
            writer.update(log.state)
        writer.close(log.state)
    store.write_bytes("sweep.yaml", strict_yaml.dump(config.model_dump(mode="json", by_alias=True)).encode())
    for name in ("train.log", "config.yaml", "checkpoints/last.pt", "checkpoints/best.json"):
        store.write_bytes(f"trials/0/{name}", name.encode())
    return folder


def _trial(log: RunLog, space: Any, number: int, state: str | None) -> None:
    coords = space.at([0.1 + 0.2 * number, 0.5])
    config = {"name": "tiny", "recipe": "per_class", "data": {"root": "."}, "train": {"steps": 40}, "seed": 0}
    log.append(
        "asked", trial=number, generation=0, source="sampled", params=space.natural(coords), coords=coords,
        config=config, seed=0, sampler={"name": "tpe", "seed": number, "told": []},
    )  # fmt: skip
    log.append("started", trial=number, attempt=1, node="n", pid=1, device="cpu")
    for step in (10, 20):
        value = 0.5 + 0.01 * step + 0.1 * number
        log.append(
            "evaluated", trial=number, attempt=1, step=step, time_s=1.0 * step, objective=value,
            record={"val/miou": value, "loss/total": None}, decision={"action": "continue"},
        )  # fmt: skip
    if state is not None:
        log.append("ended", trial=number, attempt=1, state=state, time_s=20.0, error="it broke", stop_reason=None)
        log.append("told", trial=number, state="complete", value=0.7)


# -- damage --------------------------------------------------------------------------------------------------------

Damage = Callable[[Path], None]


def _files(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file())


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Up to three things that happen to a run, as (what, where and how)."""
    share = st.floats(0, 1, exclude_max=True)
    one = st.one_of(
        st.tuples(st.sampled_from(["delete", "folder", "empty", "rmtree", "unreadable_name"]), share),
        st.tuples(st.just("truncate"), st.tuples(share, share)),
        st.tuples(st.just("flip"), st.tuples(share, share, st.integers(0, 7))),
        st.tuples(st.just("bytes"), st.tuples(share, st.binary(max_size=60))),
        st.tuples(st.just("swap"), st.tuples(share, share)),
        st.tuples(st.just("event"), st.tuples(share, share, JSON)),
        st.tuples(st.just("event"), st.tuples(share, share, st.sampled_from([-1, 0, 1, 2, 99, "", [], {}, None]))),
        st.tuples(st.just("file"), JSON),
    )  # fmt: skip
    return draw(st.lists(one, min_size=1, max_size=3))


def _pick(run: Path, share: float) -> Path:
    files = _files(run)
    log = [path for path in files if path.parent.name == "events"]
    # Half of all damage is done to the log.
    return log[0] if log and share < 0.4 else files[int(share * len(files))]


def do(run: Path, what: str, how: Any) -> None:
    if not _files(run):
        return
    if what == "file":
        (run / "lease.json").write_text(json.dumps(how))
        return
    path = _pick(run, how if isinstance(how, float) else how[0])
    content = path.read_bytes()
    at = int(how[1] * len(content)) if isinstance(how, tuple) and isinstance(how[1], float) else 0
    if what == "delete":
        path.unlink()
    elif what == "folder":
        path.unlink()
        path.mkdir()
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "rmtree":
        folder = path.parent
        if folder != run:
            shutil.rmtree(folder)
            folder.write_bytes(b"not a folder")
    elif what == "unreadable_name":
        path.rename(path.with_name(path.name + "\udcff"))
    elif what == "truncate":
        path.write_bytes(content[:at])
    elif what == "flip" and content:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << how[2]]) + content[at + 1 :])
    elif what == "bytes":
        path.write_bytes(how[1])
    elif what == "swap":
        lines = content.split(b"\n")
        place = int(how[1] * len(lines))
        lines.insert(0, lines.pop(place))
        path.write_bytes(b"\n".join(lines))
    elif what == "event":
        path.write_bytes(_retold(content, how[1], how[2]))


def _retold(content: bytes, share: float, value: Any) -> bytes:
    """A log of which one field of one event is something else, and the checksum right."""
    lines = content.splitlines(keepends=True)
    if not lines:
        return content
    place = int(share * len(lines))
    try:
        event = json.loads(lines[place])
        names = list(event)
    except (ValueError, TypeError):
        return content
    if not isinstance(event, dict) or not names:
        return content
    event.pop("crc", None)
    draw, inner = random.Random(share), event
    while True:
        name = draw.choice(sorted(inner))
        if not isinstance(inner[name], dict) or not inner[name] or draw.random() < 0.4:
            inner[name] = value
            break
        inner = inner[name]
    text = json.dumps(event, separators=(",", ":")).encode()
    body = text[:-1]
    lines[place] = body + f',"crc":"{zlib.crc32(body):08x}"}}\n'.encode()
    return b"".join(lines)


# -- the property --------------------------------------------------------------------------------------------------


def check(world: Path, folder: Path, happened: list[tuple[str, Any]], chosen: list[tuple[str, ...]]) -> None:
    here = folder / str(next(_numbers))
    shutil.copytree(world / "runs", here / "runs")
    (here / "neighbor").write_text("stays")
    run = here / "runs" / "tiny"
    for what, how in happened:
        do(run, what, how)
    for name, *options in chosen:
        before = fuzz.tree(here)
        answer = fuzz.command(name, str(run), *options)
        after = fuzz.tree(here)
        outside = {path for path in after.keys() | before.keys() if not path.startswith("runs/tiny/")}
        assert all(after.get(path) == before.get(path) for path in outside), "something else was changed"
        if name in READ_ONLY or "--verify" in options or (name == "resume" and answer.code in (1, 2)):
            assert after == before, (name, answer, [p for p in after if after[p] != before.get(p, b"?")])
    shutil.rmtree(here, ignore_errors=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(search.running, "connected", fuzz.no_ray)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return tmp_path


def test_the_whole_run_is_taken_by_every_command(world: Path, folder: Path) -> None:
    for chosen in COMMANDS:
        here = folder / str(next(_numbers))
        shutil.copytree(world / "runs", here)
        answer = fuzz.command(chosen[0], str(here / "tiny"), *chosen[1:])
        assert answer.code == (None if chosen[0] == "resume" else 0), answer
    assert list((folder / "elsewhere").iterdir()) == []


@pytest.mark.fault(
    20,
    how="random damage to the files of a run, then random commands on it",
    saw="each answers in words with an exit code; no traceback, nothing written outside",
)
def test_any_damage_to_a_run_is_answered_in_words(world: Path, folder: Path) -> None:
    @settings(max_examples=EXAMPLES)
    @given(damages(), st.lists(st.sampled_from(COMMANDS), min_size=2, max_size=4))
    def any_damage(happened: list[tuple[str, Any]], chosen: list[tuple[str, ...]]) -> None:
        check(world, folder, happened, chosen)

    any_damage()
    assert list((folder / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--set", "resources.cpus_per_worker=64"), "64"),
        (("--set", "resources.workers_per_trial=9", "--retry-failed"), "9"),
        (("--set", "space={st.weight: {low: 5, high: 1}}"), "space"),
        (("--add-trials", "-1"), "add_trials=-1"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_before_anything_is_recorded(
    options: tuple[str, ...], says: str, world: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def small(*args: Any, **given: Any) -> Iterator[Any]:
        yield SimpleNamespace(nodes=[{"CPU": 2.0}], own=True, shared=False, temp=folder)

    monkeypatch.setattr(search.running, "connected", small)
    shutil.copytree(world / "runs", folder / "runs")
    before = fuzz.tree(folder / "runs")
    answer = fuzz.command("resume", str(folder / "runs" / "tiny"), *options)
    assert answer.code == 2 and says in answer.text, answer
    assert fuzz.tree(folder / "runs") == before


def test_a_run_that_somebody_owns_is_refused_before_ray_is_started(world: Path, folder: Path) -> None:
    shutil.copytree(world / "runs", folder / "runs")
    store = open_store(folder / "runs" / "tiny")
    store.acquire(heartbeat=False)
    before = fuzz.tree(folder / "runs")
    answer = fuzz.command("resume", str(folder / "runs" / "tiny"))
    assert answer.code == 2 and f"pid={os.getpid()}" in answer.text, answer
    assert fuzz.tree(folder / "runs") == before
    store.release()
    assert fuzz.command("resume", str(folder / "runs" / "tiny")).code is None


def test_an_error_that_names_a_file_whose_name_is_no_text_is_recorded_and_shown(world: Path, folder: Path) -> None:
    run = folder / "runs" / "tiny"
    shutil.copytree(world / "runs", folder / "runs")
    with RunLog.resume(open_store(run), heartbeat=False) as log:
        log.append("ended", trial=3, attempt=1, state="FAILED", error="cannot read im\udce4ge.png", time_s=1.0)
    assert fuzz.command("table", str(run)).code == 0
    assert "im\\udce4ge.png" in fuzz.command("status", str(run), "--json").text.replace("\\\\", "\\")
    assert fuzz.command("table", str(run), "--verify").code == 0
