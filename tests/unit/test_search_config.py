"""Sweep files: what a good one means, and every fault of a bad one at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.config import SweepConfig, dotted_fields, load_run, load_sweep
from search.opening import configure
from search.suggestion import Suggestion
from trainable import strict_yaml
from trainable.errors import ConfigError

GOOD = """\
name: salak-thresholds
recipe: per_class
data:
  root: data
  classes: class_mapping.csv
  group_by: '^(t\\d+p\\d+)'
train:
  steps: 2e3
  batch_size: 8
  optimizer: {lr: 5e-4}
  threshold: {default: 0.6, road: 0.7}
space: {st.weight: {low: 0.5, high: 2}, ema_decay: {}}
search: {trials: 12, max_hours: null}
storage: ./runs
seed: 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("THRESHER_DATA", raising=False)
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data" / "class_mapping.csv").write_text("class_name,class_color\nland,1 2 3\nroad,4 5 6\n")
    return tmp_path


def written(folder: Path, text: str = GOOD, **changes: str) -> Path:
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def messages(folder: Path, text: str, sets: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_sweep(written(folder, text), sets)
    return [str(fault).replace(f"{folder}/", "") for fault in caught.value.faults]


def test_a_good_file_is_read_with_every_default_written_out(folder: Path) -> None:
    sweep = load_sweep(written(folder))
    assert sweep.train == {
        "steps": 2000, "batch_size": 8, "optimizer.lr": 5e-4, "threshold.default": 0.6, "threshold.road": 0.7,
    }  # fmt: skip
    assert isinstance(sweep.train["steps"], int)
    assert sweep.data.root == str(folder / "data")
    assert sweep.storage == str(folder / "runs")
    assert sweep.run == str(folder / "runs" / "salak-thresholds")
    assert (sweep.search.objective, sweep.search.direction) == ("val/miou", "max")
    assert sweep.search.asha is not None
    assert sweep.search.asha.grace_steps == "auto"
    assert SweepConfig.model_validate(json.loads(sweep.model_dump_json(by_alias=True))) == sweep


def test_a_path_of_the_file_starts_at_the_file_and_one_of_an_override_at_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_sweep(written(folder)).data.root == str(folder / "data")
    sweep = load_sweep(written(folder), ["data.root=../data", "storage=out"])
    assert sweep.data.root == str(folder / "data")
    assert sweep.storage == str(elsewhere / "out")
    assert load_sweep(written(folder), ["storage=s3://bucket/runs/"]).run == "s3://bucket/runs/salak-thresholds"


def test_only_the_data_variable_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD.replace("root: data", "root: ${THRESHER_DATA}/data")
    assert messages(folder, text)[0].startswith("sweep.yaml:4:data.root: THRESHER_DATA must be set")
    monkeypatch.setenv("THRESHER_DATA", str(folder))
    assert load_sweep(written(folder, text)).data.root == str(folder / "data")
    [message, *_] = messages(folder, GOOD.replace("root: data", "root: ${HOME}/data"))
    assert "only ${THRESHER_DATA} is expanded, but got '${HOME}'" in message


def test_overrides_are_read_like_the_file_and_the_later_one_wins(folder: Path) -> None:
    sweep = load_sweep(
        written(folder),
        ["train.optimizer.lr=1e-3", "search.trials=5", "search.trials=7", "search.asha=null"]
        + ["space={st.weight: [1, 2]}"],
    )
    assert sweep.train["optimizer.lr"] == 1e-3
    assert sweep.search.trials == 7
    assert sweep.search.asha is None
    assert sweep.space == {"st.weight": [1, 2]}


def test_a_budget_stands_in_for_a_number_of_trials(folder: Path) -> None:
    sweep = load_sweep(written(folder, **{"{trials: 12": "{budget: {gpu_hours: 8}"}))
    assert sweep.search.budget is not None
    assert sweep.search.trials >= 10_000
    assert load_sweep(written(folder, **{"{trials: 12": "{trials: 3, budget: {gpu_hours: 8}"})).search.trials == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("batch_size: 8", "architecture: unnet", "sweep.yaml:9:train.architecture: must be one of "),
     ("batch_size: 8", "encoder: resnet81", "sweep.yaml:9:train.encoder: must be an encoder of "),
     ("ema_decay: {}", "encoder: [resnet18, resnet81]", "sweep.yaml:12:space.encoder: must be an encoder of "),
     ("batch_size: 8", "init_from: gone.pt", "sweep.yaml:9:train.init_from: init_from must be a file of weights"),
     ("batch_size: 8", "encoder_weights: gone.pth", "sweep.yaml:9:train.encoder_weights: encoder_weights must be a"),
     ("./runs", "data/class_mapping.csv", "sweep.yaml:14:storage: storage must be a folder, but "),
     ("./runs", "data/class_mapping.csv/below", "sweep.yaml:14:storage: storage must be a folder, but "),
     ("./runs", "~nobody-of-that-name/x", "sweep.yaml:14:storage: storage must be a path, but "),
     ("seed: 3", "notify: {command: 'a \"b'}", "sweep.yaml:15:notify.command: command must be words as a shell"),
     ("seed: 3", "notify: {command: ''}", "sweep.yaml:15:notify.command: command must name a program, but "),
     ("root: data", "root: data\n  volume: {group_by: '(t)', order_by: 'z(.)'}", "sweep.yaml:2:recipe: per_class "),
     ("root: data", "root: data\n  cache: {max_gb: -1}", "sweep.yaml:5:data.cache.max_gb: max_gb must be `auto` or")],
)  # fmt: skip
def test_what_would_fail_every_trial_is_found_in_the_file(folder: Path, old: str, new: str, message: str) -> None:
    [found] = messages(folder, GOOD.replace(old, new))
    assert found.startswith(message)


