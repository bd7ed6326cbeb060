"""What the report shows, as plain numbers: each chart is drawn twice and written as a table from the same of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from search.records import RunState, TrialRecord
from search.suggestion import is_baseline

COLORS = {
    "COMPLETE": "#2a7f62", "PRUNED": "#7d7d7d", "STOPPED": "#c98a1b", "DIVERGED": "#b3261e", "FAILED": "#6b2737",
    "RUNNING": "#2b6cb0", "PAUSED": "#6a5acd", "PENDING": "#949494",
}  # fmt: skip
BEST, DARK = "#d1495b", "#111111"
How = Literal["line", "dots", "steps", "diamonds", "bars"]
PALETTE = ("#2b6cb0", "#d1495b", "#2a7f62", "#c98a1b", "#6a5acd", "#0f8b8d", "#8d5524", "#c2559b", "#6b7a1f", "#444444")
"""Colors of what is told apart by name, such as classes."""
_MOST_CLASSES = 40


@dataclass(frozen=True)
class Series:
    """Values that belong together.

    Attributes:
        name: as the legend has it. x, y: of equal length. how: drawn as.
        color: of all, or one for each value. group: series of one group stand once in the legend.
        labels: of each value, for tables and for who points at it. dash: lines of one color are told apart by it; 0 is
            a whole line.
    """

    name: str
    x: Sequence[Any]
    y: Sequence[float]
    how: How = "line"
    color: str | Sequence[str] = PALETTE[0]
    group: str = ""
    labels: Sequence[str] = ()
    width: float = 1.4
    dash: int = 0


@dataclass(frozen=True)
class Panel:
    """One pair of axes; bars lie, with their names on the y axis."""

    series: tuple[Series, ...]
    title: str = ""
    x_title: str = ""
    y_title: str = ""
    log_x: bool = False
    share_y: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        name: of its files. title: of its section. panels: at least one. note: what a reader should know.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    note: str = ""


def charts(state: RunState, shares: Mapping[str, float]) -> list[Chart]:
    """Every chart that the run has data for, in the order of the page.

    Args:
        state: the run. shares: importance of each coordinate; empty where there are too few results.
    """
    objective = state.objective
    made = (
        _progress(state, objective), _curves(state, objective), _parameters(state, objective), _importance(shares),
        _classes(state), _thresholds(state), _selection(state),
    )  # fmt: skip
    return [chart for chart in made if chart is not None]


def shown_trials(state: RunState) -> list[TrialRecord]:
    """The best trial and the baselines: what a search is measured by."""
    best = state.best()
    first = [] if best is None else [best]
    return first + [t for t in state.trials.values() if is_baseline(t.source) and t is not best and t.evaluations]


def name_of(trial: TrialRecord, best: TrialRecord | None) -> str:
    """A trial in a legend."""
    return f"{'best: ' if trial is best else ''}trial {trial.number} ({trial.source})"


def _progress(state: RunState, objective: str) -> Chart | None:
    trials = [t for t in state.trials.values() if t.best_value is not None]
    if not trials:
        return None
    best: list[tuple[int, float]] = []
    for trial in trials:
        value = float(trial.best_value or 0.0)
        if trial.state != "DIVERGED" and (not best or state.better(value, best[-1][1])):
            best.append((trial.number, value))
        elif best:
            best.append((trial.number, best[-1][1]))
    parts = [Series("best so far", [n for n, _ in best], [v for _, v in best], "steps", BEST, width=2.0)]
    for name in dict.fromkeys(str(t.state) for t in trials):
        found = [t for t in trials if str(t.state) == name and not is_baseline(t.source)]
        parts.append(_dots(name, found, COLORS[name], "dots"))
    for trial in (t for t in trials if is_baseline(t.source)):
        parts.append(_dots(f"baseline: {trial.source}", [trial], DARK, "diamonds"))
    panel = Panel(tuple(p for p in parts if p.x), "", "trial", f"best {objective} of the trial")
    return Chart("progress", "Search", (panel,), "Diamonds are the recipe's own configurations, which run first.")


def _dots(name: str, trials: Sequence[TrialRecord], color: str, how: How) -> Series:
    labels = [f"trial {t.number} ({t.source}), {t.state}" for t in trials]
    return Series(name, [t.number for t in trials], [float(t.best_value or 0.0) for t in trials], how, color,
                  labels=labels)  # fmt: skip


def _curves(state: RunState, objective: str) -> Chart | None:
    best, lines = state.best(), []
    dashes: dict[str, int] = {}
    for trial in sorted(state.trials.values(), key=lambda t: (t is best, is_baseline(t.source))):
        rows = [(row.step, row.objective) for row in trial.evaluations if row.objective is not None]
        if rows:
            kind = _kind(trial, best)
            dash = dashes.setdefault(trial.source, len(dashes) + 1) if kind == "baseline" else 0
            name = kind if kind in COLORS else name_of(trial, best) if kind == "best" else f"baseline: {trial.source}"
            color = COLORS.get(kind, BEST if kind == "best" else DARK)
            width = 2.4 if kind == "best" else 1.0 if kind in COLORS else 1.6
            lines.append(_line(name, rows, color, width=width, trial=trial, dash=dash))
    panel = Panel(tuple(lines), "", "training steps", objective)
    return Chart("curves", "Learning curves", (panel,)) if lines else None


def _line(
    name: str, rows: Iterable[tuple[int, float]], color: str, *, trial: TrialRecord, width: float = 1.4, dash: int = 0
) -> Series:  # fmt: skip
    steps, values = zip(*rows, strict=True)
    labels = [f"trial {trial.number} ({trial.source})"] * len(steps)
    return Series(name, steps, values, "line", color, name, labels, width, dash)


def _parameters(state: RunState, objective: str) -> Chart | None:
    best, scales, panels = state.best(), _scales(state), []
    for name, points in _varied(state):
        top = 1.0 if scales.get(name) == "log1m" else math.inf
        fits = all(isinstance(value, float) and 0 < value < top for _, value in points)
        scale = scales.get(name) if fits else None
        shown = [(t, 1 - v if scale == "log1m" and isinstance(v, float) else v) for t, v in points]
        parts = []
        for kind in dict.fromkeys(_kind(t, best) for t, _ in shown):
            found = [(t, value) for t, value in shown if _kind(t, best) == kind]
            how: How = "dots" if kind in COLORS else "diamonds"
            color = COLORS.get(kind, BEST if kind == "best" else DARK)
            parts.append(Series(kind, [v for _, v in found], [float(t.best_value or 0.0) for t, _ in found], how, color,
                                kind, [f"trial {t.number} ({t.source})" for t, _ in found]))  # fmt: skip
        title = f"1 - {name}" if scale == "log1m" else name
        panels.append(Panel(tuple(parts), title, log_x=scale is not None, share_y=True))
    note = f"Best {objective} of each trial over each searched knob that took more than one value."
    return Chart("parameters", "Searched knobs", tuple(panels), note) if panels else None


def _kind(trial: TrialRecord, best: TrialRecord | None) -> str:
    """What a trial is among others: the best, a baseline, or one that ended in this way."""
    return "best" if trial is best else "baseline" if is_baseline(trial.source) else str(trial.state)


def _scales(state: RunState) -> dict[str, str]:
    """By knob, how it is searched where that is not evenly: `log` or `log1m`."""
    found: dict[str, str] = {}
    for generation in state.spaces.values():
        entries = (generation.get("space") or {}).get("entries") or ()
        for entry in entries if isinstance(entries, list) else ():
            if entry.get("scale") in ("log", "log1m"):
                found |= {name: entry["scale"] for name in entry.get("names") or (entry.get("name"),)}
    return found


def _varied(state: RunState) -> Iterator[tuple[str, list[tuple[TrialRecord, float | str]]]]:
    """Searched knobs with at least two values among trials that have a result."""
    trials = [t for t in state.trials.values() if t.best_value is not None]
    for name in dict.fromkeys(name for trial in trials for name in trial.params):
        found = [(trial, _plain(trial.params.get(name))) for trial in trials]
        points = [(trial, value) for trial, value in found if value is not None]
        if any(isinstance(value, str) for _, value in points):
            points = [(trial, str(value)) for trial, value in points]
        if len({value for _, value in points}) > 1:
            yield name, points


def _plain(value: Any) -> float | str | None:
    """A number where it is one, else what stands for it."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return float(value) if math.isfinite(value) else None


