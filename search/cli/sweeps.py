"""Running a search: preview, sweep, resume."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from search.cli.lines import told_by_line
from search.cli.output import Address, Insecure, Json, Run, Sets, print_json, print_rows, say, shown
from search.cluster import connected
from search.config import load_sweep
from search.confirm import resume_confirm
from search.preview import PROBE_S, cost, measure, plan, where
from search.resume import differences
from search.resume import resume as resume_run
from search.running import Options, SweepResult
from search.schema import MANY_TRIALS, BudgetConfig
from search.single import KIND, TRAIN, resume_single
from search.status import read_run
from search.store import open_store
from search.store.base import EVENTS
from search.sweep import start_sweep
from trainable.data.check import inspect
from trainable.errors import ConfigError, Fault
from trainable.recipes import get_recipe

File = Annotated[Path, typer.Argument(help="The sweep file.")]
Leak = Annotated[bool, typer.Option("--allow-leak", help="Accept a photo on both sides of a split; it is recorded.")]


def preview(
    file: File, sets: Sets = None, address: Address = None, insecure: Insecure = False,
    no_probe: Annotated[bool, typer.Option("--no-probe", help="Measure nothing.")] = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Say what a sweep would run, and what it would cost here."""
    config = load_sweep(file, sets or ())
    with told_by_line(file, sets or ()):
        inspect(
            config.data, Path.cwd(), supervised=not get_recipe(config.recipe).needs_unlabeled, decode=False
        ).raise_faults()
    found = plan(config)
    answer: dict[str, Any] = {"run": config.run, "plan": asdict(found), "slots": None, "timing": None, "cost": None}
    why = "not asked for" if no_probe else ""
    if not no_probe:
        with connected(address, insecure=insecure) as cluster:
            slots, timing, why = measure(config, cluster)
            answer |= {"slots": asdict(slots), "where": where(cluster)}
        if timing is not None:
            spent = cost(found, timing, slots, config.search.keep.best)
            answer |= {"timing": asdict(timing), "cost": None if spent is None else asdict(spent)}
            why = "" if spent is not None else _why_no_cost(config.search.budget, timing.evaluation_s)
    answer["why_no_hours"] = why or None
    if as_json:
        print_json(answer)
    else:
        _print_preview(answer, config.search.max_hours)


def sweep(
    file: File, sets: Sets = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Put a run of that name aside, renamed.")] = False,
    go_on: Annotated[bool, typer.Option("--resume", help="Go on with a run of that name.")] = False,
    allow_leak: Leak = False, address: Address = None, insecure: Insecure = False,
) -> None:  # fmt: skip
    """Search: run trials until all are done, a budget is spent, or it is told to stop.

    Ctrl+C (exit 130) and SIGTERM (143) pause it: trials write checkpoints, and `thresher resume RUN` goes on. After
    SIGTERM they have 70 % of THRESHER_NOTICE_S seconds (30 where it is not set) for that.
    """
    if fresh and go_on:
        raise ConfigError([Fault("--fresh", "a run is either put aside or gone on with; give --fresh or --resume")])
    config = load_sweep(file, sets or ())
    if allow_leak:
        config = config.model_copy(update={"data": config.data.model_copy(update={"allow_leak": True})})
    options = Options(address=address, insecure=insecure)
    if go_on and open_store(config.run).list(EVENTS):
        _, state = read_run(config.run)
        ended(resume_run(config.run, sets=differences(state, config), options=options))
    with told_by_line(file, sets or ()):
        result = start_sweep(config, fresh=fresh, options=options)
    ended(result)