def test_a_file_of_weights_is_found_from_the_folder_of_its_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.pt").touch()
    path = written(folder, **{"batch_size: 8": "init_from: mine.pt"})
    assert load_sweep(path).train["init_from"] == str(folder / "mine.pt")
    monkeypatch.chdir(folder / "data")
    (folder / "data" / "other.pt").touch()
    assert load_sweep(path, ["train.init_from=other.pt"]).train["init_from"] == str(folder / "data" / "other.pt")
    assert load_sweep(path, ["train.init_from=null", "train.encoder_weights=imagenet"]).train["encoder_weights"] == (
        "imagenet"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("trials: 12", "trials: 0", "trials must be at least 1, but got trials=0; change it"),
     ("trials: 12", "trials: '12'", "trials must be a whole number, but got trials='12'; remove the quotes"),
     ("trials: 12", "asha: yes", "asha must hold keys and values, but got asha='yes'; correct it"),
     ("trials: 12", "sampler: tpee", "sampler must be one of 'tpe', 'random', but got sampler='tpee'; choose one"),
     ("./runs", "5", "storage must be a text, but got storage=5; put it in quotes"),
     ("lr: 5e-4", "lr: 11", "lr must be at most 10, but got lr=11; change it")],
)  # fmt: skip
def test_a_fault_is_told_in_the_words_of_the_file_and_not_of_the_program(
    folder: Path, old: str, new: str, message: str
) -> None:
    [found] = messages(folder, GOOD.replace(old, new))
    assert found.partition(": ")[2] == message


BAD = """\
name: ../escape
recipe: per_clas
data:
  rot: data
  root: data
space: [1]
search:
  trails: 64
  trials: true
  sampler: tpee
  max_hours: -1
  max_concurrent: 0
  baselines: no
  asha: {grace_steps: no, reduction_factor: 1}
seed: 1.5
resources: {gpus_per_trial: -1, workers_per_trial: 0}
"""


@pytest.mark.fault(
    44, 45, 47,
    how="a sweep file with sixteen faults: wrong types, unknown keys, `name: ../escape`, an unknown recipe",
    saw="all sixteen at once with file:line:key and the nearest valid name",
)
def test_every_fault_of_the_structure_is_reported_at_once_with_its_line(folder: Path) -> None:
    found = messages(folder, BAD, ("storage=",))
    places = {message.split(": ")[0] for message in found}
    assert places == {
        "--set storage", "sweep.yaml:1:name", "sweep.yaml:2:recipe", "sweep.yaml:4:data.rot", "sweep.yaml:6:space",
        "sweep.yaml:8:search.trails", "sweep.yaml:9:search.trials", "sweep.yaml:10:search.sampler",
        "sweep.yaml:11:search.max_hours", "sweep.yaml:12:search.max_concurrent", "sweep.yaml:13:search.baselines",
        "sweep.yaml:14:search.asha.grace_steps", "sweep.yaml:14:search.asha.reduction_factor", "sweep.yaml:15:seed",
        "sweep.yaml:16:resources.gpus_per_trial", "sweep.yaml:16:resources.workers_per_trial",
    }  # fmt: skip
    text = "\n".join(found)
    assert "did you mean 'data.root'?" in text
    assert "did you mean 'search.trials'?" in text
    assert "did you mean 'per_class'?" in text


