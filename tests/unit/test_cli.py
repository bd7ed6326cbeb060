"""The command line: what it prints, what it returns, and that bad input never shows a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from search.cli import COMMANDS, main
from search.cli.bar import TrainingBar
from search.preview import Plan, cost, timing_of
from search.probe import Timing
from search.slots import Slots
from search.store import RunLog, open_store
from tests.support.runs import opened, unbroken
from trainable import strict_yaml
from trainable.data.synth import write_scenes
from trainable.errors import WeightsUnavailable

ROOT = Path(__file__).parents[2]
SWEEP = """\
name: tiny
recipe: per_class
data:
  root: scenes
  group_by: '^(p\\d+)'
  labeled: splits/labelled.txt
  unlabeled: splits/unlabelled.txt
  val: splits/val.txt
train:
  steps: 4
  eval_every_steps: 2
  batch_size: 2
  crop_size: 32
  patience: 0
  architecture: fpn
  encoder: tu-mobilenetv3_small_050
  encoder_weights: null
  num_heads: 1
  scale_every_steps: 0
  st: {start_step: 1}
space: {st.weight: {}, ema_decay: {}}
search: {trials: 8, baselines: false}
tracking: {wandb: {mode: disabled}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cli")
    write_scenes(made / "scenes", photos=6, patches_per_photo=4, size=32, labeled=8)
    (made / "sweep.yaml").write_text(SWEEP)
    return made


@pytest.fixture
def run(folder: Path) -> str:
    """A finished run of one configuration, made once."""
    target = folder / "runs" / "tiny-train"
    if not target.exists():
        assert main(["train", str(folder / "sweep.yaml"), "--storage", str(folder / "runs")]) == 0
    return str(target)


def out(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def loads_neither_torch_nor_ray(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    code = f"import sys; from search.cli import main; main({arguments}); print({{'torch', 'ray'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("set()\n")
    return done


@pytest.mark.parametrize("command", ["status", "stop", "table", "export"])
def test_looking_at_a_run_loads_neither_torch_nor_ray(command: str, run: str) -> None:
    assert "tiny-train" in loads_neither_torch_nor_ray([command, run]).stdout or command == "table"


def test_help_names_every_command_and_loads_none_of_them() -> None:
    done = loads_neither_torch_nor_ray(["--help"])
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert out(capsys).startswith(f"Usage: thresher {name}")


@pytest.mark.parametrize("arguments", [["swep"], ["sweep"], ["table", "--nope"], ["data", "chek"], ["train"]])
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Error: " in capsys.readouterr().err


def test_tables_of_what_there_is_come_as_lines_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, key, expected in (
        (["recipes"], "recipe", "per_class"),
        (["spaces"], "space", "per_class/thresholds"),
        (["spaces", "supervised"], "space", "supervised/quick"),
        (["knobs", "per_class"], "knob", "st.weight"),
        (["recipes", "per_class", "--knobs"], "knob", "threshold"),
    ):
        assert main(arguments) == 0
        assert expected in out(capsys)
        assert main([*arguments, "--json"]) == 0
        assert expected in [row[key] for row in json.loads(out(capsys))]
    assert main(["recipes", "per_class"]) == 0
    assert "preset V3.1" in out(capsys)


def test_knobs_say_what_cannot_be_searched_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    main(["knobs", "per_class", "--json"])
    rows = {row["knob"]: row for row in json.loads(out(capsys))}
    assert not rows["steps"]["searchable"]
    assert "yardstick" in rows["steps"]["about"]
    assert "Caution" in rows["patience"]["about"]
    assert rows["optimizer.lr"]["search"] == [1e-5, 0.1]


@pytest.mark.fault(
    45,
    how="27 wrong commands and files",
    saw="exit 2, one message with what to do, no traceback",
)
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["recipes", "per_clas"], "did you mean 'per_class'?"),
        (["sweep", "gone.yaml"], "must be readable"),
        (["preview", "{folder}/bad.yaml"], "bad.yaml:3:train.stepz: unknown key 'stepz'; did you mean 'steps'?"),
        (["sweep", "{folder}/bad.yaml"], "bad.yaml:4:space: "),
        (["sweep", "{folder}/sweep.yaml", "--fresh", "--resume"], "give --fresh or --resume"),
        (["status", "{folder}"], "holds no events"),
        (["resume", "{folder}/nowhere"], "is not there"),
        (["table", "{folder}/nowhere"], "is not there"),
        (["export", "{folder}/nowhere"], "is not there"),
        (["report", "{folder}/nowhere"], "is not there"),
        (["confirm", "{folder}/nowhere"], "is not there"),
        (["wandb-sync", "{folder}/nowhere"], "is not there"),
        (["stop", "{folder}/nowhere"], "is not there"),
        (["train", "{folder}/bad.yaml"], "bad.yaml:3:train.stepz"),
        (["predict", "{folder}/nowhere", "{folder}", "{folder}/masks"], "is not there"),
        (["predict", "{folder}", "{folder}/gone", "{folder}/masks"], "the images must be in a folder"),
        (["init", "{folder}/gone"], "there is none"),
        (["init", "{folder}/scenes", "-o", "{folder}/sweep.yaml"], "must not exist yet"),
        (["data", "check", "{folder}/gone.yaml"], "must be readable"),
        (["data", "check", "{folder}/scenes", "--set", "data.val=splits/gone.txt"], "gone.txt"),
        (["data", "synth", "{folder}/scenes"], "must be empty"),
        (["data", "synth", "{folder}/scenes/class_mapping.csv"], "but is a file"),
        (["data", "synth", "{folder}/new", "--photos", "1"], "photos must lie between"),
        (["data", "synth", "{folder}/bad.yaml/new"], "must be writable"),
        (["demo", "--storage", "{folder}/bad.yaml/new"], "must be writable"),
        (["predict", "{folder}", "{folder}", "{folder}/masks", "--device", "cuda:x"], "must be cpu, cuda, cuda:<n>"),
        (["predict", "{folder}", "{folder}", "{folder}/masks", "--device", "cuda:99"], "must be this CUDA device"),
    ],
)  # fmt: skip
def test_bad_input_exits_2_and_says_what_to_do(
    arguments: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.yaml").write_text(
        "name: x\nrecipe: per_class\ntrain: {stepz: 4}\nspace: 5\ndata: {root: scenes}\n"
    )
    assert main([word.format(folder=folder) for word in arguments]) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert shown.startswith("thresher: ")
    assert "Traceback" not in shown


