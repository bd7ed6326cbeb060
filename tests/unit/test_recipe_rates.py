"""Learning rates: every schedule is there for every recipe, and a plateau cuts the rates that it should."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from trainable import schedules
from trainable.config import OptimizerConfig, resolve
from trainable.recipes import RECIPES
from trainable.recipes.interface import Recipe
from trainable.recipes.rates import factor
from trainable.task import Task

NAMES = get_args(OptimizerConfig.model_fields["schedule"].annotation)
every_recipe = pytest.mark.parametrize("name", sorted(RECIPES))


def made(name: str, steps: int = 1000, **optimizer: Any) -> Recipe[Any]:
    kind = RECIPES[name]
    values = {"steps": steps, "eval_every_steps": 10, "optimizer": optimizer}
    task = kind.adapt(Task(("a", "b"), (3, 1)))
    return kind(resolve(kind.config, train=values, class_names=task.class_names), task)


def test_each_schedule_is_its_function_after_the_warm_up() -> None:
    expected = {
        "cosine": lambda s: schedules.cosine_warmup(s, 200, 20), "poly": lambda s: schedules.poly(s, 200, 0.8),
        "step_poly": lambda s: schedules.step_poly(s, 200, 0.8, 7),
        "warm_restarts": lambda s: schedules.warm_restarts(s - 20, 30, 3, 0.01),
        "plateau": lambda s: 1.0, "constant": lambda s: 1.0,
    }  # fmt: skip
    assert set(expected) == set(NAMES)
    for name in NAMES:
        opt = OptimizerConfig(
            schedule=name, warmup_steps=20, power=0.8, poly_every_steps=7, restart_steps=30, restart_growth=3,
            restart_floor=0.01,
        )  # fmt: skip
        found = [factor(opt, step, 200) for step in range(20, 201)]
        assert found == pytest.approx([expected[name](step) for step in range(20, 201)]), name
        assert factor(opt, 0, 200) == 0 and 0.4 < factor(opt, 10, 200) <= 0.5, name


@every_recipe
def test_every_recipe_has_every_schedule(name: str) -> None:
    curves = set()
    for schedule in NAMES:
        recipe = made(name, schedule=schedule, lr=0.5, warmup_steps=0, restart_steps=60)
        rate = recipe.phases()[0].optimizers["net"].lr
        curves.add(tuple(round(rate(step), 9) for step in (0, 33, 100, 101, 450)))
    assert len(curves) == len(NAMES) - 1  # plateau is constant until it cuts


@every_recipe
def test_a_plateau_of_the_watched_metric_cuts_the_rates(name: str) -> None:
    recipe = made(name, schedule="plateau", warmup_steps=0, plateau_patience=1, plateau_factor=0.3)
    metric, direction = recipe.plateau or (recipe.objective, recipe.direction)
    better = [0.5, 0.4, 0.3] if direction == "min" else [0.3, 0.4, 0.5]
    remember: dict[str, float] = {}
    for value in (*better, better[-1]):
        recipe.after_evaluation({metric: value, "val/other": 0.0}, remember)
    assert all(remember[f"lr_scale/{each}"] == 1 for each in recipe.scheduled)
    for value in (better[0], better[0]):
        recipe.after_evaluation({metric: value}, remember)
    assert all(remember[f"lr_scale/{each}"] == pytest.approx(0.3) for each in recipe.scheduled)
    assert set(recipe.scheduled) <= {key for phase in recipe.phases() for key in phase.optimizers}
    untouched: dict[str, float] = {}
    for schedule in NAMES:
        if schedule != "plateau":
            made(name, schedule=schedule).after_evaluation({metric: 0.5}, untouched)
    made(name, schedule="plateau").after_evaluation({metric: None}, untouched)
    assert untouched == {}


def test_the_rate_of_a_round_is_its_own() -> None:
    recipe = made("self_training_rounds", schedule="poly", warmup_steps=0)
    spec = recipe.phases()[0].optimizers["net"]
    assert spec.lr(526) == 0 < spec.lr(525)
    recipe = made("self_training_rounds", schedule="plateau", warmup_steps=0)
    remember = {"lr_scale/net": 0.25, "round": 1.0}
    recipe.after_evaluation({"val/f1": 0.0}, remember)
    assert remember == {"lr_scale/net": 0.25, "round": 1.0}