@pytest.mark.fault(
    46,
    how=(
        "nine faults of knobs, among them a threshold of 1.5, warm-up longer than the run, grace_steps "
        "above steps"
    ),
    saw="all at once with file and line",
)
def test_every_fault_of_the_knobs_is_reported_at_once_with_its_line(folder: Path) -> None:
    text = GOOD.replace("  batch_size: 8\n", "  batch_size: true\n  stepz: 100\n  crop_size: '64'\n")
    text = text.replace("road: 0.7", "road: 1.5, rod: 0.3").replace("lr: 5e-4", "lr: -1, warmup_steps: 5000")
    text = text.replace("recipe: per_class", "recipe: per_class\npreset: V3.2")
    text = text.replace("{trials: 12,", "{trials: 12, asha: {grace_steps: 3000},")
    found = messages(folder, text, ("train.patience=-3",))
    starts = [
        "--set train.patience: ", "sweep.yaml:3:preset: ", "sweep.yaml:8:train: optimizer.warmup_steps",
        "sweep.yaml:10:train.batch_size: batch_size must be a number, but got batch_size=True",
        "sweep.yaml:11:train.stepz: unknown key 'stepz'; did you mean 'steps'?",
        "sweep.yaml:12:train.crop_size: crop_size must be a number, but got crop_size='64'; remove the quotes",
        "sweep.yaml:13:train.optimizer.lr: ", "sweep.yaml:14:train.threshold.road: ",
        "sweep.yaml:14:train.threshold.rod: threshold must name classes of the data",
    ]  # fmt: skip
    for start, message in zip(starts, found, strict=True):
        assert message.startswith(start)


def test_thresholds_go_by_the_classes_of_the_data(folder: Path) -> None:
    [message] = messages(folder, GOOD.replace("road: 0.7", "rod: 0.7"))
    assert message.startswith("sweep.yaml:11:train.threshold.rod: ")
    assert "(land, road), but got 'rod'; did you mean 'road'?" in message


@pytest.mark.fault(
    45,
    how="a space with an unknown knob, class and name",
    saw="each named with its line and the nearest valid name",
)
def test_a_space_is_checked_against_knobs_classes_and_what_is_fixed(folder: Path) -> None:
    bad = "{st.wieght: {low: 1, high: 2}, threshold.rod: {}, steps: [1, 2], threshold.road: {}}"
    found = messages(folder, GOOD.replace("{st.weight: {low: 0.5, high: 2}, ema_decay: {}}", bad))
    assert [m.split(": ")[0] for m in found] == [
        f"sweep.yaml:12:space.{k}" for k in ("st.wieght", "threshold.rod", "steps", "threshold.road")
    ]
    assert "did you mean 'st.weight'?" in found[0]
    [message] = messages(folder, GOOD.replace("{st.weight: {low: 0.5, high: 2}, ema_decay: {}}", "per_class/fulll"))
    assert message.startswith("sweep.yaml:12:space: ")
    assert "did you mean 'per_class/full'?" in message


@pytest.mark.fault(
    46,
    how="grace_steps=3000 with steps=2000",
    saw="refused: grace_steps must not exceed steps=2000",
)
def test_the_first_rung_must_lie_within_the_run(folder: Path) -> None:
    [message] = messages(folder, GOOD.replace("{trials: 12,", "{asha: {grace_steps: 3000},"))
    assert message.startswith("sweep.yaml:13:search.asha.grace_steps: grace_steps must not exceed steps=2000")