def _importance(shares: Mapping[str, float]) -> Chart | None:
    if not shares:
        return None
    panel = Panel((Series("importance", list(shares), list(shares.values()), "bars"),), "", "share")
    note = "How far the best trials' values of a coordinate depart from all trials' (PED-ANOVA); shares add up to 1."
    return Chart("importance", "Importance", (panel,), note)


def _classes(state: RunState) -> Chart | None:
    best, parts = state.best(), []
    for place, trial in enumerate(shown_trials(state)):
        found = _under("val/iou/", trial.best_record or {})
        if found:
            parts.append(Series(name_of(trial, best), list(found), list(found.values()), "bars", _color(place)))
    note = "Each at the evaluation with its best objective; a class without labeled pixels in val has no bar."
    panel = Panel(tuple(parts), "", "IoU on the validation images")
    return Chart("classes", "IoU per class", (panel,), note) if parts else None


def _thresholds(state: RunState) -> Chart | None:
    best = state.best()
    if best is None:
        return None
    found: dict[str, list[tuple[int, float]]] = {}
    for row in best.evaluations:
        for name, value in _under("threshold/", row.record).items():
            found.setdefault(name, []).append((row.step, value))
    lines = [_line(name, rows, _color(i), trial=best) for i, (name, rows) in enumerate(found.items())][:_MOST_CLASSES]
    panel = Panel(tuple(lines), "", "training steps", "threshold")
    title = f"Thresholds of the best, trial {best.number} ({best.source})"
    return Chart("thresholds", title, (panel,)) if lines else None


def _selection(state: RunState) -> Chart | None:
    best, lines = state.best(), []
    for place, trial in enumerate(shown_trials(state)):
        rows = [(r.step, v) for r in trial.evaluations if (v := r.record.get("st/ratio")) is not None]
        if rows:
            width = 2.0 if trial is best else 1.2
            lines.append(_line(name_of(trial, best), rows, _color(place), trial=trial, width=width))
    panel = Panel(tuple(lines), "", "training steps", "share of unlabeled pixels")
    note = "Pixels that became pseudo-labels, of all that were looked at since the evaluation before."
    return Chart("selection", "Pseudo-labels", (panel,), note) if lines else None


def _color(place: int) -> str:
    return (BEST, *(c for c in PALETTE if c != BEST))[place % len(PALETTE)]


def _under(prefix: str, record: Mapping[str, float | None]) -> dict[str, float]:
    return {k.removeprefix(prefix): v for k, v in record.items() if k.startswith(prefix) and v is not None}
