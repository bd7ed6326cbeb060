"""The report's page: text around the figures, and one file that holds everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from search.importance import FEWEST_TRIALS, importances
from search.records import RunState, TrialRecord
from search.report import figures
from search.status import read_run
from trainable.errors import ConfigError, Fault

REPORT = "report.html"
LEADERS = 15
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #ddd; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } .note { color: #666; }
"""


def write_report(run: str, output: Path | None = None) -> str:
    """Write the page; returns where it is.

    Args:
        run: the run directory or URI.
        output: the file; left out: `report.html` in the run.

    Raises:
        ConfigError: there is no run, or the file cannot be written.
        StoreError: the run's record cannot be read.
    """
    store, state = read_run(run)
    text = page(state, run)
    if output is None:
        store.write_bytes(REPORT, text.encode())
        return f"{run.rstrip('/')}/{REPORT}"
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([Fault(str(output), f"the file must be writable, but got {error.strerror}")]) from error
    return str(output)


def page(state: RunState, run: str) -> str:
    """The whole page as text; a pure function of the state."""
    objective = str(state.run.get("config", {}).get("search", {}).get("objective", "objective"))
    name = str(state.run.get("name", run))
    shares = importances(state)
    few = f"Shares need {FEWEST_TRIALS} trials with results in the current space; there are fewer."
    parameters = figures.parameters(state, objective)
    parts = [
        f"<h1>{escape(name)}</h1>",
        _facts(state, run, objective),
        "<h2>Best trials</h2>",
        _leaders(state, objective),
        "<h2>Search</h2>",
        _drawn(figures.progress(state, objective), first=True),
        "<h2>Curves</h2>",
        _drawn(figures.curves(state, objective)),
        "<h2>Parameters</h2>",
        "<p class=note>No searched number varied yet.</p>" if parameters is None else _drawn(parameters),
        "<h2>Importance</h2>",
        _drawn(figures.importance(shares)) if shares else f"<p class=note>{few}</p>",
        _failures(state.trials.values()),
    ]
    body = "\n".join(parts)
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{escape(name)}</title>"
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _drawn(figure: go.Figure, *, first: bool = False) -> str:
    """A figure as HTML; the first one brings the script that draws all of them."""
    html: str = figure.to_html(full_html=False, include_plotlyjs=first, config={"displaylogo": False})
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
    sign = -1.0 if state.direction == "max" else 1.0
    ranked = sorted(
        (t for t in state.trials.values() if t.best_value is not None), key=lambda t: sign * (t.best_value or 0.0)
    )[:LEADERS]
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
