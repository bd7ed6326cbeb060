"""Every recipe on one budget of real data, the supervised floor beside those that use unlabeled images.

    python -m tests.bench.recipes [--task landcover] [--recipes fixmatch,cps] [--sampled 3] [--seeds 3] [--runs FOLDER]

Each recipe tries its documented configurations, which may be few or many, and as many samples of its own `quick` space
as every other, with the same steps, images and network; what was best is trained again over new seeds, and the means
are held against the floor's: a difference under two standard deviations is called none. Sweeps and runs that are there
already are gone on with. The networks are small, start from random weights and
train briefly: this shows that the recipes work on real data, and ranks nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from search.checks import class_names
from search.config import load_sweep
from search.opening import baselines_of
from tests.bench.results import record
from trainable import strict_yaml, train
from trainable.config import RunConfig

DATA = Path(os.environ.get("THRESHER_DATA", Path(__file__).parents[2].parent / "shared" / "data")).resolve()
FLOOR = "supervised"
PIXEL = (
    "per_class", "s4gan", "s4gan_v2", "diverse_head", "fixmatch", "unimatch", "unimatch_v2", "corrmatch", "cps",
    "mean_teacher",
)  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """Data and the budget that its recipes share.

    Attributes:
        data: the data section. train: fixed knobs of every recipe. objective: what is compared.
        recipes: which can train on it. chance: the objective of a constant prediction of the best class.
        own: fixed knobs of single recipes.
    """

    data: dict[str, Any]
    train: dict[str, Any]
    objective: str
    recipes: tuple[str, ...]
    chance: str
    own: dict[str, dict[str, Any]]


def lists(split: str) -> dict[str, str]:
    """Where a split's lists of ids stand."""
    return {
        "labeled": f"splits/{split}/labelled.txt", "unlabeled": f"splits/{split}/unlabelled.txt",
        "val": "splits/val.txt", "classes": "class_mapping.csv",
    }  # fmt: skip