def resume(
    run: Run, sets: Sets = None,
    add_trials: Annotated[int, typer.Option("--add-trials", help="Trials beyond those asked for so far.")] = 0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Start failed trials again.")] = False,
    address: Address = None, insecure: Insecure = False,
) -> None:  # fmt: skip
    """Go on with a run: after a stop, a crash or a kill, on this machine or another, or with more trials.

    --set may change what leaves the trials comparable: resources.*, search.trials, search.max_hours,
    search.max_concurrent, tracking.*, data.root (the same data elsewhere), and space.
    """
    _, state = read_run(run)
    options = Options(address=address, insecure=insecure)
    kind = state.run.get("config", {}).get(KIND)
    if kind is not None:
        if sets or add_trials or retry_failed:
            raise ConfigError([Fault(run, f"a {kind} run goes on as it is; only a search takes changes")])
        if kind == TRAIN:
            raise typer.Exit(resume_single(run))
        ended(resume_confirm(run, options))
    ended(resume_run(run, add_trials=add_trials, sets=sets or (), retry_failed=retry_failed, options=options))


def ended(result: SweepResult) -> NoReturn:
    """Say how a sitting ended, and what comes next."""
    states = ", ".join(f"{count} {name}" for name, count in sorted(result.states.items()))
    say(f"{result.run}: {result.reason or 'done'} ({states or 'no trials'})")
    if result.best_trial is not None:
        say(f"best: trial {result.best_trial}, {shown(result.best_value)}. Next:", f"  thresher table {result.run}",
            f"  thresher export {result.run}")  # fmt: skip
    if result.reason is not None:
        say(f"  thresher resume {result.run}")
    if result.states.get("FAILED"):
        say(f"what went wrong: thresher status {result.run}")
    raise typer.Exit(result.exit_code)


def _why_no_cost(budget: BudgetConfig | None, evaluation_s: float | None) -> str:
    if evaluation_s is None:
        return f"no evaluation ended within the {PROBE_S:.0f} s of the measurement"
    return "the number of trials is open" if budget is None else f"{budget.gpu_hours:g} GPU hours end the search"


def _hours(hours: float) -> str:
    """Two digits are all that an estimate is good for.

    >>> _hours(0.123), _hours(1.26), _hours(1234.5)
    ('0.12', '1.3', '1200')
    """
    return f"{float(f'{hours:.2g}'):.12g}"


def _print_preview(found: dict[str, Any], max_hours: float | None) -> None:
    planned, slots, timing, spent = found["plan"], found["slots"], found["timing"], found["cost"]
    count = "until the budget is spent" if planned["trials"] >= MANY_TRIALS else f"{planned['trials']} trials"
    say(f"{found['run']}: {count}, {planned['baselines']} of them baselines; {planned['steps']} steps and "
        f"{planned['evaluations']} evaluations each")  # fmt: skip
    if planned["rungs"]:
        say("expected at the rungs, which decide trial by trial:")
        print_rows([{"rung at step": r["step"], "about reach it": r["trials"], "about go on": r["stay"]}
                    for r in planned["rungs"]])  # fmt: skip
    else:
        say(f"nothing will be pruned: {planned['why_no_rungs']}")
    if slots is not None:
        say(f"{slots['concurrent']} at a time on {found['where']}, each with {slots['cpus']:g} CPUs and "
            f"{slots['gpus'] * slots['workers']:g} GPUs")  # fmt: skip
    if timing is not None:
        say(f"measured on {timing['device']}: {timing['step_s']:.3f} s per step, "
            f"{shown(timing['evaluation_s'])} s per evaluation")  # fmt: skip
    if spent is None:
        say(f"hours unknown: {found['why_no_hours']}")
        return
    gpus = f", {shown(spent['gpu_hours'])} GPU hours" if spent["gpu_hours"] else ""
    say(f"estimated from that: about {_hours(spent['hours'])} hours ({_hours(spent['most_hours'])} if nothing is "
        f"pruned){gpus}; disk about {spent['disk_gb']:.2g} GB at the end, {spent['most_disk_gb']:.2g} GB "
        "while it runs")  # fmt: skip
    if max_hours is not None and spent["hours"] > max_hours:
        say(f"max_hours: {max_hours:g} is shorter: the search pauses then, and `thresher resume` goes on")
