"""A whole search without Ray: the real searcher and scheduler, trials that are formulas, and a log in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.search import Searcher

from search.asker import Asker
from search.events import Event, check_fields, decode, encode, is_whole, natural
from search.records import RunState, fold
from search.scheduler import Asha, ThresherScheduler
from search.searcher import ThresherSearcher
from search.suggestion import Baseline, Suggestion, baselines, share
from spaces import SearchSpace
from trainable.config import resolve
from trainable.recipes.per_class import PerClassConfig, PerClassThresholds

CLASSES = ("field", "road", "roof", "tree", "water")
FREQ = (0.55, 0.02, 0.08, 0.25, 0.10)
STEPS, EVERY = 600, 60
TRAIN: dict[str, Any] = {"steps": STEPS, "eval_every_steps": EVERY}
SEED = 7


class MemoryLog:
    """The log of a run without a disk; `events` is all that a crash leaves."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events = list(events)
        self.state = fold(self.events)

    def append(self, event_type: str, /, **payload: Any) -> Event:
        plain = natural(payload)
        check_fields(event_type, plain)
        event = Event(len(self.events), 1, "2026-01-01T00:00:00.000000Z", event_type, plain)
        self.state.apply(event)
        self.events.append(event)
        return event

    def to_bytes(self) -> bytes:
        return b"".join(map(encode, self.events))

    @classmethod
    def from_bytes(cls, text: bytes) -> MemoryLog:
        """What is left of a log that was cut at any byte: its whole lines."""
        lines = text.split(b"\n")[:-1]
        return cls(decode(line for line in lines if is_whole(line)))


def base_config(train: dict[str, Any] | None = None) -> dict[str, Any]:
    return resolve(PerClassConfig, train=train or TRAIN, class_names=CLASSES).model_dump(mode="json")


def space_of(spec: Any = "per_class/quick", train: dict[str, Any] | None = None) -> SearchSpace:
    return SearchSpace.from_spec(spec, PerClassConfig, CLASSES, FREQ, train or TRAIN)


def baselines_of() -> tuple[Baseline, ...]:
    presets = {name: preset.values for name, preset in PerClassThresholds.presets.items() if preset.baseline}
    return baselines(PerClassConfig, presets, train=TRAIN, base=base_config(), class_names=CLASSES)


def asker_of(spec: Any = "per_class/quick", **changed: Any) -> Asker:
    settings = {"seed": SEED, "base": base_config(), "baselines": baselines_of(), "startup": 4}
    return Asker(space_of(spec), **{**settings, **changed})


def asha_of(direction: str = "max", brackets: int = 1) -> Asha:
    return Asha(60, STEPS, 3, brackets, direction, EVERY)


def quality(params: dict[str, Any]) -> float:
    """How good a configuration is, at most 1, best where one knows."""
    miss = (math.log10(params["optimizer.lr"]) + 2.5) ** 2 / 4 + (math.log(params["st.weight"])) ** 2 / 4
    miss += sum((params[f"threshold.{c}"] - 0.8) ** 2 for c in CLASSES)
    return 1.0 / (1.0 + miss)


def measured(params: dict[str, Any], step: int) -> float:
    """The objective: rises, then sinks a little; a few configurations are not finite for a while."""
    key = round(params["st.weight"], 12)
    if share("nan", key) < 0.08 and step < 200:
        return math.nan
    rise = 1 - math.exp(-step / 100)
    return quality(params) * (rise - 0.1 * max(0, step - 400) / 200) + 0.01 * share("noise", key, step)


