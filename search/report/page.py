"""The report: one page that holds everything, and beside it each chart as a picture and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from search.comparison import compare
from search.importance import FEWEST_TRIALS, importances
from search.records import RunState, TrialRecord
from search.report.charts import Chart, charts
from search.report.drawing import interactive, picture, table
from search.status import read_run
from trainable.errors import ConfigError, Fault

REPORT, PICTURES = "report.html", "report"
LEADERS = 15
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222;
  background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #ddd; }
td.number { text-align: right; } tbody th { font-weight: normal; color: #555; white-space: nowrap; }
.facts td, .long td:last-child { overflow-wrap: anywhere; }
.wide td, .wide th { white-space: nowrap; }
.wide, .long, .chart { overflow-x: auto; } .panels > div { min-width: 760px; }
figure { margin: 0; } figcaption, .note { color: #555; }
"""
_CHART = {
    "displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud", "lasso2d", "select2d", "autoScale2d"],
}  # fmt: skip
"""Of the bar above each chart; its own default would offer to send the chart to a server."""


def write_report(run: str, output: Path | None = None) -> list[str]:
    """Write the page, and a PNG and a CSV of each chart.

    Args:
        run: the run directory or URI.
        output: the page's file, the rest in a folder of its name beside it; left out: `report.html` and `report/` in
            the run.

    Returns:
        Where they are, the page first.

    Raises:
        ConfigError: there is no run, or a file cannot be written.
        StoreError: the run's record cannot be read.
    """
    store, state = read_run(run)
    name, drawn = str(state.run.get("name", run)), charts(state, importances(state))
    files = {f"{chart.name}.png": picture(chart, name) for chart in drawn}
    files |= {f"{chart.name}.csv": table(chart) for chart in drawn}
    beside = PICTURES if output is None else output.with_suffix("").name
    text = page(state, run, drawn, beside).encode()
    if output is None:
        store.write_bytes(REPORT, text)
        for file, content in files.items():
            store.write_bytes(f"{PICTURES}/{file}", content)
        return [f"{run.rstrip('/')}/{REPORT}", *(f"{run.rstrip('/')}/{PICTURES}/{file}" for file in files)]
    folder = output.with_suffix("")
    if folder == output:
        raise ConfigError([Fault(str(output), "the page's name must end with .html, but has no ending; add it")])
    try:
        folder.mkdir(exist_ok=True)
        output.write_bytes(text)
        for file, content in files.items():
            (folder / file).write_bytes(content)
    except OSError as error:
        raise ConfigError([Fault(str(output), f"the file must be writable, but got {error.strerror}")]) from error
    return [str(output), *(str(folder / file) for file in files)]


def page(state: RunState, run: str, drawn: Sequence[Chart] | None = None, beside: str = PICTURES) -> str:
    """The whole page as text; a pure function of the state.

    Args:
        state: the run. run: where it is. drawn: its charts, where they have been made already.
        beside: the folder of the charts' pictures and tables, as seen from the page.
    """
    drawn = charts(state, importances(state)) if drawn is None else drawn
    objective = state.objective
    name = str(state.run.get("name", run))
    parts = [f"<h1>{escape(name)}</h1>", _facts(state, run, objective)]
    parts += _comparison(state)
    parts += ["<h2>Best trials</h2>", _leaders(state, objective)]
    parts += [_section(chart, beside, first=place == 0) for place, chart in enumerate(drawn)]
    known = {chart.name for chart in drawn}
    few = f"Importance needs {FEWEST_TRIALS} trials with results in the current space; there are fewer."
    parts += [f"<p class=note>{few}</p>"] if "importance" not in known else []
    parts += ["<p class=note>No searched knob took more than one value yet.</p>"] if "parameters" not in known else []
    body = "\n".join([*parts, _failures(state.trials.values())])
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}: report</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _section(chart: Chart, beside: str, *, first: bool) -> str:
    """A chart with its title and, for who cannot see it, its numbers; the first brings the script that draws all."""
    html: str = interactive(chart).to_html(full_html=False, include_plotlyjs=first, config=_CHART)
    files = f"As a picture and as numbers: {beside}/{chart.name}.png, {beside}/{chart.name}.csv."
    scroll = "chart panels" if len(chart.panels) > 1 else "chart"
    return (
        f"<h2 id={chart.name}>{escape(chart.title)}</h2>\n<figure role=group aria-labelledby={chart.name}>"
        f'<div class="{scroll}">{html}</div><figcaption>{escape(f"{chart.note} {files}".strip())}</figcaption></figure>'
    )


