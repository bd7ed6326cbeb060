"""What a resume may change, which checkpoints stay, and what a person sees: functions of a run's record."""

from __future__ import annotations

import io
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from search.cluster import Cluster
from search.control import STOP_FILE
from search.keeping import Keeper, to_delete
from search.notify import notify
from search.opening import Setting, space_of
from search.patient_log import PatientLog
from search.progress import Progress
from search.records import RunState, TrialState
from search.resume import (
    asked_for,
    changed_config,
    differences,
    nothing_left,
    recorded_config,
    reopen_failed,
    resume,
)
from search.running import Options, SweepResult, exit_code, slots_of
from search.schema import MANY_TRIALS, KeepConfig, NotifyConfig, SweepConfig
from search.status import ask_to_stop
from search.store import RunLog, open_store
from search.sweep import opened as run_opened
from search.sweep import refuse_taken, set_aside
from tests.support.drive import NAME, toy_config, toy_options, toy_setting
from trainable.errors import ConfigError, LeaseHeldError


def opened(folder: Path, **sections: Any) -> PatientLog:
    config = toy_config(folder, **sections)
    return PatientLog.create(
        open_store(folder / "toy"), heartbeat=False, schema=1, run_id="r", name="toy", metrics=["val/miou"],
        config=config.model_dump(mode="json", by_alias=True),
    )  # fmt: skip


def add(log: PatientLog, number: int, state: str | None, value: float | None = None) -> None:
    log.append("asked", trial=number, source="sampled", params={}, config={})
    log.append("started", trial=number, attempt=1)
    if value is not None:
        log.append(
            "evaluated", trial=number, attempt=1, step=5, time_s=1.0, objective=value, record={"val/miou": value},
            decision={"action": "continue"},
        )  # fmt: skip
    if state is not None:
        log.append("ended", trial=number, state=state, attempt=1)


# ---- what a resume may change ----