@pytest.mark.fault(
    45,
    how="`objective: val/mIoU`",
    saw="refused: did you mean 'val/miou'?, with the list of metrics",
)
def test_the_objective_must_be_a_metric_of_the_run(folder: Path) -> None:
    [message] = messages(folder, GOOD.replace("{trials: 12,", "{objective: val/mIoU,"))
    assert message.startswith("sweep.yaml:13:search.objective: ")
    assert "did you mean 'val/miou'?" in message
    assert "val/iou/road" in message
    sweep = load_sweep(written(folder, **{"{trials: 12,": "{objective: val/iou/road,"}))
    assert sweep.search.objective == "val/iou/road"


SURFACE = GOOD.replace("per_class", "surface").replace("  threshold: {default: 0.6, road: 0.7}\n", "\n").replace(
    "space: {st.weight: {low: 0.5, high: 2}, ema_decay: {}}", "space: {loss.dice: {}}"
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "search", "expected"),
    [(GOOD, "{objective: val/f1,", ("val/f1", "max")), (SURFACE, "{objective: val/voi,", ("val/voi", "min")),
     (SURFACE, "{objective: val/loss, direction: min,", ("val/loss", "min"))],
)  # fmt: skip
def test_the_direction_is_the_metrics_own(
    folder: Path, text: str, search: str, expected: tuple[str, str]
) -> None:
    sweep = load_sweep(written(folder, text, **{"{trials: 12,": search}))
    assert (sweep.search.objective, sweep.search.direction) == expected
    alone, _ = load_run(folder / "sweep.yaml")
    assert alone.objective == expected[0]
    told = configure(sweep, ("land", "road"), "r")(Suggestion(0, "sampled", {}, {}, {}, {}))
    assert (told["objective"], told["direction"]) == expected


@pytest.mark.parametrize(
    ("objective", "hint"),
    [("loss/total", "the recipe's own is 'val/miou'"), ("lr", "the recipe's own is 'val/miou'"),
     ("gap", "the recipe's own is 'val/miou'"), ("train/miou", "did you mean 'val/miou'?"),
     ("st/ratio", "the recipe's own is 'val/miou'"), ("threshold/road", "the recipe's own is 'val/miou'")],
)  # fmt: skip
def test_an_objective_that_measures_the_training_is_refused(folder: Path, objective: str, hint: str) -> None:
    [message] = messages(folder, GOOD.replace("{trials: 12,", f"{{objective: {objective},"))
    assert message.startswith("sweep.yaml:13:search.objective: objective must be a validation metric that per_class")
    assert f"but got objective={objective!r}; {hint}; metrics: val/miou, val/iou/land, val/iou/road, val/f1" in message
    named = message.partition("; metrics: ")[2].split(", ")
    assert all(name.startswith("val/") for name in named)


def test_an_objective_of_the_data_alone_is_refused(folder: Path) -> None:
    [message] = messages(folder, SURFACE.replace("{trials: 12,", "{objective: val/loss_constant,"))
    named = message.partition("; metrics: ")[2].split(", ")
    assert "val/loss" in named and "val/loss_constant" not in named


def test_an_objective_that_is_turned_around_is_refused(folder: Path) -> None:
    for search in ("{objective: val/f1, direction: min,", "{direction: min,"):
        [message] = messages(folder, GOOD.replace("{trials: 12,", search))
        assert message.startswith("sweep.yaml:13:search.direction: direction must be max"), message
    [message] = messages(folder, SURFACE.replace("{trials: 12,", "{objective: val/loss, direction: max,"))
    assert message.startswith("sweep.yaml:13:search.direction: direction must be min"), message


def test_a_single_configuration_names_its_own_objective(folder: Path) -> None:
    plain = "\n".join(line for line in GOOD.splitlines() if not line.startswith(("space", "search", "storage")))
    (folder / "one.yaml").write_text(f"{plain}\nobjective: val/f2\n")
    with pytest.raises(ConfigError, match=r"one.yaml:\d+:objective: .*did you mean 'val/f1'"):
        load_run(folder / "one.yaml")
    (folder / "one.yaml").write_text(f"{plain}\nobjective: val/f1\n")
    assert load_run(folder / "one.yaml")[0].objective == "val/f1"
    with pytest.raises(ConfigError, match=r"^--set objective: objective must be "):
        load_run(folder / "one.yaml", ["objective=val/f2"])


