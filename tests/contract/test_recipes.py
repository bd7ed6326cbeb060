"""What every recipe promises, whatever it trains: it ends, resumes bit for bit, never waits, and says what it did."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from search.metric_columns import metric_columns
from spaces import NAMED
from tests.support.no_sync import no_host_sync
from tests.support.recipe_rows import ROWS, Row, StopAfter, run_row, worker
from trainable.checkpoint import load_best, load_last
from trainable.config import resolve
from trainable.data.dataset import Dataset
from trainable.knob import knobs_of
from trainable.metrics import confusion_matrix, scores
from trainable.models import Segmenter
from trainable.predict import load_predictor
from trainable.recipes import RECIPES
from trainable.state import Outcome, Report, Snapshot

every_row = pytest.mark.parametrize("row", ROWS, ids=str)
every_recipe = pytest.mark.parametrize("recipe", sorted(RECIPES))
CLASSES = ("background", "Jalan", "roof")


@dataclass
class Whole:
    """An unbroken run: its folder, how it ended, what it reported, and the data that it opened."""

    folder: Path
    outcome: Outcome
    reports: list[Report]
    data: Dataset


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Row], Whole]:
    """The unbroken run of a row, trained once."""
    made: dict[str, Whole] = {}

    def of(row: Row) -> Whole:
        if str(row) not in made:
            folder, reports, data = tmp_path_factory.mktemp("whole"), [], row.dataset()
            outcome = run_row(replace(row, dataset=lambda: data), folder, report=reports.append)
            made[str(row)] = Whole(folder, outcome, reports, data)
        return made[str(row)]

    return of


def snapshot(folder: Path) -> Snapshot:
    found, _ = load_last(folder)
    assert found is not None
    return found


def curve(reports: list[Report]) -> dict[int, dict[str, float | None]]:
    return {r.step: r.record for r in reports}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested containers, by path."""
    if isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{path}/{key}")
    else:
        yield path, value


def assert_same_state(one: Snapshot, two: Snapshot) -> None:
    for part in ("nets", "optimizers", "device_state"):
        first, second = dict(leaves(getattr(one, part))), dict(leaves(getattr(two, part)))
        assert first.keys() == second.keys()
        for path, value in first.items():
            same = torch.equal(value, second[path]) if isinstance(value, torch.Tensor) else value == second[path]
            assert same, f"{part}{path}"
    assert one.loop["best_value"] == two.loop["best_value"] and one.loop["recipe"] == two.loop["recipe"]


def test_every_recipe_has_a_row() -> None:
    assert {row.recipe for row in ROWS} == set(RECIPES)


@every_row
def test_it_trains_to_its_end_and_reports_its_signals(row: Row, whole: Callable[[Row], Whole]) -> None:
    run = whole(row)
    assert run.outcome.state == "COMPLETE", run.outcome
    assert run.outcome.step == run.reports[-1].step > 0
    last = run.reports[-1].record
    for name in ("loss/total", "lr", RECIPES[row.recipe].objective, *row.signals):
        value = last[name]
        assert value is not None and math.isfinite(value), name
    if "st/ratio" in row.signals:
        assert {f"st/ratio/{name}" for name in run.data.task().class_names} <= last.keys()
    assert run.outcome.best_value is not None and run.outcome.best_step in curve(run.reports)
    for path, value in leaves(snapshot(run.folder).nets):
        assert not value.is_floating_point() or bool(value.isfinite().all()), path


@every_row
def test_every_metric_it_reports_has_its_column(row: Row, whole: Callable[[Row], Whole]) -> None:
    run = whole(row)
    known = metric_columns(run.data.task().class_names, RECIPES[row.recipe].metrics)
    assert {name for report in run.reports for name in report.record} <= set(known)