def test_init_writes_a_file_that_loads_and_says_the_next_commands(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "first.yaml"
    assert main(["init", str(folder / "scenes"), "-o", str(target), "--name", "first", "--group-by", r"^(p\d+)"]) == 0
    assert f"thresher sweep {target}" in out(capsys)
    data = strict_yaml.load(target).data
    assert data["data"]["group_by"] == r"^(p\d+)"
    assert data["data"]["labeled"] == "splits/labelled.txt"
    assert main(["preview", str(target), "--no-probe", "--set", "train.encoder_weights=null"]) == 0
    assert "32 trials" in out(capsys)


def test_data_check_counts_and_refuses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(folder / "sweep.yaml")]) == 0
    assert "nothing is wrong" in out(capsys)
    assert main(["data", "check", str(folder / "sweep.yaml"), "--json"]) == 0
    assert json.loads(out(capsys))["splits"][0]["images"] == 8
    leak = ["data", "check", str(folder / "sweep.yaml"), "--set", "data.val=splits/unlabelled.txt"]
    assert main(leak) == 2
    capsys.readouterr()
    text = "name: x\ndata:\n  root: scenes\n  group_by: p\n"
    (folder / "one.yaml").write_text(text)
    assert main(["data", "check", str(folder / "one.yaml")]) == 2
    assert f"thresher: {folder}/one.yaml:4:data.group_by: images with masks must" in capsys.readouterr().err
    assert main([*leak, "--json"]) == 2
    assert not json.loads(out(capsys))["ok"]


def test_preview_says_rungs_and_when_nothing_will_be_pruned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(folder / "sweep.yaml")
    assert main(["preview", file, "--no-probe", "--set", "train.steps=40", "--json"]) == 0
    plan = json.loads(out(capsys))["plan"]
    assert [rung["step"] for rung in plan["rungs"]] == [14]
    assert plan["rungs"][0] == {"step": 14, "trials": 8, "stay": 3}
    assert plan["total_steps"] == 5 * 14 + 3 * 40
    assert main(["preview", file, "--no-probe", "--set", "search.asha.grace_steps=4"]) == 0
    shown = out(capsys)
    assert "nothing will be pruned: the first rung (4 steps) lies beyond half of the run (4 steps)" in shown
    assert "hours unknown: not asked for" in shown