def test_a_knob_given_twice_is_refused_however_it_is_written(folder: Path) -> None:
    [message] = messages(folder, GOOD.replace("  batch_size: 8\n", "  optimizer.lr: 1e-3\n"))
    assert "optimizer.lr stands twice" in message
    [message] = messages(folder, GOOD.replace("  batch_size: 8\n", "  threshold.default: 0.5\n  threshold.land: 0.5\n"))
    assert "threshold.default stands twice" in message
    with pytest.raises(ConfigError, match="threshold must hold keys"):
        load_sweep(written(folder, GOOD.replace("{default: 0.6, road: 0.7}", "0.6")), ["train.threshold.road=0.7"])


def test_what_is_left_out_is_named(folder: Path) -> None:
    found = messages(folder, "train: {}\n")
    needed = ("name", "recipe", "data", "space")
    assert [message.split(": ")[0] for message in found] == [f"sweep.yaml:{key}" for key in needed]


def test_a_missing_data_folder_or_class_table_is_one_of_the_faults(folder: Path) -> None:
    [message] = messages(folder, GOOD.replace("root: data", "root: gone"))
    assert message.startswith("sweep.yaml:4:data.root: root must be a folder")
    (folder / "data" / "class_mapping.csv").write_text("class_name,class_color\nland,1 2 3\nland,4 5 6\n")
    found = messages(folder, GOOD.replace("steps: 2e3", "stepz: 2e3"))
    assert any("class_mapping.csv:3: class names must be unique" in message for message in found)
    assert any("train.stepz" in message for message in found)


@pytest.mark.parametrize(
    "text", ["x", "a=", "=1", "a..b=1", ".a=1", "name.x=1", "search.trials=[1", "x=*a", "search.trials=.nan"]
)
def test_an_override_that_cannot_be_read_is_named(folder: Path, text: str) -> None:
    found = messages(folder, GOOD, (text,))
    assert any("--set" in message for message in found)


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e6, 1e6) | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
    max_leaves=6,
)
_TRAIN = ["train", "train.steps", "train.threshold", "train.st", "train.optimizer.lr"]
_KEYS = sorted(dotted_fields(SweepConfig)) + _TRAIN
_SETS = st.builds("{}={}".format, st.sampled_from(_KEYS) | st.text(max_size=8), st.text(max_size=12))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(_KEYS), _JUNK), max_size=4))
def test_any_value_at_any_key_gives_a_sweep_or_a_config_error(folder: Path, changes: list[tuple[str, Any]]) -> None:
    data = strict_yaml.loads(GOOD).data
    for dotted, value in changes:
        *parents, last = dotted.split(".")
        level: Any = data
        for key in parents:
            level = level.setdefault(key, {}) if isinstance(level, dict) else None
        if isinstance(level, dict):
            level[last] = value
    path = folder / "any.yaml"
    path.write_text(json.dumps(data))
    try:
        load_sweep(path)
    except ConfigError as error:
        assert all(fault.message for fault in error.faults)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_SETS, max_size=3))
def test_any_override_gives_a_sweep_or_a_config_error(folder: Path, sets: list[str]) -> None:
    path = written(folder)
    try:
        load_sweep(path, sets)
    except ConfigError as error:
        assert all(fault.message for fault in error.faults)


@pytest.mark.parametrize(
    ("given", "where"),
    [("trian.x=1", "--set trian.x"), ("trian=1", "--set trian"), ("search.asha.x.y=1", "--set search.asha.x.y")],
)
def test_an_unknown_section_of_an_override_says_where_it_came_from(folder: Path, given: str, where: str) -> None:
    found = messages(folder, GOOD, (given,))
    assert [message.partition(": ")[0] for message in found] == [where], found
    assert "unknown key" in found[0]


def test_a_recipe_of_two_classes_is_refused_where_there_are_more(folder: Path) -> None:
    assert load_sweep(written(folder, SURFACE)).recipe == "surface"
    table = folder / "data" / "class_mapping.csv"
    table.write_text("class_name,class_color\nland,1 2 3\nroad,4 5 6\nroof,7 8 9\n")
    [message] = messages(folder, SURFACE)
    assert message.startswith("sweep.yaml:2:recipe: surface must have two classes") and "land, road, roof" in message