def test_changes_stay_for_the_resumes_after(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        config, changed = changed_config(log.state, ("search.trials=9", "resources.cpus_per_worker=0.5"))
        assert changed == {"search.trials": 9, "resources.cpus_per_worker": 0.5}
        assert (config.search.trials, config.resources.cpus_per_worker) == (9, 0.5)
        log.append("resumed", set=changed, total=asked_for(log.state, changed, 2))
        assert log.state.total == 11
        again, changed = changed_config(log.state, ())
        assert changed == {} and again.resources.cpus_per_worker == 0.5
        assert asked_for(log.state, {}, 3) == 14
        assert recorded_config(log.state)["search"]["trials"] == 9


def test_a_whole_section_is_kept_as_its_keys_are(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        config, changed = changed_config(log.state, ("tracking.wandb={mode: offline, project: mine}",))
        assert config.tracking.wandb.project == "mine"
        assert changed == {"tracking.wandb.mode": "offline", "tracking.wandb.project": "mine",
                           "tracking.wandb.entity": None}  # fmt: skip
        log.append("resumed", set=changed, total=6)
        assert changed_config(log.state, ())[0].tracking == config.tracking


def test_a_data_root_is_relative_to_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as log:
        monkeypatch.chdir(tmp_path)
        config, changed = changed_config(log.state, ("data.root=moved",))
        assert config.data.root == changed["data.root"] == str(tmp_path / "moved")


@pytest.mark.parametrize(
    ("change", "hint"),
    [("search.trails=3", "search.trials"), ("train.optimizer.lr=1", "resume may change only"),
     ("search.trials=0", "must be at least 1"), ("storage=/x", "resume may change only"),
     ("search.trials", "path.to.key=value")],
)  # fmt: skip
def test_a_change_that_is_not_allowed_or_not_legal_is_refused(tmp_path: Path, change: str, hint: str) -> None:
    with opened(tmp_path) as log, pytest.raises(ConfigError, match=hint.replace(".", r"\.")):
        changed_config(log.state, (change,))


def test_fewer_than_no_trials_cannot_be_added(tmp_path: Path) -> None:
    with opened(tmp_path) as log, pytest.raises(ConfigError, match="add_trials=-1"):
        asked_for(log.state, {}, -1)


def test_a_sweep_file_says_what_it_changed(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        assert differences(log.state, toy_config(tmp_path)) == ()
        other = toy_config(tmp_path, search={"trials": 30}, space={"st.weight": {"low": 0.5, "high": 1.0}})
        sets = differences(log.state, other)
        config, changed = changed_config(log.state, sets)
        assert (
            config.search.trials == 30
            and config.space == other.space
            and set(changed) == {"search.trials", "space"}
        )
        forbidden = differences(log.state, toy_config(tmp_path, seed=7))
        with pytest.raises(ConfigError, match="seed"):
            changed_config(log.state, forbidden)


def test_failed_trials_wait_again_and_keep_their_rows(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        add(log, 0, "FAILED", 0.4)
        add(log, 1, "COMPLETE", 0.5)
        assert nothing_left(log.state, 2) and not nothing_left(log.state, 3)
        assert reopen_failed(log) == [0] and not nothing_left(log.state, 2)
        trial = log.state.trials[0]
        assert (trial.state, trial.attempts, trial.best_value) == (TrialState.PAUSED, 1, 0.4)
        assert [waiting.number for waiting in log.state.pending()] == [0]


# ---- two at once ----


class Meanwhile:
    """A resume of a run of two trials that are done, in which somebody else resumes the run before it owns it.

    Attributes:
        looked: how often the data were examined.
        ran: what would have been run: the sweep and its number of trials.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        config, self.run, self.settings = toy_config(folder, search={"trials": 2}), folder / NAME, settings
        setting = toy_setting(config)
        with PatientLog.create(
            open_store(self.run), heartbeat=False, **run_opened(config, setting, space_of(config, setting))
        ) as log:
            for number in range(2):
                add(log, number, "COMPLETE", 0.5)
        self.looked, self.ran = 0, list[tuple[SweepConfig, int]]()
        monkeypatch.setattr(Options, "cluster", lambda options: nullcontext(Cluster(True, folder)))
        monkeypatch.setattr("search.resume.slots_of", lambda config, cluster: None)
        monkeypatch.setattr("search.resume.check_seen_everywhere", lambda *given: None)
        monkeypatch.setattr("search.resume._run", self._run)

    def _run(self, log: PatientLog, config: SweepConfig, total: int, *given: object) -> SweepResult:
        assert log.store.owned
        self.ran.append((config, total))
        return SweepResult(0, None, log.store.uri, {})

    def examine(self, config: SweepConfig) -> Setting:
        self.looked += 1
        if self.looked == 1 and self.settings:
            with PatientLog.resume(open_store(self.run), heartbeat=False, **self.settings) as other:
                other.append("closed", exit_code=0, reason=None)
        return toy_setting(config)

    def resume(self, **given: Any) -> RunState:
        """What the run's record says afterwards."""
        resume(self.run, options=replace(toy_options(), examine=self.examine), **given)
        return RunLog.open(open_store(self.run)).state


@pytest.mark.fault(
    11,
    how="`resume --add-trials 3` of a run to which another adds two and sets max_hours, before the first owns it",
    saw="the trials of both are asked for, and the other's setting holds: the record is read again once it is owned",
)
def test_two_resumes_that_add_trials_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile = Meanwhile(tmp_path, monkeypatch, set={"search.max_hours": 2.0}, total=4)
    state = meanwhile.resume(add_trials=3, sets=iter(["search.max_concurrent=2"]))
    [(config, total)] = meanwhile.ran
    assert state.total == total == 7
    assert (config.search.max_hours, config.search.max_concurrent) == (2.0, 2)
    assert state.settings == {"search.max_hours": 2.0, "search.max_concurrent": 2}
    assert meanwhile.looked == 2 and state.resumes == 2


def test_a_run_that_had_nothing_left_goes_on_where_another_has_added_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile = Meanwhile(tmp_path, monkeypatch, set={}, total=5)
    assert meanwhile.resume().total == 5 and [total for _, total in meanwhile.ran] == [5]


def test_a_run_that_nobody_else_resumes_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Meanwhile(tmp_path, monkeypatch)
    assert alone.resume().closed == {"exit_code": 0, "reason": None} and alone.ran == []
    assert alone.resume(add_trials=1).total == 3 and len(alone.ran) == 1 and alone.looked == 2


def test_what_another_has_changed_may_refuse_a_resume_and_then_the_run_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile = Meanwhile(tmp_path, monkeypatch, set={"search.trials": 0}, total=4)
    with pytest.raises(ConfigError, match="trials"):
        meanwhile.resume(add_trials=3)
    store = open_store(tmp_path / NAME)
    assert RunLog.open(store).state.resumes == 1
    store.acquire(heartbeat=False)
    store.release()


def test_a_kill_between_a_new_space_and_its_generation_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile = Meanwhile(tmp_path, monkeypatch)
    new = ("space={st.weight: {low: 0.5, high: 0.9}}",)

    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("search.resume._new_generation", killed)
        meanwhile.resume(add_trials=1, sets=new)
    state = RunLog.open(open_store(tmp_path / NAME)).state
    assert state.generation == 0 and state.space_asked
    state = meanwhile.resume()
    assert state.generation == 1 and not state.space_asked and list(state.spaces[1]["space"]["entries"])
    assert meanwhile.resume().generation == 1


def test_what_an_earlier_driver_was_asked_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile = Meanwhile(tmp_path, monkeypatch)
    store = open_store(tmp_path / NAME)
    store.write_bytes(STOP_FILE, b"stop\n")
    assert ask_to_stop(str(tmp_path / NAME)) is False, "nobody runs it"
    meanwhile.resume(add_trials=1)
    assert meanwhile.ran and not store.exists(STOP_FILE)


# ---- places ----


def test_a_place_with_anything_in_it_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path / "run")
    refuse_taken(store)
    store.write_bytes("control/stop", b"stop")
    store.write_bytes(".lease.2.claim", b"of a driver that was killed before its first event")
    refuse_taken(store)
    store.write_bytes("trials/0/checkpoints/last.pt", b"of a run whose record is gone")
    with pytest.raises(ConfigError, match="empty place"):
        refuse_taken(store)
    moved = set_aside(store)
    assert moved is not None and not (tmp_path / "run").exists()
    assert (Path(moved) / "trials/0/checkpoints/last.pt").exists()
    assert set_aside(open_store(tmp_path / "run")) is None


def test_a_run_whose_first_event_was_never_written_whole_may_begin_again(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        whole = (tmp_path / "toy" / log.store.list("events")[0]).read_bytes()
    torn = open_store(tmp_path / "torn")
    torn.write_bytes("events/000000.jsonl", whole[:40])
    refuse_taken(torn)
    torn.write_bytes("events/000000.jsonl", whole)
    with pytest.raises(ConfigError, match="there is a run"):
        refuse_taken(torn)


@pytest.mark.fault(
    11,
    how="--fresh on a run that a living process drives",
    saw="LeaseHeldError; the run stands untouched",
)
def test_a_run_that_somebody_drives_is_not_put_aside(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(LeaseHeldError):
        set_aside(open_store(tmp_path / "toy"))
    assert RunLog.open(open_store(tmp_path / "toy")).state.run


# ---- an end that would never come ----


@pytest.mark.parametrize(
    ("search", "gpus", "ends"),
    [({"budget": {"gpu_hours": 8}, "trials": MANY_TRIALS}, 0, False), ({"budget": {"gpu_hours": 8}}, 0, True),
     ({"budget": {"gpu_hours": 8}, "trials": MANY_TRIALS}, 1, True), ({"trials": MANY_TRIALS}, 0, True),
     ({"budget": {"gpu_hours": 8}, "trials": MANY_TRIALS, "max_hours": 1.0}, 0, True)],
)  # fmt: skip
def test_a_budget_of_gpu_hours_needs_a_gpu(tmp_path: Path, search: dict[str, Any], gpus: int, ends: bool) -> None:
    config, cluster = toy_config(tmp_path, search=search), SimpleNamespace(nodes=[{"CPU": 4.0, "GPU": gpus}])
    with nullcontext() if ends else pytest.raises(ConfigError, match="search would never end"):
        slots_of(config, cast(Cluster, cluster))


# ---- exit codes ----


@pytest.mark.parametrize(
    ("ends", "reason", "code"),
    [
        ({"COMPLETE": 0.5}, None, 0),
        ({"COMPLETE": 0.5, "FAILED": None}, None, 3),
        ({"FAILED": None}, None, 1),
        ({}, None, 1),
        ({}, "stop", 0),
        ({"COMPLETE": 0.5}, "max_hours", 0),
        ({"FAILED": None}, "failing_rung", 3),
        ({"COMPLETE": 0.5}, "interrupt", 130),
        ({}, "sigterm", 143),
        ({"DIVERGED": 0.9}, None, 1),
    ],
)
def test_the_exit_code_says_how_it_ended(
    tmp_path: Path, ends: dict[str, float | None], reason: str | None, code: int
) -> None:
    with opened(tmp_path) as log:
        for number, (state, value) in enumerate(ends.items()):
            add(log, number, state, value)
        assert exit_code(log.state, reason) == code


# ---- checkpoints that stay ----


def test_only_leaders_keep_their_best_and_only_unfinished_trials_their_last(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        for number, (state, value) in enumerate(
            [
                ("COMPLETE", 0.4),
                ("PRUNED", 0.9),
                ("FAILED", 0.8),
                ("DIVERGED", 0.95),
                (None, 0.1),
                ("STOPPED", 0.9),
            ]
        ):
            add(log, number, state, value)
        keep = KeepConfig(best=2)
        assert to_delete(log.state, keep) == [
            (0, "last"), (0, "best"), (1, "last"), (3, "last"), (3, "best"), (5, "last"),
        ]  # fmt: skip
        store = log.store
        for number in range(6):
            for name in ("last.pt", "previous.pt", "best-5.safetensors", "best.json"):
                store.write_bytes(f"trials/{number}/checkpoints/{name}", b"x")
        Keeper(log, keep).update(log.state)
        left = {number: len(store.list(f"trials/{number}")) for number in range(6)}
        assert left == {0: 0, 1: 2, 2: 4, 3: 0, 4: 4, 5: 2}
        assert to_delete(log.state, keep) == [] and log.state.trials[0].deleted == ["last", "best"]
        assert to_delete(log.state, KeepConfig(best=2, last="always")) == []


# ---- what a person sees ----


def drawn(state: RunState, log: PatientLog, terminal: bool, encoding: str) -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=out, force_terminal=terminal, width=100, highlight=False, markup=False)
    with Progress(lambda: state, 3, console) as progress:
        log.listeners.append(progress.event)
        add(log, 0, "PRUNED", 0.25)
        add(log, 1, None, 0.5)
        progress.say("größer — [bold]")
        progress.tick()
    out.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_progress_is_drawn_on_any_console(tmp_path: Path, terminal: bool, encoding: str) -> None:
    with opened(tmp_path) as log:
        text = drawn(log.state, log, terminal, encoding)
    assert "trial 0 PRUNED: best val/miou 0.2500 at step 5; 1/3 trials" in text
    assert ("größer — [bold]" in text) == (encoding == "utf-8")
    assert ("RUNNING" in text) == terminal and ("trial 0 step 5" in text) != terminal


class Leaves(Console):
    """Does at a broken pipe what rich does, without touching this process's standard output."""

    def on_broken_pipe(self) -> None:
        raise SystemExit(1)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), BrokenPipeError(32, "Broken pipe")])
@pytest.mark.parametrize("at", [0, 2])
def test_a_terminal_that_is_gone_ends_nothing(tmp_path: Path, terminal: bool, error: OSError, at: int) -> None:
    class Gone(io.StringIO):
        at = 0

        def write(self, text: str) -> int:
            self.at -= 1
            if self.at < 0:
                raise error
            return len(text)

    with opened(tmp_path) as log:
        file = Gone()
        file.at = at
        console = Leaves(file=file, force_terminal=terminal, width=100)
        with Progress(lambda: log.state, 3, console) as progress:
            log.listeners.append(progress.event)
            for number in range(2):
                add(log, number, "PRUNED", 0.25)
                progress.say("a line")
                progress.tick()
        assert [trial.state for trial in log.state.trials.values()] == [TrialState.PRUNED] * 2


# ---- telling somebody ----


@pytest.mark.fault(
    36,
    how="a notify command that exits 5, and one that does not exist",
    saw="a warning in the log each; the result stands",
)
def test_a_notification_that_fails_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = SweepResult(3, None, "/runs/x", {"COMPLETE": 1}, 4, 0.5)
    config = toy_config(tmp_path)

    def with_command(text: str) -> SweepConfig:
        return config.model_copy(update={"notify": NotifyConfig.model_validate({"command": text})})

    assert notify(config, result) is False
    told = tmp_path / "told"
    assert notify(with_command(f"sh -c 'env > {told}'"), result) is True
    assert "THRESHER_EXIT_CODE=3" in told.read_text() and "THRESHER_BEST_TRIAL=4" in told.read_text()
    assert notify(with_command("sh -c 'echo no >&2; exit 5'"), result) is False
    assert notify(with_command("/no/such/command"), result) is False
    assert "ended with 5: no" in caplog.text and "could not be run" in caplog.text
