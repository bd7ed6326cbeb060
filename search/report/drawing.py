"""A chart as an interactive figure, as a picture, and as a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from search.report.charts import Chart, Panel, Series

COLUMNS = 3
_TOP, _BOTTOM, _BELOW = 64, 50, 64
"""Pixels above the axes, with room for buttons and titles, below them, and from them to the legend."""
_LAYOUT = {
    # A finger that scrolls the page must not zoom; the bar's own button still does.
    "template": "plotly_white", "margin": {"l": 60, "r": 20, "t": _TOP, "b": _BOTTOM}, "dragmode": False,
}  # fmt: skip
_DASHES = (("solid", "-"), ("dash", "--"), ("dot", ":"), ("dashdot", "-."))
_SYMBOLS = {
    "PRUNED": ("triangle-down", "v"), "STOPPED": ("square", "s"), "DIVERGED": ("x", "X"), "FAILED": ("cross", "P"),
    "RUNNING": ("triangle-up", "^"), "PAUSED": ("hexagon", "h"),
}  # fmt: skip
"""By name, how its dots look on the page and in the picture: color alone is not told apart by everybody."""
_MODES = {"line": "lines+markers", "steps": "lines", "dots": "markers", "diamonds": "markers"}
_DPI = 120
_FEW_MARKS = 60


def interactive(chart: Chart) -> go.Figure:
    """The chart for a page."""
    rows, columns = _grid(chart)
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=[panel.title for panel in chart.panels])
    seen: set[str] = set()
    for place, panel in enumerate(chart.panels):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        for series in panel.series:
            figure.add_trace(_trace(series, panel, seen), **where)
            seen.add(series.group or series.name)
        figure.update_xaxes(title_text=panel.x_title, **where, **({"type": "log"} if panel.log_x else {}))
        figure.update_yaxes(title_text=panel.y_title, automargin=True, **where)
        if _barred(panel):
            figure.update_yaxes(autorange="reversed", **where)
    height = _height(chart)
    legend = {"orientation": "h", "x": 0, "y": -_BELOW / (height - _TOP - _BOTTOM), "yanchor": "top"}
    room = 24 * math.ceil(len(seen) / 4) if len(seen) > 1 else 0
    figure.update_layout(height=height + room, barmode="group", showlegend=len(seen) > 1, legend=legend, **_LAYOUT)
    return figure


def _trace(series: Series, panel: Panel, seen: set[str]) -> Any:
    group = series.group or series.name
    shared = {"name": series.name, "legendgroup": group, "showlegend": group not in seen}
    if series.how == "bars":
        return go.Bar(x=list(series.y), y=list(series.x), orientation="h", marker_color=series.color, **shared)
    symbol = "diamond" if series.how == "diamonds" else _symbol(series)[0]
    size = {"line": 4, "diamonds": 11}.get(series.how, 7)
    shape, dash = "hv" if series.how == "steps" else "linear", _DASHES[series.dash % len(_DASHES)][0]
    return go.Scatter(
        x=list(series.x), y=list(series.y), mode=_MODES[series.how], text=list(series.labels),
        line={"width": series.width, "color": series.color, "shape": shape, "dash": dash},
        marker={"color": series.color, "symbol": symbol, "size": size},
        hovertemplate=f"%{{text}}<br>%{{x}}: %{{y:.4f}}<extra>{series.name}</extra>", **shared,
    )  # fmt: skip


def _symbol(series: Series) -> tuple[str, str]:
    return _SYMBOLS.get(series.name, ("circle", "o")) if series.how == "dots" else ("circle", "o")


def picture(chart: Chart, run: str) -> bytes:
    """The chart as a PNG, drawn without a screen.

    Args:
        chart: what is drawn. run: whose it is, for the title.
    """
    rows, columns = _grid(chart)
    barred = any(_barred(panel) for panel in chart.panels)
    size = (9.0, _height(chart) / 75) if barred else (3.4 * columns if columns > 1 else 9.0, _height(chart) / 80)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_literal(f"{run}: {chart.title}"), fontsize="medium")
    first: Axes | None = None
    for place, panel in enumerate(chart.panels):
        axes = figure.add_subplot(rows, columns, place + 1, sharey=first if panel.share_y else None)
        first = first or axes
        _draw(axes, panel, alone=len(chart.panels) == 1)
    handles = dict(zip(*reversed(first.get_legend_handles_labels()), strict=True)) if first is not None else {}
    if len(chart.panels) > 1 and len(handles) > 1:
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize="small", frameon=False
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _draw(axes: Axes, panel: Panel, *, alone: bool) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(_literal(panel.title), fontsize="small")
    axes.set_xlabel(_literal(panel.x_title))
    axes.set_ylabel(_literal(panel.y_title))
    if panel.log_x:
        axes.set_xscale("log")
    names: set[str] = set()
    bars = [series for series in panel.series if series.how == "bars"]
    for place, series in enumerate(panel.series):
        # An underscore keeps a name out of the legend.
        label = f"_{series.name}" if series.name in names else _literal(series.name)
        names.add(series.name)
        if series.how == "bars":
            _bars(axes, series, place, len(bars), label)
        elif series.how in ("dots", "diamonds"):
            axes.scatter(
                list(series.x), list(series.y), c=series.color, label=label, s=60 if series.how == "diamonds" else 22,
                marker="D" if series.how == "diamonds" else _symbol(series)[1], zorder=3, alpha=0.9,
            )  # fmt: skip
        else:
            axes.plot(
                list(series.x), list(series.y), color=series.color, label=label, linewidth=series.width,
                drawstyle="steps-post" if series.how == "steps" else "default",
                linestyle=_DASHES[series.dash % len(_DASHES)][1],
                marker="." if series.how == "line" and len(series.x) <= _FEW_MARKS else None,
            )  # fmt: skip
    if bars:
        axes.invert_yaxis()
        axes.grid(False, axis="y")
    if alone and len(names) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize="small", frameon=False)


def _bars(axes: Axes, series: Series, place: int, of: int, label: str) -> None:
    thick = 0.8 / of
    known = axes.get_yticklabels() if place else []
    own = [_literal(str(name)) for name in series.x]
    names = [text.get_text() for text in known] or list(own)
    names += [name for name in own if name not in names]
    at = [names.index(name) - 0.4 + thick * (place + 0.5) for name in own]
    axes.barh(at, list(series.y), height=0.92 * thick, color=series.color, label=label)
    axes.set_yticks(range(len(names)), names)


def _literal(text: str) -> str:
    """A text that matplotlib shows as it is: no formula, and no name that it would keep out of a legend."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def table(chart: Chart) -> bytes:
    """The chart's numbers as CSV: one line per value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["panel", "series", "of", "x", "y"])
    for panel in chart.panels:
        for series in panel.series:
            labels: Sequence[str] = series.labels or [""] * len(series.x)
            writer.writerows(
                [panel.title, series.name, label, x, repr(float(y))]
                for label, x, y in zip(labels, series.x, series.y, strict=True)
            )
    return out.getvalue().encode()


def _grid(chart: Chart) -> tuple[int, int]:
    columns = min(COLUMNS, len(chart.panels))
    return math.ceil(len(chart.panels) / columns), columns


def _barred(panel: Panel) -> bool:
    return any(series.how == "bars" for series in panel.series)


def _height(chart: Chart) -> int:
    """Of the interactive figure, in pixels."""
    rows, _ = _grid(chart)
    bars = sum(len(series.x) for panel in chart.panels for series in panel.series if series.how == "bars")
    if bars:
        return 140 + 22 * bars
    return 420 if len(chart.panels) == 1 else 80 + 260 * rows