class Search:
    """Runs a search over the log that it is given, from wherever that stands."""

    def __init__(
        self,
        log: MemoryLog,
        *,
        concurrency: int = 1,
        total: int = 14,
        asker: Asker | None = None,
        asha: Asha | None = None,
    ) -> None:
        self.log, self.concurrency = log, concurrency
        self.asker, self.asha = asker or asker_of(), asha or asha_of()
        self.flags: dict[int, str] = {}
        self.searcher = ThresherSearcher(
            log,
            self.asker,
            total=lambda: total,
            configure=configured,
            bracket=lambda number: self.asha.bracket(SEED, number),
            seed=SEED,
        )
        self.scheduler = ThresherScheduler(log, self.asha, self.flags.__setitem__)
        self._live: dict[str, dict[str, Any]] = {}
        self._count = 0

    def run(self) -> RunState:
        """Until there is nothing left to do."""
        if not self.log.events:
            self.log.append("run_opened", **opened(self.asker))
        elif self.log.state.closed is None:
            self.log.append("resumed", host="h", pid=1)
        finished = False
        while not finished or self._live:
            while not finished and len(self._live) < self.concurrency:
                found = self.searcher.suggest(f"tune{self._count}")
                finished = found == Searcher.FINISHED
                if not isinstance(found, dict):
                    break
                self._begin(f"tune{self._count}", found)
            for trial_id in list(self._live):
                self._go_on(trial_id)
        self.log.append("closed", exit_code=0, reason=None)
        return self.log.state

    def _begin(self, trial_id: str, found: dict[str, Any]) -> None:
        self._count += 1
        self._live[trial_id] = found
        self.log.append(
            "started", trial=found["trial"], attempt=found["attempt"], node="n", pid=1, device="cpu"
        )

    def _go_on(self, trial_id: str) -> None:
        """One evaluation of a trial, or its end."""
        found = self._live[trial_id]
        record = self.log.state.trials[found["trial"]]
        params = record.params
        luck = share("luck", round(params["st.weight"], 12))
        reason = self.flags.pop(record.number, None)
        if reason is not None:
            self._end(trial_id, "PRUNED" if reason == "prune" else "STOPPED", reason)
        elif record.step >= STEPS:
            self._end(trial_id, "COMPLETE", None)
        elif luck < 0.1 and record.step >= 200:
            self._end(trial_id, "STOPPED", "patience")
        elif luck < 0.18 and record.step >= 200:
            self._end(trial_id, "STOPPED", "st_inactive")
        elif luck < 0.24 and record.step >= 100:
            self._end(trial_id, "DIVERGED", "non_finite")
        elif luck < 0.30 and record.step >= 100:
            self._end(trial_id, "FAILED", "error")
        elif luck > 0.9 and record.step >= 100 and record.attempts < 2:
            self.log.append(
                "paused", trial=record.number, attempt=record.attempts, step=record.step, reason="oom"
            )
            self._leave(trial_id, error=True)
        else:
            self._evaluate(found, params, record.step + EVERY)

    def _evaluate(self, found: dict[str, Any], params: dict[str, Any], step: int) -> None:
        value = measured(params, step)
        message = {
            "kind": "evaluated",
            "trial": found["trial"],
            "attempt": found["attempt"],
            "step": step,
            "time_s": float(step),
            "objective": value,
            "record": json.dumps({"val/miou": None if math.isnan(value) else value}),
        }
        said = self.scheduler.on_trial_result(None, SimpleNamespace(config=found), message)
        assert said == "CONTINUE"

    def _end(self, trial_id: str, state: str, reason: str | None) -> None:
        found = self._live[trial_id]
        self.log.append(
            "ended",
            trial=found["trial"],
            attempt=found["attempt"],
            state=state,
            stop_reason=reason,
            error=None,
            step=self.log.state.trials[found["trial"]].step,
            time_s=1.0,
            gpu_seconds=0.0,
            peak_memory_mb=None,
            health={},
        )
        self._leave(trial_id)

    def _leave(self, trial_id: str, error: bool = False) -> None:
        del self._live[trial_id]
        self.searcher.on_trial_complete(trial_id, result={}, error=error)


def configured(suggestion: Suggestion) -> dict[str, Any]:
    """The full run configuration of a suggestion."""
    made = suggestion.config
    if made is None:
        sampled = resolve(PerClassConfig, train=TRAIN, sampled=suggestion.params, class_names=CLASSES)
        made = sampled.model_dump(mode="json")
    return {"name": "t", "recipe": "per_class", "train": made, "seed": SEED}


def opened(asker: Asker) -> dict[str, Any]:
    return {
        "schema": 1,
        "run_id": "r",
        "name": "analytic",
        "generation": 0,
        "config": {"search": {"direction": asker.direction}},
        "space": asker.space.to_json(),
        "space_hash": asker.space.space_hash,
        "metrics": ["val/miou"],
    }


def essence(state: RunState) -> dict[str, Any]:
    """All that a search suggested, decided and measured, without attempts and places in the log."""
    return {
        "rungs": state.rungs,
        "trials": {
            t.number: {
                "state": str(t.state),
                "source": t.source,
                "params": t.params,
                "coords": t.coords,
                "sampler": t.sampler,
                "bracket": t.bracket,
                "reason": t.stop_reason,
                "told": (t.told_state, t.told_value),
                "rows": [(row.step, row.objective, row.decision) for row in t.evaluations],
            }
            for t in state.trials.values()
        },
    }