@every_row
def test_counts_of_self_training_fit_together(row: Row, whole: Callable[[Row], Whole]) -> None:
    for report in whole(row).reports:
        record = report.record
        if record.get("st/pixels_seen"):
            images, pixels = record["st/images_seen"], record["st/pixels_seen"]
            assert 0 <= record["st/images_selected"] <= images  # type: ignore[operator]
            assert record["st/ratio"] == record["st/pixels_selected"] / pixels  # type: ignore[operator]


@every_row
def test_training_changes_every_network(row: Row, whole: Callable[[Row], Whole], tmp_path: Path) -> None:
    run_row(row, tmp_path, should_stop=StopAfter(0))
    before, after = snapshot(tmp_path).nets, snapshot(whole(row).folder).nets
    for name, weights in before.items():
        moved = [key for key, value in weights.items() if not torch.equal(value, after[name][key])]
        assert any(value.is_floating_point() for key, value in weights.items() if key in moved), name


@every_row
def test_stopped_anywhere_it_goes_on_bit_for_bit(
    row: Row, whole: Callable[[Row], Whole], tmp_path: Path
) -> None:
    reports: list[Report] = []
    for number in (7, 1, 3):
        assert run_row(row, tmp_path, report=reports.append, should_stop=StopAfter(number)).state == "PAUSED"
    assert run_row(row, tmp_path, report=reports.append).state == "COMPLETE"
    assert curve(reports) == curve(whole(row).reports)
    assert_same_state(snapshot(tmp_path), snapshot(whole(row).folder))
    one, two = load_best(tmp_path)[1], load_best(whole(row).folder)[1]
    assert all(torch.equal(value, two[name]) for name, value in one.items())


class Killed(Exception):
    pass


@every_row
def test_killed_after_a_report_it_redoes_the_interval_bit_for_bit(
    row: Row, whole: Callable[[Row], Whole], tmp_path: Path
) -> None:
    second = whole(row).reports[1].step
    reports: list[Report] = []

    def die(report: Report) -> None:
        reports.append(report)
        if report.step == second:
            raise Killed

    with pytest.raises(Killed):
        run_row(row, tmp_path, report=die)
    again: list[Report] = []
    assert run_row(row, tmp_path, report=again.append).state == "COMPLETE"
    assert again[0].record == reports[-1].record
    assert curve(reports + again) == curve(whole(row).reports)
    assert_same_state(snapshot(tmp_path), snapshot(whole(row).folder))


@every_row
def test_bf16_trains_float32_weights(row: Row, whole: Callable[[Row], Whole], tmp_path: Path) -> None:
    reports: list[Report] = []
    outcome = run_row(row, tmp_path, report=reports.append, amp="bf16")
    assert outcome.state == "COMPLETE"
    loss, exact = reports[-1].record["loss/total"], whole(row).reports[-1].record["loss/total"]
    assert loss is not None and math.isfinite(loss) and loss != exact
    weights = [value for _, value in leaves(snapshot(tmp_path).nets) if value.is_floating_point()]
    assert all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in weights)


