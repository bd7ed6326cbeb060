"""The report: one page that holds everything, and beside it each chart as a picture and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from search.importance import FEWEST_TRIALS, importances
from search.records import RunState, TrialRecord
from search.report.charts import Chart, charts
from search.report.drawing import interactive, picture, table
from search.status import read_run
from trainable.errors import ConfigError, Fault

REPORT, PICTURES = "report.html", "report"
LEADERS = 15
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #ddd; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } .note { color: #666; }
"""


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
    text = page(state, run, drawn).encode()
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


def page(state: RunState, run: str, drawn: Sequence[Chart] | None = None) -> str:
    """The whole page as text; a pure function of the state.

    Args:
        state: the run. run: where it is. drawn: its charts, where they have been made already.
    """
    drawn = charts(state, importances(state)) if drawn is None else drawn
    objective = state.objective
    name = str(state.run.get("name", run))
    parts = [f"<h1>{escape(name)}</h1>", _facts(state, run, objective)]
    parts += ["<h2>Best trials</h2>", _leaders(state, objective)]
    for place, chart in enumerate(drawn):
        parts += [f"<h2>{escape(chart.title)}</h2>", _drawn(chart, first=place == 0)]
        parts += [f"<p class=note>{escape(chart.note)}</p>"] if chart.note else []
    known = {chart.name for chart in drawn}
    few = f"Importance needs {FEWEST_TRIALS} trials with results in the current space; there are fewer."
    parts += [f"<p class=note>{few}</p>"] if "importance" not in known else []
    parts += ["<p class=note>No searched knob took more than one value yet.</p>"] if "parameters" not in known else []
    body = "\n".join([*parts, _failures(state.trials.values())])
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{escape(name)}</title>"
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _drawn(chart: Chart, *, first: bool = False) -> str:
    """A chart as HTML; the first one brings the script that draws all of them."""
    html: str = interactive(chart).to_html(full_html=False, include_plotlyjs=first, config={"displaylogo": False})
    return html


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
        ("training time", f"{hours:.2f} h, of GPUs {gpu_hours:.2f} h"),
        ("recipe", state.run.get("config", {}).get("recipe")),
        ("data_hash", state.run.get("data_hash")),
        ("space_hash", state.spaces.get(state.generation, {}).get("space_hash")),
        ("git_revision", state.run.get("git_revision")),
        ("versions", ", ".join(f"{k} {v}" for k, v in (state.run.get("versions") or {}).items())),
    ]
    return _table((), [[key, value] for key, value in rows])


def _leaders(state: RunState, objective: str) -> str:
    ranked = state.ranked()[:LEADERS]
    names = list(dict.fromkeys(name for trial in ranked for name in trial.params))
    head = ["trial", "source", "state", f"best {objective}", "at step", *names]
    rows = [
        [t.number, t.source, str(t.state), t.best_value, t.best_step, *(t.params.get(name) for name in names)]
        for t in ranked
    ]
    return _table(head, rows)


def _failures(trials: Iterable[TrialRecord]) -> str:
    rows = [[t.number, str(t.state), t.stop_reason, str(t.error).splitlines()[0]] for t in trials if t.error]
    return "" if not rows else "<h2>Errors</h2>" + _table(["trial", "state", "reason", "error"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>" if head else ""
    lines = ("<tr>" + "".join(f"<td>{escape(_shown(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{top}{''.join(lines)}</table>"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
