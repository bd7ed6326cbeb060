"""Learning rates: what `optimizer.schedule` makes of a base rate, step by step or by what evaluations say."""

from __future__ import annotations

from collections.abc import Sequence

from trainable import schedules
from trainable.config import OptimizerConfig, RecipeConfig
from trainable.metrics.objective import Direction


def factor(opt: OptimizerConfig, step: int, total: int) -> float:
    """Factor of a base rate: a linear warm-up, and the decay of `optimizer.schedule` until `total`.

    What `plateau` cuts comes on top of it, by `follow_plateau`.

    Args:
        opt: the schedule and its numbers. step: of the run. total: where the decay ends.

    >>> opt = OptimizerConfig(schedule="step_poly", warmup_steps=0)
    >>> [round(2.5e-4 * factor(opt, step, 20_000), 6) for step in (0, 5_005, 10_000, 20_000)]
    [0.00025, 0.000193, 0.000134, 0.0]
    """
    if opt.schedule == "cosine":
        return schedules.cosine_warmup(step, total, opt.warmup_steps)
    warm = min(1.0, step / opt.warmup_steps) if opt.warmup_steps else 1.0
    if opt.schedule == "poly":
        return warm * schedules.poly(step, total, opt.power)
    if opt.schedule == "step_poly":
        return warm * schedules.step_poly(step, total, opt.power, opt.poly_every_steps)
    if opt.schedule == "warm_restarts":
        since = max(0, step - opt.warmup_steps)
        return warm * schedules.warm_restarts(since, opt.restart_steps, opt.restart_growth, opt.restart_floor)
    return warm


def learning_rate(cfg: RecipeConfig, step: int, total: int | None = None) -> float:
    """The base learning rate at a step; the decay ends at `total`, or with the run."""
    return cfg.optimizer.lr * factor(cfg.optimizer, step, total or cfg.steps)


def follow_plateau(
    cfg: RecipeConfig, value: float | None, direction: Direction, optimizers: Sequence[str], remember: dict[str, float]
) -> None:
    """Where the schedule is `plateau`, cut some optimizers' rates once a metric has stopped improving.

    Args:
        cfg: the run's knobs. value: of the metric at an evaluation. direction: which values are better.
        optimizers: whose rates. remember: what a resume needs; the rates' factors are left in it.
    """
    opt = cfg.optimizer
    if opt.schedule != "plateau" or value is None or opt.plateau_factor >= 1.0:
        return
    plateau = schedules.Plateau(opt.plateau_factor, opt.plateau_patience, opt.warmup_steps, mode=direction)
    start = plateau.state_dict()
    plateau.load_state_dict({name: remember.get(f"plateau/{name}", start[name]) for name in start})
    count = remember.get("plateau/evaluations", 0.0) + 1
    level = plateau.observe(value, int(count) * cfg.eval_every_steps)
    remember |= {f"lr_scale/{name}": level for name in optimizers} | {"plateau/evaluations": count}
    remember |= {f"plateau/{name}": number for name, number in plateau.state_dict().items()}