def _facts(state: RunState, run: str, objective: str) -> str:
    counts = Counter(str(trial.state) for trial in state.trials.values())
    hours = sum(trial.time_s for trial in state.trials.values()) / 3600
    gpu_hours = sum(trial.gpu_seconds or 0.0 for trial in state.trials.values()) / 3600
    best = state.best()
    rows = [
        ("run", run),
        ("status", "closed" if state.closed is not None else "open"),
        ("trials", ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))),
        ("best", "-" if best is None else f"{objective} {best.best_value:.4f} (trial {best.number}, {best.source})"),
        ("training", f"{hours:.2f} h over all trials, {gpu_hours:.2f} GPU hours"),
        ("recipe", state.run.get("config", {}).get("recipe")),
        ("data_hash", state.run.get("data_hash")),
        ("space_hash", state.spaces.get(state.generation, {}).get("space_hash")),
        ("git_revision", state.run.get("git_revision")),
        ("versions", ", ".join(f"{k} {v}" for k, v in (state.run.get("versions") or {}).items())),
    ]
    lines = (f"<tr><th scope=row>{escape(key)}</th><td>{escape(_shown(value))}</td></tr>" for key, value in rows)
    return f"<table class=facts><tbody>{''.join(lines)}</tbody></table>"


def _comparison(state: RunState) -> list[str]:
    """Of a confirmation, what the seeds of each configuration say; nothing for other runs."""
    variants = (state.run.get("config", {}).get("confirm") or {}).get("variants") or ()
    if not variants:
        return []
    ended = [t for t in state.trials.values() if t.ended and t.best_value is not None]
    found = compare({v["name"]: [t for t in ended if t.source == v["name"]] for v in variants}, state.direction)
    head = ["configuration", "seeds", f"mean {state.objective}", "sd", "best minus this", "best is"]
    rows = [[r.name, r.seeds, r.mean, r.sd, r.difference, r.verdict or None] for r in found]
    note = "<p class=note>none: the difference is under 2 standard deviations.</p>"
    return ["<h2>Over the seeds</h2>", _table(head, rows, "Over the seeds"), note]


def _leaders(state: RunState, objective: str) -> str:
    ranked = state.ranked()[:LEADERS]
    names = list(dict.fromkeys(name for trial in ranked for name in trial.params))
    head = ["trial", "source", "state", f"best {objective}", "at step", *names]
    rows = [
        [t.number, t.source, str(t.state), t.best_value, t.best_step, *(t.params.get(name) for name in names)]
        for t in ranked
    ]
    return _table(head, rows, "Best trials")


def _failures(trials: Iterable[TrialRecord]) -> str:
    rows = [[t.number, str(t.state), t.stop_reason, str(t.error).splitlines()[0]] for t in trials if t.error]
    return "" if not rows else "<h2>Errors</h2>" + _table(["trial", "state", "reason", "error"], rows, "Errors", "long")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], about: str, kind: str = "wide") -> str:
    """A table that scrolls by itself, also by keys, where the window is narrower."""
    top = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    lines = ("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class={kind} tabindex=0 role=region aria-label="{escape(about)}"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"<td{' class=number' if number else ''}>{escape(_shown(value))}</td>"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return str(value)
