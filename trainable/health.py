"""Rules on the training signals: what a run that goes wrong looks like.

A rule looks at one evaluation's record, remembers a few numbers between evaluations, and says whether it is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Memory = dict[str, float]
Record = Mapping[str, float | None]
Action = Literal["warn", "stop"]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: column `health.<name>` and, where it stops a run, its stop reason.
        check: (record, memory) to a message where the rule is broken, else None; may change the memory.
        action: `warn` or `stop`.
        sign: memory to what is said when the rule is about to be broken, once; None where there is nothing to say.
    """

    name: str
    check: Callable[[Record, Memory], str | None]
    action: Action
    sign: Callable[[Memory], str | None] = lambda memory: None


def _streak(memory: Memory, hit: bool) -> float:
    memory["streak"] = memory.get("streak", 0.0) + 1 if hit else 0.0
    return memory["streak"]


def st_inactive(evaluations: int, action: Action, start_step: int, threshold: str) -> Rule:
    """Self-training selects nothing, for a number of evaluations after its start.

    Args:
        evaluations: how many in a row. action: what then. start_step: first step with self-training.
        threshold: what to name in the message.

    >>> rule, memory = st_inactive(2, "stop", 0, "threshold=0.95"), {}
    >>> empty = {"step": 10.0, "st/pixels_seen": 100.0, "st/pixels_selected": 0.0}
    >>> rule.check(empty, memory), rule.check(empty, memory)
    (None, 'no pixel was selected in 2 evaluations in a row with threshold=0.95; lower the thresholds')
    >>> rule.sign({"streak": 1.0})
    'no pixel was selected with threshold=0.95; after 2 evaluations like this one the run stops'
    """

    def check(record: Record, memory: Memory) -> str | None:
        seen = record.get("st/pixels_seen") or 0.0
        active = (record.get("step") or 0.0) > start_step and seen > 0
        streak = _streak(memory, active and not record.get("st/pixels_selected"))
        if streak < evaluations:
            return None
        return (
            f"no pixel was selected in {streak:.0f} evaluations in a row with {threshold}; lower the thresholds"
        )

    def sign(memory: Memory) -> str | None:
        if memory.get("streak") != 1 or evaluations == 1:
            return None
        then = "the run stops" if action == "stop" else "the rule st_inactive is broken"
        return f"no pixel was selected with {threshold}; after {evaluations} evaluations like this one {then}"

    return Rule("st_inactive", check, action, sign)


def gap(limit: float) -> Rule:
    """Training and validation differ by more than a limit; only ever a warning.

    >>> gap(0.1).check({"gap": 0.2}, {})
    'train - val is 0.200, above 0.1: the network overfits the labeled images'
    """

    def check(record: Record, memory: Memory) -> str | None:
        value = record.get("gap")
        if value is None or value <= limit:
            return None
        return f"train - val is {value:.3f}, above {limit:g}: the network overfits the labeled images"

    return Rule("gap", check, "warn")


def collapsed(metric: str, drop: float, evaluations: int, action: Action) -> Rule:
    """A metric to be maximized has fallen far below its best, and stays there.

    Args:
        metric: which. drop: lost share of the best. evaluations: how many in a row. action: what then.

    >>> rule, memory = collapsed("val/miou", 0.5, 1, "stop"), {}
    >>> rule.check({"val/miou": 0.6}, memory), rule.check({"val/miou": 0.2}, memory)
    (None, 'val/miou fell from its best 0.600 to 0.200, for 1 evaluations')
    """

    def check(record: Record, memory: Memory) -> str | None:
        value = record.get(metric)
        if value is None:
            return None
        memory["best"] = max(memory.get("best", value), value)
        streak = _streak(memory, value < (1 - drop) * memory["best"])
        if streak < evaluations:
            return None
        return f"{metric} fell from its best {memory['best']:.3f} to {value:.3f}, for {streak:.0f} evaluations"

    return Rule("collapsed", check, action)


def band(name: str, metric: str, low: float, high: float, evaluations: int, action: Action) -> Rule:
    """A metric leaves its band, for a number of evaluations in a row.

    >>> band("d_loss", "loss/d", 0.1, 0.7, 1, "warn").check({"loss/d": 0.05}, {})
    'loss/d is 0.050, outside [0.1, 0.7] for 1 evaluations'
    """

    def check(record: Record, memory: Memory) -> str | None:
        value = record.get(metric)
        streak = _streak(memory, value is not None and not low <= value <= high)
        if value is None or streak < evaluations:
            return None
        return f"{metric} is {value:.3f}, outside [{low:g}, {high:g}] for {streak:.0f} evaluations"

    return Rule(name, check, action)


def constant_predictor(metric: str, floor: float, evaluations: int, action: Action) -> Rule:
    """A score does not rise above what one constant answer reaches.

    Args:
        metric: a score to be maximized. floor: the score of the best constant answer.
        evaluations: how many in a row from the start. action: what then.

    >>> constant_predictor("val/miou", 0.11, 1, "warn").check({"val/miou": 0.11}, {})
    'val/miou is 0.110 after 1 evaluations; a constant answer reaches 0.110'
    """

    def check(record: Record, memory: Memory) -> str | None:
        value = record.get(metric)
        if value is None:
            return None
        streak = _streak(memory, value <= floor + 1e-3)
        if streak < evaluations:
            return None
        return f"{metric} is {value:.3f} after {streak:.0f} evaluations; a constant answer reaches {floor:.3f}"

    return Rule("plateau", check, action)


def no_better_than(metric: str, floor: str, evaluations: int, action: Action) -> Rule:
    """A loss does not fall below another value of the same record: what the best constant answer costs.

    Args:
        metric: a loss. floor: the metric to compare with. evaluations: how many in a row. action: what then.

    >>> rule = no_better_than("val/loss", "val/loss_constant", 1, "warn")
    >>> rule.check({"val/loss": 0.4, "val/loss_constant": 0.4}, {})
    'val/loss is 0.400 after 1 evaluations; the best constant answer reaches 0.400'
    """

    def check(record: Record, memory: Memory) -> str | None:
        value, limit = record.get(metric), record.get(floor)
        if value is None or limit is None:
            return None
        streak = _streak(memory, value >= limit - 1e-3)
        if streak < evaluations:
            return None
        return f"{metric} is {value:.3f} after {streak:.0f} evaluations; the best constant answer reaches {limit:.3f}"

    return Rule("plateau", check, action)