def test_one_configuration_trains_and_leaves_a_run(run: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {path.relative_to(run).as_posix() for path in Path(run).rglob("*") if path.is_file()}
    assert {"sweep.yaml", "trials.parquet", "trials/0/config.yaml", "trials/0/train.log"} <= files
    assert any(name.startswith("history/") for name in files)
    assert main(["status", run, "--json"]) == 0
    found = json.loads(out(capsys))
    assert found["states"] == {"COMPLETE": 1}
    assert found["status"] == "closed"
    assert main(["status", run, "--trials"]) == 0
    assert "COMPLETE" in out(capsys)


def test_a_name_that_exists_is_refused_gone_on_with_or_put_aside(
    run: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["train", str(folder / "sweep.yaml"), "--storage", str(folder / "runs")]
    assert main(again) == 2
    assert "--fresh" in capsys.readouterr().err
    assert main([*again, "--resume"]) == 0
    assert main(["resume", run]) == 0
    assert "nothing is left to do" in out(capsys)
    assert main(["resume", run, "--add-trials", "1"]) == 2
    before = set((folder / "runs").iterdir())
    assert main([*again, "--fresh"]) == 0
    [kept] = set((folder / "runs").iterdir()) - before
    assert kept.name.startswith("tiny-train.")
    assert (kept / "events").is_dir()


@pytest.mark.fault(
    20,
    how="trials.parquet is removed and `table RUN --verify` is called",
    saw="exit 1 and `missing`; `table RUN` makes it again and --verify exits 0",
)
def test_the_table_is_printed_verified_and_written_as_csv(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", run, "--csv", str(tmp_path / "t.csv")]) == 0
    assert "COMPLETE" in out(capsys)
    assert (tmp_path / "t.csv").read_text().startswith("trial,state,")
    assert main(["table", run, "--json"]) == 0
    assert json.loads(out(capsys))[0]["state"] == "COMPLETE"
    assert main(["table", run, "--verify"]) == 0
    verified = out(capsys)
    assert "nothing is lost" in verified
    assert "did not announce" not in verified
    (Path(run) / "trials.parquet").unlink()
    assert main(["table", run, "--verify"]) == 1
    assert "missing" in out(capsys)
    assert main(["table", run]) == 0
    assert main(["table", run, "--verify", "--json"]) == 0


def test_what_is_exported_says_where_it_came_from_and_predicts(
    run: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", run]) == 0
    best = Path(run) / "best.yaml"
    data = strict_yaml.load(best).data
    assert data["provenance"]["trial"] == 0
    assert data["provenance"]["run"] == run
    assert len(data["provenance"]["data_hash"]) == 64
    assert data["train"]["steps"] == 4
    assert main(["export", run, "--trial", "7"]) == 2
    for number, source in enumerate((run, str(best), str(Path(run) / "trials" / "0"))):
        masks = tmp_path / f"masks{number}"
        assert main(["predict", source, str(folder / "scenes" / "images"), str(masks)]) == 0
        assert len(list(masks.glob("*.png"))) == 24
    assert main(["train", str(best), "--storage", str(tmp_path / "again"), "--set", "train.steps=2"]) == 0
    assert (tmp_path / "again" / "tiny-train-trial0" / "trials.parquet").is_file()


def test_a_report_is_one_file_that_needs_nothing_else(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", run]) == 0
    page = (Path(run) / "report.html").read_text(encoding="utf-8")
    assert "Plotly.newPlot" in page
    assert "<script src=" not in page
    assert "<link" not in page


def test_stop_reaches_only_a_run_that_somebody_runs(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stop", run]) == 0
    assert "nobody runs" in out(capsys)
    assert not (Path(run) / "control" / "stop").exists()
    log = RunLog.create(open_store(tmp_path / "live"), heartbeat=False, **opened())
    log.append("asked", trial=0, source="sampled", params={}, config={})
    assert main(["stop", str(tmp_path / "live")]) == 0
    assert main(["stop", str(tmp_path / "live"), "--trial", "0"]) == 0
    assert "asked trial 0 to stop" in out(capsys)
    assert (tmp_path / "live" / "control" / "stop").read_text() == "stop\ntrial 0\n"
    assert main(["stop", str(tmp_path / "live"), "--trial", "5"]) == 2
    log.close()


def test_doctor_reports_and_never_shows_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary-0123456789")
    assert main(["doctor", "--storage", str(tmp_path / "runs"), "--json"]) == 0
    shown = out(capsys)
    checks = {check["what"]: check["state"] for check in json.loads(shown)}
    assert checks["torch + torchvision"] == "ok"
    assert checks["wandb key"] == "ok"
    assert "canary" not in shown
    assert not (tmp_path / "runs").exists()
    (tmp_path / "file").write_text("x")
    assert main(["doctor", "--storage", str(tmp_path / "file")]) == 1


def test_a_console_without_utf_8_gets_ascii() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "search.cli", "status", "t\u00fcny"], cwd=ROOT, env=environment, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "is not there" in done.stderr.decode("ascii")


def test_a_reader_that_leaves_is_no_error() -> None:
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m search.cli knobs | head -1", shell=True, cwd=ROOT, capture_output=True,
        executable="/bin/bash", check=False,
    )  # fmt: skip
    assert done.stdout.startswith(b"knob")
    assert b"Traceback" not in done.stderr


def test_status_says_who_runs_it_and_what_went_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog.create(open_store(tmp_path / "live"), heartbeat=False, **opened())
    for number, error in enumerate(("oom: no memory\ncause: x", "oom: no memory\ncause: y", "data: gone")):
        log.append("asked", trial=number, source="sampled", params={}, config={})
        log.append("started", trial=number, attempt=1)
        log.append("ended", trial=number, attempt=1, state="FAILED", stop_reason="oom", error=error)
    assert main(["status", str(tmp_path / "live")]) == 0
    shown = out(capsys)
    assert f"held by {os.uname().nodename}, process {os.getpid()}" in shown
    assert "trial 0, 1: oom: no memory\ntrial 2: data: gone\n" in shown
    log.close()
    assert main(["status", str(tmp_path / "live")]) == 0
    assert f"`thresher resume {tmp_path}/live` goes on" in out(capsys)


def test_a_diverged_trial_is_never_on_top_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = unbroken(open_store(tmp_path / "run"))
    best = state.best()
    assert best is not None and main(["table", str(tmp_path / "run")]) == 0
    head, first, *_ = out(capsys).splitlines()
    assert "best val/miou" in head and first.split()[0] == str(best.number)
    with RunLog.create(open_store(tmp_path / "one"), heartbeat=False, **opened()) as log:
        for number, end in enumerate(("DIVERGED", "COMPLETE")):
            log.append("asked", trial=number, source="sampled", params={}, config={})
            log.append("started", trial=number, attempt=1)
            log.append("evaluated", trial=number, attempt=1, step=1, time_s=123456.7, objective=0.9 - number / 2,
                       record={"val/miou": 0.9 - number / 2}, decision={"action": "continue"})  # fmt: skip
            log.append("ended", trial=number, attempt=1, state=end, time_s=123456.7)
    assert main(["table", str(tmp_path / "one")]) == 0
    shown = out(capsys)
    assert [line.split()[0] for line in shown.splitlines()[1:3]] == ["1", "0"]
    assert "123457" in shown


def test_a_plan_is_not_cheaper_for_slots_that_no_trial_is_left_for() -> None:
    planned = Plan(2, 0, 100, 4, (), "", 200, 200)
    timing = Timing(1.0, 0.5, 2.0, 10.0, 30.0, "cpu", 8)
    spent = [cost(planned, timing, Slots(count, 0.0, 1, 1), 10) for count in (1, 2, 4)]
    assert spent[0] is not None and spent[1] is not None
    assert spent[0].hours == pytest.approx(2 * spent[1].hours) and spent[1] == spent[2]


def test_the_bar_watches_what_the_run_goes_by() -> None:
    bar = TrainingBar(objective="val/f1")
    bar._known = {"val/f1": 0.5, "val/miou": 0.4, "lr": 0.1}
    assert bar.signals() == "lr 0.1  val/f1 0.5"


def test_ctrl_c_while_a_command_loads_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(named: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("search.cli.build", interrupted)
    assert main(["status", "x"]) == 130


def test_what_the_measurement_runs_into_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(cause: Exception) -> None:
        raise RayTaskError("time_trial", "a page of Ray's own", cause).as_instanceof_cause()

    monkeypatch.setattr("search.preview.ray.get", get)
    with pytest.raises(WeightsUnavailable) as caught:
        timing_of(WeightsUnavailable("encoder_weights: must be there; use null"))
    assert str(caught.value) == "encoder_weights: must be there; use null"
    assert timing_of(RuntimeError("out of memory\nmore")) == (
        None, "the measurement ended with RuntimeError: out of memory"
    )  # fmt: skip
