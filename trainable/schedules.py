"""Numbers that follow the step: learning-rate factors, ramps, decays.
 Everything here is host-side arithmetic on plain numbers, so that a schedule can be drawn, tested and saved
without a device. A learning-rate schedule returns the *factor* that multiplies the base rate. Steps count
from 0: the value at `step` is the one that update number `step` uses.
"""

from __future__ import annotations

import math
from typing import Literal


def constant(step: int, value: float = 1.0) -> float:
    """Return `value` at every step.

    >>> constant(7)
    1.0
    """
    _at_least(0, step=step)
    return float(value)


def cosine_warmup(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine from 1 to 0.

    `step / warmup` while `step < warmup`, then `0.5 (1 + cos(pi (step - warmup) / (total - warmup)))`; 0 from
    `total` on. The first value is exactly 0 when there is a warm-up.

    Args:
        step: the update's number, at least 0.
        total: the step at which the factor reaches 0.
        warmup: steps of linear warm-up; 0 for none.

    Returns:
        The factor of the base learning rate, in [0, 1].

    Raises:
        ValueError: if `step` or `warmup` is negative, or `total` is not above `warmup`.

    >>> [round(cosine_warmup(step, total=50_000, warmup=1_000), 3) for step in (0, 500, 1_000, 10_000)]
    [0.0, 0.5, 1.0, 0.919]

    Source: the cosine of SGDR (Loshchilov and Hutter, arXiv 1608.03983) without restarts. Differs in that the
        factor stays at 0 after `total` instead of rising again.
    """
    _at_least(0, step=step, warmup=warmup)
    if total <= warmup:
        raise ValueError(
            f"cosine_warmup: total must exceed warmup, but got {total=}, {warmup=}; lower warmup"
        )
    if step < warmup:
        return step / warmup
    progress = min((step - warmup) / (total - warmup), 1.0)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def poly(step: int, total: int, power: float = 0.9, floor: float = 0.0) -> float:
    """Polynomial decay, `max((1 - step / total) ** power, floor)`.

    Args:
        step: the update's number, at least 0.
        total: the step at which the factor reaches its floor.
        power: the exponent; 0 keeps the factor at 1 until `total`.
        floor: the smallest factor. A floor on the rate itself is `floor / base rate` here.

    Returns:
        The factor of the base learning rate, in [floor, 1]; `floor` from `total` on.

    Raises:
        ValueError: if `step`, `power` or `floor` is negative or `total` is below 1.

    >>> [round(poly(step, total=100), 4) for step in (0, 50, 99, 100, 200)]
    [1.0, 0.5359, 0.0158, 0.0, 0.0]

    Source: DeepLab (arXiv 1606.00915).
    """
    _at_least(0, step=step, power=power, floor=floor)
    _at_least(1, total=total)
    if step >= total:
        return float(floor)
    return float(max((1.0 - step / total) ** power, floor))


def step_poly(step: int, iter_max: int, power: float = 0.9, every: int = 10) -> float:
    """Polynomial decay that changes only at multiples of `every`, over a horizon of its own.

    The value of `poly` at the last multiple of `every`, and exactly 0 from `iter_max` on: a horizon shorter
    than the training therefore stops the learning.

    Args:
        step: the update's number, at least 0.
        iter_max: the step from which the factor is 0; it need not be the length of the training.
        power: the exponent.
        every: steps between two changes.

    Returns:
        The factor of the base learning rate, in [0, 1].

    Raises:
        ValueError: if `step` or `power` is negative, or `iter_max` or `every` is below 1.

    >>> [f"{2.5e-4 * step_poly(step, iter_max=20_000):.4g}" for step in (0, 5_000, 10_000, 19_999, 20_000)]
    ['0.00025', '0.000193', '0.000134', '2.673e-07', '0']

    Source: the generator's schedule of ALS4GAN (arXiv 2202.06484).
    """
    _at_least(1, every=every)
    return poly(step, iter_max, power) if step >= iter_max else poly(step - step % every, iter_max, power)


def linear_ramp(
    step: int, start_value: float, end_value: float, ramp_steps: float, start_step: int = 0
) -> float:
    """Move linearly from one value to another.

    `a + (b - a) min(max(step - start_step, 0) / ramp_steps, 1)` with a = `start_value`, b = `end_value`. With
    `ramp_steps` 0 it is a jump at `start_step`.

    Args:
        step: the update's number, at least 0.
        start_value: the value up to `start_step`.
        end_value: the value from `start_step + ramp_steps` on.
        ramp_steps: the ramp's length in steps; a share of the training may give a fraction.
        start_step: the step at which the ramp begins.

    Raises:
        ValueError: if `step`, `ramp_steps` or `start_step` is negative.

    >>> [round(linear_ramp(step, 0.1, 1.0, ramp_steps=20_000), 4) for step in (500, 5_000, 20_000, 40_000)]
    [0.1225, 0.325, 1.0, 1.0]
    """
    _at_least(0, step=step, ramp_steps=ramp_steps, start_step=start_step)
    since = step - start_step
    if since < 0:
        return float(start_value)
    if since >= ramp_steps:
        return float(end_value)
    return float(start_value + (end_value - start_value) * (since / ramp_steps))


def sigmoid_ramp_up(step: int, ramp_steps: float, start_step: int = 0) -> float:
    """Rise from exp(-5) to 1 along `exp(-5 (1 - t)^2)`, t = `clamp((step - start_step) / ramp_steps, 0, 1)`.

    The weight is 0 before `start_step`, and 1 at once where `ramp_steps` is 0.

    Args:
        step: the update's number, at least 0.
        ramp_steps: the ramp's length in steps.
        start_step: the step at which the ramp begins.

    Returns:
        The weight, in [0, 1].

    Raises:
        ValueError: if an argument is negative.

    >>> [round(sigmoid_ramp_up(step, ramp_steps=100), 4) for step in (0, 50, 100, 300)]
    [0.0067, 0.2865, 1.0, 1.0]

    Source: Mean Teacher (arXiv 1703.01780), after Temporal Ensembling (arXiv 1610.02242).
    """
    _at_least(0, step=step, ramp_steps=ramp_steps, start_step=start_step)
    if step < start_step:
        return 0.0
    share = 1.0 if ramp_steps == 0 else min((step - start_step) / ramp_steps, 1.0)
    return math.exp(-5.0 * (1.0 - share) ** 2)


def warm_restarts(step: int, first_period: int, multiplier: int = 1, floor: float = 0.0) -> float:
    """Half a cosine from 1 to `floor`, again and again, each period `multiplier` times the one before.

    Args:
        step: steps (or epochs) since the beginning, at least 0.
        first_period: length of the first period in the unit of `step`.
        multiplier: growth of the period, an integer of at least 1.
        floor: the smallest factor; a smallest rate is `rate / base rate` here.

    Returns:
        The factor of the base learning rate, in [floor, 1]; exactly 1 at each restart.

    Raises:
        ValueError: if `step` or `floor` is negative, or `first_period` or `multiplier` is below 1.

    >>> [round(warm_restarts(epoch, first_period=10, multiplier=2), 3) for epoch in (0, 5, 10, 20, 29, 30)]
    [1.0, 0.5, 1.0, 0.5, 0.006, 1.0]

    Source: SGDR (arXiv 1608.03983); the values of `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`.
    """
    _at_least(0, step=step, floor=floor)
    _at_least(1, first_period=first_period, multiplier=multiplier)
    period, since = first_period, step
    if multiplier == 1:
        since %= period
    while since >= period:
        since -= period
        period *= multiplier
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * since / period))


def ema_decay(step: int, target: float) -> float:
    """Decay of a running average that starts as a copy: `min(1 - 1 / (step + 1), target)`.

    Args:
        step: number of updates already made, so 0 makes the average a copy of its source.
        target: the decay in the long run, in [0, 1].

    Returns:
        The decay for this update.

    Raises:
        ValueError: if `step` is negative or `target` lies outside [0, 1].

    >>> [ema_decay(step, 0.996) for step in (0, 1, 3, 1_000)]
    [0.0, 0.5, 0.75, 0.996]

    Source: Mean Teacher's code, as in U2PL and UniMatch V2.
    """
    _at_least(0, step=step)
    if not 0.0 <= target <= 1.0:
        raise ValueError(f"ema_decay: the decay must lie in [0, 1], but got {target=}")
    return min(1.0 - 1.0 / (step + 1), target)


class Plateau:
    """Linear warm-up, then a factor that is cut each time the monitored value stops improving.

    Call `observe` after each evaluation and `factor` at each step. A value improves when it beats the best so
    far by the relative `threshold`. After more than `patience` evaluations without improvement the factor is
    multiplied by `reduce` (never below `floor`) and the count starts anew. Evaluations made during the
    warm-up may set the best, but never count as bad. A non-finite value is never an improvement.

    Args:
        reduce: what the factor is multiplied by, in (0, 1).
        patience: bad evaluations in a row that are still tolerated.
        warmup: steps of linear warm-up.
        mode: whether a smaller ("min") or a larger ("max") value is better.
        threshold: the relative improvement that counts.
        floor: the smallest factor of the plateau part.

    Raises:
        ValueError: if an argument is out of range.

    >>> plateau = Plateau(reduce=0.5, patience=1)
    >>> [plateau.observe(loss, step) for step, loss in enumerate([1.0, 1.0, 1.0, 1.0])]
    [1.0, 1.0, 0.5, 0.5]

    Source: `torch.optim.lr_scheduler.ReduceLROnPlateau` with `threshold_mode="rel"` and no cooldown.
    """

    def __init__(
        self,
        reduce: float = 0.5,
        patience: int = 5,
        warmup: int = 0,
        mode: Literal["min", "max"] = "min",
        threshold: float = 1e-4,
        floor: float = 0.0,
    ) -> None:
        _at_least(0, patience=patience, warmup=warmup, threshold=threshold, floor=floor)
        if not 0.0 < reduce < 1.0:
            raise ValueError(f"Plateau: reduce must lie in (0, 1), but got {reduce=}")
        if mode not in ("min", "max"):
            raise ValueError(f"Plateau: mode must be 'min' or 'max', but got {mode=}")
        self.reduce, self.patience, self.warmup = reduce, patience, warmup
        self.mode, self.threshold, self.floor = mode, threshold, floor
        self.level = 1.0
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = 0

    def observe(self, value: float, step: int) -> float:
        """Take in the monitored value of the evaluation at `step`; return the factor of the plateau part."""
        if self._improves(value):
            self.best, self.bad = value, 0
        elif step >= self.warmup:
            self.bad += 1
        if self.bad > self.patience:
            self.level, self.bad = max(self.level * self.reduce, self.floor), 0
        return self.level

    def factor(self, step: int) -> float:
        """Return the factor of the base learning rate at `step`."""
        return self.level * (step / self.warmup if step < self.warmup else 1.0)

    def state_dict(self) -> dict[str, float]:
        """Return what a resume needs."""
        return {"level": self.level, "best": self.best, "bad": float(self.bad)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take back what `state_dict` returned."""
        self.level, self.best, self.bad = state["level"], state["best"], int(state["bad"])

    def _improves(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        # A relative margin of an infinite best is undefined; the first finite value always stands.
        if math.isinf(self.best):
            return True
        if self.mode == "min":
            return value < self.best * (1.0 - self.threshold)
        return value > self.best * (1.0 + self.threshold)


def _at_least(bound: float, **values: float) -> None:
    for name, value in values.items():
        if not value >= bound:
            raise ValueError(f"schedule: {name} must be at least {bound}, but got {name}={value}")