NET = {"architecture": "linknet", "encoder": "resnet18", "encoder_weights": None, "patience": 0}
EM = {"root": str(DATA / "isbi_em"), **lists("n4_seed0")}
MEMBRANE = {
    "objective": "val/f1", "recipes": ("surface",), "own": {}, "chance": "every pixel a membrane: F1 0.36",
}  # fmt: skip
BUDGETS = {
    "landcover": Budget(
        {"root": str(DATA / "dubai_landcover"), **lists("n50_seed0"), "group_by": r"^(t\d+p\d+)"},
        NET | {"steps": 160, "eval_every_steps": 160, "batch_size": 8, "crop_size": 64},
        "val/miou", (FLOOR, *PIXEL), "every pixel land: mIoU 0.11", {"diverse_head": {"head_channels": 32}},
    ),
    "particles": Budget(
        {"root": str(DATA / "apoferritin_cryoem"), **lists("n4_seed0"), "group_by": "none",
         "points": {"file": "points.csv", "radius": 16}},
        NET | {"steps": 160, "eval_every_steps": 80, "batch_size": 8, "crop_size": 96},
        "val/f1", (FLOOR, "self_training_rounds"), "every pixel a particle: F1 0.50", {},
    ),
    "membranes": Budget(
        EM | {"group_by": "none"},
        NET | {"steps": 160, "eval_every_steps": 80, "batch_size": 8, "crop_size": 64}, **MEMBRANE,
    ),
    "membrane_volume": Budget(
        EM | {"group_by": "none", "volume": {"group_by": "^(tr|un)", "order_by": r"z(\d+)$"}},
        {"steps": 80, "eval_every_steps": 40, "batch_size": 2, "crop_size": 16, "patience": 0,
         "volume": {"depth": 2, "filters": 8}}, **MEMBRANE,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A recipe's row.

    Attributes:
        recipe: its name. searched: best objective of its search. trials: how many ended with a value.
        default: best objective of its defaults in the same search. mean: over the new seeds. sd: sample deviation.
        against_floor: `better`, `worse`, `none`; empty for the floor itself and where there is none.
    """

    recipe: str
    searched: float
    trials: int
    default: float | None
    mean: float
    sd: float
    against_floor: str = ""


def sweep_file(budget: Budget, recipe: str, sampled: int, folder: Path) -> tuple[Path, int]:
    """Writes the sweep of a recipe's quick space; returns it and its number of trials."""
    plain: dict[str, Any] = {
        "name": recipe, "recipe": recipe, "data": budget.data,
        "train": budget.train | budget.own.get(recipe, {}), "space": f"{recipe}/quick",
        "search": {"trials": sampled, "objective": budget.objective, "max_concurrent": 1},
        "resources": {"cpus_per_worker": 1}, "storage": str(folder), "tracking": {"wandb": {"mode": "disabled"}},
    }  # fmt: skip
    path = folder / f"{recipe}.yaml"
    path.write_text(strict_yaml.dump(plain), encoding="utf-8")
    config = load_sweep(path)
    trials = sampled + len(baselines_of(config, class_names(config.data, [])))
    plain["search"]["trials"] = trials
    path.write_text(strict_yaml.dump(plain), encoding="utf-8")
    return path, trials


def thresher(*arguments: str) -> str:
    """What a command prints; its own output where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "search.cli", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 3):
        sys.exit(f"thresher {shlex.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def searched(budget: Budget, recipe: str, sampled: int, folder: Path) -> list[dict[str, Any]]:
    """The rows of a recipe's sweep, after it ran or went on."""
    run = folder / recipe
    path, trials = sweep_file(budget, recipe, sampled, folder)
    thresher(*(("resume", str(run)) if (run / "events").is_dir() else ("sweep", str(path))))
    rows: list[dict[str, Any]] = yaml.safe_load(thresher("table", str(run), "--json"))
    if len(rows) < trials:
        thresher("resume", str(run), "--add-trials", str(trials - len(rows)))
        rows = yaml.safe_load(thresher("table", str(run), "--json"))
    return [row for row in rows if row["objective"] is not None]


def over_seeds(recipe: str, seeds: int, folder: Path) -> list[float]:
    """Best objective of the best configuration, once per new seed."""
    thresher("export", str(folder / recipe), "--output", str(folder / f"{recipe}-best.yaml"))
    best = RunConfig.model_validate(strict_yaml.load(folder / f"{recipe}-best.yaml").data)
    found = []
    for seed in range(1, seeds + 1):
        run = best.model_copy(update={"seed": seed})
        outcome = train(run, folder / f"{best.name}-seed{seed}", base=folder)
        if outcome.best_value is None:
            sys.exit(f"{recipe}, seed {seed}: no evaluation has a value ({outcome.state}, {outcome.error})")
        found.append(outcome.best_value)
    return found


def verdict(mine: Line, floor: Line) -> str:
    """Against the floor: a difference under two pooled standard deviations is none."""
    limit = 2 * math.sqrt((mine.sd**2 + floor.sd**2) / 2)
    difference = mine.mean - floor.mean
    return "none" if abs(difference) < limit else "better" if difference > 0 else "worse"


def measure(budget: Budget, recipe: str, sampled: int, seeds: int, folder: Path) -> Line:
    """One recipe's row, but for the floor."""
    rows = searched(budget, recipe, sampled, folder)
    default = [float(row["objective"]) for row in rows if row["source"] == "default"]
    values = over_seeds(recipe, seeds, folder)
    return Line(
        recipe, max(float(row["objective"]) for row in rows), len(rows), default[0] if default else None,
        statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0,
    )  # fmt: skip


def main() -> None:
    """Measure, print the table, and keep it with `--record`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=BUDGETS, default="landcover")
    parser.add_argument("--recipes", help="comma-separated; left out: all that can train on the data")
    parser.add_argument("--sampled", type=int, default=3, help="trials beside the documented configurations")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-recipes"))
    parser.add_argument("--record", action="store_true", help="keep the table in results.json")
    asked = parser.parse_args()
    budget = BUDGETS[asked.task]
    folder = (asked.runs / asked.task).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    lines: list[Line] = []
    print(f"{asked.task}: {budget.objective}, {budget.train['steps']} steps, the documented configurations and "
          f"{asked.sampled} sampled ones; {budget.chance}")  # fmt: skip
    print("| recipe | trials | default | best of search | mean of new seeds | sd | against the floor |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for recipe in asked.recipes.split(",") if asked.recipes else budget.recipes:
        line = measure(budget, recipe, asked.sampled, asked.seeds, folder)
        if lines and lines[0].recipe == FLOOR:
            line = Line(**{**asdict(line), "against_floor": verdict(line, lines[0])})
        lines.append(line)
        default = "" if line.default is None else f"{line.default:.3f}"
        print(f"| {recipe} | {line.trials} | {default} | {line.searched:.3f} | {line.mean:.3f} | {line.sd:.3f} | "
              f"{line.against_floor} |", flush=True)  # fmt: skip
    if asked.record:
        command = f"python -m tests.bench.recipes --task {asked.task} --sampled {asked.sampled} --seeds {asked.seeds}"
        record(f"recipes/{asked.task}", command, [asdict(line) for line in lines])


if __name__ == "__main__":
    main()
