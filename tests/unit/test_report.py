"""The report: every chart says what the record says, on the page, in its picture and in its table."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search.records import RunState, TrialState
from search.report import page, write_report
from search.report.charts import Chart, Series, charts
from search.report.drawing import interactive, picture, table
from search.store import RunLog, open_store
from trainable.errors import ConfigError

TRIALS: tuple[dict[str, Any], ...] = (
    {"source": "default", "params": {"st.weight": 1.0, "net": "unet"}, "values": (0.2, 0.3)},
    {"source": "preset:V3.1", "params": {"st.weight": 1.5, "net": "unet"}, "values": (0.25, 0.1)},
    {"source": "sampled", "params": {"st.weight": 0.1, "net": "fpn"}, "values": (0.4,), "state": "PRUNED"},
    {"source": "sampled", "params": {"st.weight": 0.02, "net": "fpn"}, "values": (0.35, 0.5)},
    {"source": "sampled", "params": {"st.weight": 0.7, "net": "fpn"}, "values": (None, None), "state": "FAILED"},
    {"source": "sampled", "params": {"st.weight": 0.2, "net": "fpn"}, "values": (0.45, 0.41)},
)
SPACE = {"entries": [{"entry": "shared", "names": ["st.weight"], "scale": "log"}]}


def recorded(folder: Path, *, direction: str = "max", classes: tuple[str, ...] = ("road", "roof")) -> RunState:
    log = RunLog.create(
        open_store(folder), heartbeat=False, schema=1, run_id="r", name="small", generation=0,
        config={"recipe": "per_class", "search": {"direction": direction, "objective": "val/miou", "trials": 6}},
        metrics=["val/miou"], space=None, data_hash="d" * 64,
    )  # fmt: skip
    for number, found in enumerate(TRIALS):
        log.append("asked", trial=number, source=found["source"], params=found["params"], coords={}, config={})
        log.append("started", trial=number, attempt=1)
        for place, value in enumerate(found["values"]):
            record = {"val/miou": value, "st/ratio": 0.1 * place}
            record |= {f"val/iou/{name}": None if value is None else value / (i + 1) for i, name in enumerate(classes)}
            record |= {f"threshold/{name}": 0.5 + 0.1 * i for i, name in enumerate(classes)}
            log.append("evaluated", trial=number, attempt=1, step=10 * (place + 1), time_s=1.0, objective=value,
                       record=record, decision={"action": "continue"})  # fmt: skip
        log.append("ended", trial=number, state=found.get("state", "COMPLETE"), error=None)
    log.close()
    return log.state


def named(state: RunState, name: str, shares: dict[str, float] | None = None) -> Chart:
    return next(chart for chart in charts(state, shares or {}) if chart.name == name)


def series(chart: Chart, name: str) -> list[Series]:
    return [one for panel in chart.panels for one in panel.series if one.name == name]


@pytest.mark.parametrize(
    ("direction", "best"), [("max", [0.3, 0.3, 0.4, 0.5, 0.5]), ("min", [0.2, 0.1, 0.1, 0.1, 0.1])]
)
def test_the_search_shows_the_best_so_far_and_marks_the_baselines(
    tmp_path: Path, direction: str, best: list[float]
) -> None:
    chart = named(recorded(tmp_path, direction=direction), "progress")
    [so_far] = series(chart, "best so far")
    assert (list(so_far.x), list(so_far.y)) == ([0, 1, 2, 3, 5], best)
    for number, name in enumerate(("baseline: default", "baseline: preset:V3.1")):
        [mark] = series(chart, name)
        assert mark.how == "diamonds" and list(mark.x) == [number]
    assert list(series(chart, "PRUNED")[0].x) == [2] and list(series(chart, "COMPLETE")[0].x) == [3, 5]


def test_curves_classes_thresholds_and_pseudo_labels_are_those_of_the_record(tmp_path: Path) -> None:
    state = recorded(tmp_path)
    [best] = series(named(state, "curves"), "best: trial 3 (sampled)")
    assert (list(best.x), list(best.y)) == ([10, 20], [0.35, 0.5])
    bars = {one.name: dict(zip(one.x, one.y, strict=True)) for one in named(state, "classes").panels[0].series}
    assert bars == {
        "best: trial 3 (sampled)": {"road": 0.5, "roof": 0.25},
        "trial 0 (default)": {"road": 0.3, "roof": 0.15},
        "trial 1 (preset:V3.1)": {"road": 0.25, "roof": 0.125},
    }
    lines = named(state, "thresholds").panels[0].series
    assert {one.name: list(one.y) for one in lines} == {"road": [0.5, 0.5], "roof": [0.6, 0.6]}
    assert [list(one.y) for one in named(state, "selection").panels[0].series] == [[0.0, 0.1]] * 3


def test_knobs_that_vary_have_a_panel_each_with_names_for_choices(tmp_path: Path) -> None:
    state = recorded(tmp_path)
    state.spaces[0] = {"space": SPACE}
    weight, net = named(state, "parameters").panels
    assert (weight.title, weight.log_x) == ("st.weight", True)
    assert (net.title, net.log_x) == ("net", False)
    assert {value for one in net.series for value in one.x} == {"unet", "fpn"}
    assert sorted(v for one in weight.series for v in one.y) == sorted([0.3, 0.25, 0.4, 0.5, 0.45])


def test_a_rate_that_is_searched_by_its_distance_from_one_is_drawn_so(tmp_path: Path) -> None:
    state = recorded(tmp_path)
    for trial, value in zip(state.trials.values(), (0.9, 0.99, 0.5, 0.999, 0.9, 0.8), strict=True):
        trial.params = {"ema_decay": value}
    state.spaces[0] = {"space": {"entries": [{"names": ["ema_decay"], "scale": "log1m"}]}}
    [panel] = named(state, "parameters").panels
    assert panel.title == "1 - ema_decay" and panel.log_x
    assert sorted(v for one in panel.series for v in one.x) == pytest.approx([0.001, 0.01, 0.1, 0.2, 0.5])


def test_page_picture_and_table_hold_the_same_numbers(tmp_path: Path) -> None:
    state = recorded(tmp_path)
    for chart in charts(state, {"st.weight": 0.7, "net": 0.3}):
        parts = [one for panel in chart.panels for one in panel.series]
        own = sorted((one.name, str(x), y) for one in parts for x, y in zip(one.x, one.y, strict=True))
        rows = list(csv.DictReader(io.StringIO(table(chart).decode())))
        assert sorted((row["series"], row["x"], float(row["y"])) for row in rows) == own, chart.name
        traces = interactive(chart).data
        drawn = [(t.name, *(p[::-1] if t.type == "bar" else p)) for t in traces for p in zip(t.x, t.y, strict=True)]
        assert sorted((name, str(x), float(y)) for name, x, y in drawn) == own, chart.name
        image = Image.open(io.BytesIO(picture(chart, "small")))
        pixels = np.asarray(image.convert("RGB"))
        assert image.format == "PNG" and min(image.size) >= 250
        for one in parts:
            color = tuple(int(str(one.color)[i : i + 2], 16) for i in (1, 3, 5))
            close = (np.abs(pixels.astype(int) - color).max(-1) <= 24).sum()
            assert close >= 5, (chart.name, one.name)


def test_it_is_written_into_the_run_or_beside_a_page_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["search.report.page"], "picture", lambda chart, run: b"PNG")
    recorded(tmp_path / "run")
    names = {f"{n}.{k}" for n in ("progress", "curves", "parameters", "classes", "thresholds", "selection")
             for k in ("png", "csv")}  # fmt: skip
    whole, *files = write_report(str(tmp_path / "run"))
    assert whole == f"{tmp_path}/run/report.html" and {Path(file).name for file in files} == names
    assert all(Path(file).parent == tmp_path / "run" / "report" for file in files)
    _, *files = write_report(str(tmp_path / "run"), tmp_path / "mine.html")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == names == {Path(file).name for file in files}
    for wrong in (tmp_path / "mine", tmp_path / "nowhere" / "page.html"):
        with pytest.raises(ConfigError):
            write_report(str(tmp_path / "run"), wrong)


def test_a_run_without_results_has_a_page_without_charts(tmp_path: Path) -> None:
    log = RunLog.create(open_store(tmp_path / "run"), heartbeat=False, schema=1, run_id="r", name="small", generation=0,
                        config={}, metrics=[])  # fmt: skip
    log.append("asked", trial=0, source="sampled", params={"x": 1.0}, coords={}, config={})
    log.close()
    assert charts(log.state, {}) == [] and len(write_report(str(tmp_path / "run"))) == 1
    assert "No searched knob took more than one value yet" in (tmp_path / "run" / "report.html").read_text()


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    names = (r"a$\frac$b", "_hidden", "</script><script>alert(1)</script>", "Dächer")
    state = recorded(tmp_path / "run", classes=names)
    for chart in charts(state, {}):
        picture(chart, "$x$")
    text = page(state, "run")
    assert "<script>alert(1)" not in text


def test_the_page_fits_a_phone_says_what_charts_show_and_sends_nothing_anywhere(tmp_path: Path) -> None:
    state = recorded(tmp_path / "run")
    text = page(state, "run", beside="mine")
    configs = [json.loads(found) for found in re.findall(r'\{"displaylogo"[^{}]*\}', text)]
    assert len(configs) == len(charts(state, {}))
    assert all("sendChartToCloud" in config["modeBarButtonsToRemove"] for config in configs)
    assert "<meta name=viewport" in text and "<script src=" not in text
    for chart in charts(state, {}):
        assert f"<h2 id={chart.name}>" in text and f"aria-labelledby={chart.name}" in text
        assert f"mine/{chart.name}.png, mine/{chart.name}.csv" in text
    assert text.count("<th scope=row>") == 10 and text.count("<table") == text.count("</table>")


def test_a_diverged_trial_is_never_the_best_so_far(tmp_path: Path) -> None:
    state = recorded(tmp_path)
    state.trials[0].state, state.trials[0].best_value = TrialState.DIVERGED, 0.9
    [so_far] = series(named(state, "progress"), "best so far")
    assert (list(so_far.x), list(so_far.y)) == ([1, 2, 3, 5], [0.25, 0.4, 0.5, 0.5])


def test_curves_of_one_color_and_dots_of_one_form_are_told_apart_otherwise(tmp_path: Path) -> None:
    state = recorded(tmp_path)
    lines = [t for t in interactive(named(state, "curves")).data if t.name.startswith("baseline: ")]
    assert len({t.line.dash for t in lines}) == len(lines) == 2
    forms = {t.name: t.marker.symbol for t in interactive(named(state, "progress")).data}
    assert forms["PRUNED"] != forms["COMPLETE"]


def test_the_page_of_a_confirmation_says_what_its_seeds_say(tmp_path: Path) -> None:
    state = recorded(tmp_path)
    assert "Over the seeds" not in page(state, "run")
    state.run["config"]["confirm"] = {"variants": [{"name": "sampled"}, {"name": "default"}]}
    text = page(state, "run")
    assert "<td>sampled</td><td class=number>3</td><td class=number>0.45</td>" in text
    floor = "<td class=number>0.3</td><td>-</td><td class=number>0.15</td>"
    assert f"<td>default</td><td class=number>1</td>{floor}" in text