@every_row
def test_no_step_waits_for_the_device(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, steps = RECIPES[row.recipe], []
    inner = kind.step

    def watched(self: Any, *args: Any) -> Any:
        steps.append(1)
        with no_host_sync():
            return inner(self, *args)

    monkeypatch.setattr(kind, "step", watched)
    outcome = run_row(row, tmp_path, steps=8, eval_every_steps=8)
    assert len(steps) == outcome.step > 0


@every_row
def test_it_never_reads_the_label_of_an_unlabeled_image(row: Row, whole: Callable[[Row], Whole]) -> None:
    read = set(whole(row).data.source.read)  # type: ignore[attr-defined]
    assert read and not read & set(whole(row).data.splits["unlabeled"])


@every_row
def test_the_best_model_predicts_what_was_evaluated(row: Row, whole: Callable[[Row], Whole]) -> None:
    run, data = whole(row), row.dataset()
    predictor = load_predictor(run.folder)
    task = predictor.recipe.task
    matrix = torch.zeros((task.num_classes, task.num_classes), dtype=torch.int64)
    for position in data.positions("val"):
        found = predictor.probabilities(data.source.image(position)).argmax(0)[None]
        label = torch.from_numpy(data.source.mask(position)).long()[None]
        matrix += confusion_matrix(found, label, task.num_classes, 255)
    names = [c for c in task.class_names if c in predictor.recipe.cfg.exclude_classes]
    exclude = [task.class_names.index(c) for c in names]
    positive = 1 if task.binary else None
    found = scores(matrix, task.class_names, prefix="val", exclude_classes=exclude, positive_class=positive)
    best = curve(run.reports)[predictor.step]
    assert found["val/miou"] == pytest.approx(best["val/miou"], abs=1e-6)


@pytest.mark.slow
def test_two_workers_agree_and_resume_bit_for_bit(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(worker, (tmp_path,), nprocs=2, start_method="spawn")  # type: ignore[no-untyped-call]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first.keys() == second.keys() == {str(row) for row in ROWS}
    for row, one in first.items():
        assert one["moved"] and one["record"], row
        assert not differing(one["nets"], second[row]["nets"]), row
        assert not differing(one["nets"], one["resumed_nets"]), row
        for other in (second[row]["record"], one["resumed_record"], second[row]["resumed_record"]):
            assert one["record"] == other, row


def differing(one: dict[str, dict[str, torch.Tensor]], two: dict[str, dict[str, torch.Tensor]]) -> list[str]:
    """The weights that two sets of networks do not share, by name."""
    assert one.keys() == two.keys()
    return [
        f"{net}.{name}" for net, weights in one.items() for name, value in weights.items()
        if not torch.equal(value, two[net][name])
    ]  # fmt: skip


@every_row
def test_its_networks_are_named_and_the_evaluated_one_is_there(row: Row) -> None:
    kind = RECIPES[row.recipe]
    task = kind.adapt(row.dataset().task())
    recipe = kind(resolve(kind.config, train=row.config().train, class_names=task.class_names), task)
    nets = recipe.build()
    assert recipe.evaluated in nets and any(isinstance(n, Segmenter) for n in nets.values()) == (task.ndim == 2)
    phases = recipe.phases()
    trained = {name for phase in phases for spec in phase.optimizers.values() for name in spec.nets}
    assert trained <= set(nets) and all(phase.steps > 0 for phase in phases)


@every_recipe
def test_its_knobs_are_declared(recipe: str) -> None:
    for name, knob in knobs_of(RECIPES[recipe].config).items():
        assert knob.help.endswith("."), name
        assert knob.searchable or knob.why_not, name
        if knob.kind in ("float", "int", "per_class"):
            assert knob.legal is not None, name
        if knob.search is not None:
            assert knob.searchable and knob.legal[0] <= knob.search[0] < knob.search[1] <= knob.legal[1], name
            assert knob.scale != "log" or knob.search[0] > 0, name


@every_recipe
def test_its_presets_are_legal_at_their_own_length_and_at_any_other(recipe: str) -> None:
    kind = RECIPES[recipe]
    for name, preset in {"": None, **kind.presets}.items():
        values = kind.preset_values(name or None)
        own = resolve(kind.config, preset=values, class_names=CLASSES)
        assert preset is None or "steps" not in preset.values or own.steps == preset.values["steps"]
        for train in ({"steps": 12}, {"steps": 1000, "crop_size": 64, "batch_size": 2}):
            assert resolve(kind.config, preset=values, train=train, class_names=CLASSES).steps == train["steps"]


@every_recipe
def test_it_says_what_it_is(recipe: str) -> None:
    kind = RECIPES[recipe]
    assert kind.name == recipe and kind.about and kind.source and kind.slots and kind.__doc__
    assert kind.direction in ("min", "max") and all(preset.about for preset in kind.presets.values())


@every_recipe
def test_it_has_a_quick_and_a_full_space(recipe: str) -> None:
    assert {f"{recipe}/quick", f"{recipe}/full"} <= NAMED.keys()
