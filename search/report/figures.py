"""The report's figures, drawn from a run's state alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from search.records import RunState, TrialRecord

COLORS = {
    "COMPLETE": "#2a7f62", "PRUNED": "#b0b0b0", "STOPPED": "#c98a1b", "DIVERGED": "#b3261e", "FAILED": "#6b2737",
    "RUNNING": "#2b6cb0", "PAUSED": "#6a5acd", "PENDING": "#d0d0d0",
}  # fmt: skip
COLUMNS = 3
ROW_HEIGHT = 260
_LAYOUT = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 40, "b": 50}}


def curves(state: RunState, objective: str) -> go.Figure:
    """The objective over training steps, one line per trial, in the color of how the trial ended."""
    figure = go.Figure()
    seen: set[str] = set()
    for trial in state.trials.values():
        rows = [row for row in trial.evaluations if row.objective is not None]
        name = str(trial.state)
        figure.add_scatter(
            x=[row.step for row in rows], y=[row.objective for row in rows], mode="lines+markers", legendgroup=name,
            name=name, showlegend=name not in seen, line={"color": COLORS[name], "width": 1.2}, marker={"size": 4},
            hovertemplate=f"trial {trial.number} ({trial.source})<br>step %{{x}}: %{{y:.4f}}<extra></extra>",
        )  # fmt: skip
        seen.add(name)
    figure.update_layout(xaxis_title="training steps", yaxis_title=objective, height=420, **_LAYOUT)
    return figure


def progress(state: RunState, objective: str) -> go.Figure:
    """Every trial's best value in the order of their numbers, and the best so far."""
    trials = [t for t in state.trials.values() if t.best_value is not None]
    best: list[float] = []
    for trial in trials:
        value = float(trial.best_value or 0.0)
        best.append(value if not best or state.better(value, best[-1]) else best[-1])
    figure = go.Figure()
    figure.add_scatter(
        x=[t.number for t in trials], y=[t.best_value for t in trials], mode="markers", name="trial",
        marker={"color": [COLORS[str(t.state)] for t in trials]}, text=[t.source for t in trials],
        hovertemplate="trial %{x} (%{text}): %{y:.4f}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(x=[t.number for t in trials], y=best, mode="lines", name="best so far", line={"shape": "hv"})
    figure.update_layout(xaxis_title="trial", yaxis_title=f"best {objective}", height=360, **_LAYOUT)
    return figure


def parameters(state: RunState, objective: str) -> go.Figure | None:
    """The best value over each searched number, one small plot per parameter; None where none varied."""
    columns = dict(_varied(state))
    if not columns:
        return None
    rows = math.ceil(len(columns) / COLUMNS)
    figure = make_subplots(rows=rows, cols=COLUMNS, subplot_titles=list(columns))
    for place, (name, points) in enumerate(columns.items()):
        values = [value for _, value in points]
        figure.add_scatter(
            x=values, y=[trial.best_value for trial, _ in points], mode="markers", showlegend=False,
            marker={"color": [COLORS[str(trial.state)] for trial, _ in points]},
            text=[f"trial {trial.number}" for trial, _ in points],
            hovertemplate=f"%{{text}}<br>{name} %{{x:.4g}}: %{{y:.4f}}<extra></extra>",
            row=place // COLUMNS + 1, col=place % COLUMNS + 1,
        )  # fmt: skip
        low, high = min(values), max(values)
        if low > 0 and high / low > 30:
            figure.update_xaxes(type="log", row=place // COLUMNS + 1, col=place % COLUMNS + 1)
    figure.update_layout(title=f"best {objective} over each parameter", height=60 + rows * ROW_HEIGHT, **_LAYOUT)
    return figure


def _varied(state: RunState) -> Iterator[tuple[str, list[tuple[TrialRecord, float]]]]:
    """Searched numbers with at least two values among trials that have a result."""
    trials = [t for t in state.trials.values() if t.best_value is not None]
    for name in dict.fromkeys(name for trial in trials for name in trial.params):
        found = ((trial, _number(trial.params.get(name))) for trial in trials)
        points = [(trial, value) for trial, value in found if value is not None]
        if len({value for _, value in points}) > 1:
            yield name, points


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def importance(shares: Mapping[str, float]) -> go.Figure:
    """Shares of importance as bars, the largest on top."""
    names = list(shares)[::-1]
    figure = go.Figure(go.Bar(x=[shares[name] for name in names], y=names, orientation="h", marker_color="#2b6cb0"))
    figure.update_layout(xaxis_title="share", height=120 + 26 * len(names), **_LAYOUT)
    figure.update_yaxes(automargin=True)
    return figure
