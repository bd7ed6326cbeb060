"""What a confirmation trains: each configuration once, and floors that leave only self-training to explain a gain."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from search import confirm as confirms
from search.cluster import Cluster
from search.confirm import confirm, no_floor, variants
from search.opening import configure
from search.patient_log import PatientLog
from search.records import RunState
from search.running import Options, Sitting, SweepResult
from search.schema import SweepConfig
from search.store import RunLog, Store, open_store
from search.suggestion import Suggestion
from tests.support.drive import toy_config, toy_options
from tests.support.runs import opened
from trainable.config import flatten
from trainable.errors import ConfigError, Fault

CLASSES = ("land", "road")
FIXED = {
    "steps": 40, "eval_every_steps": 5, "encoder_weights": None, "encoder": "resnet18", "batch_size": 6,
    "st.start_step": 0,
}  # fmt: skip


def search(folder: Path, sampled: dict[str, Any], **sections: Any) -> tuple[RunState, SweepConfig]:
    config = toy_config(folder, train=FIXED, **sections)
    about = {"config": config.model_dump(mode="json", by_alias=True), "data_hash": "d" * 64}
    log = RunLog.create(open_store(folder / "run"), heartbeat=False, **(opened() | about))
    made = configure(config, CLASSES, "r")(Suggestion(0, "sampled", sampled, {}, {}))
    log.append("asked", trial=0, source="sampled", params=sampled, coords={}, config=made)
    log.append("started", trial=0, attempt=1)
    log.append("evaluated", trial=0, attempt=1, step=5, time_s=1.0, objective=0.5, record={"val/miou": 0.5},
               decision={"action": "complete"})  # fmt: skip
    log.close()
    return log.state, config


def floors(state: RunState, config: SweepConfig) -> dict[str, dict[str, Any]]:
    found = {v.name: flatten(v.train) for v in variants(state, config, "run", CLASSES, None)}
    assert next(iter(found)) == "best"
    assert {"default", "preset:V3.0", "preset:V3.1"} <= set(found)
    return {name: train for name, train in found.items() if name.startswith("supervised")}


def test_the_floor_comes_with_defaults_and_with_all_that_the_best_shares_with_it(tmp_path: Path) -> None:
    sampled = {"optimizer.lr": 0.0125, "loss.ce": 0.9, "st.weight": 3.0, "threshold": 0.7}
    plain, shared = floors(*search(tmp_path, sampled)).values()
    for name in ("steps", "eval_every_steps", "encoder", "encoder_weights", "batch_size"):
        assert plain[name] == shared[name] == FIXED[name]
    assert (shared["optimizer.lr"], shared["loss.ce"]) == (0.0125, 0.9)
    assert plain["optimizer.lr"] != 0.0125 and plain["loss.ce"] != 0.9
    assert not any(name.startswith(("st.", "threshold")) for name in (*plain, *shared))


def test_floors_that_are_one_are_trained_once(tmp_path: Path) -> None:
    state, config = search(tmp_path, {"st.weight": 3.0})
    assert list(floors(state, config)) == ["supervised (defaults)"]


def test_a_best_that_is_the_recipes_own_is_trained_once(tmp_path: Path) -> None:
    state, config = search(tmp_path, {})
    found = [variant.name for variant in variants(state, config, "run", CLASSES, None)]
    assert found[:3] == ["best = default", "preset:V3.0", "preset:V3.1"] and "default" not in found


class Asked:
    """A confirmation whose trials are not run.

    Attributes:
        looked: what the nodes were asked for. ran: its trials, as often as it was run.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.ran, self.looked = str(folder / "run"), list[int](), list[tuple[object, ...]]()
        self.unseen = False
        monkeypatch.setattr(Options, "cluster", lambda options: nullcontext(Cluster(True, folder)))
        monkeypatch.setattr(confirms, "slots_of", lambda config, cluster: None)
        monkeypatch.setattr(confirms, "check_seen_everywhere", self._look)
        monkeypatch.setattr(confirms, "run_sitting", self._sit)
        monkeypatch.setattr(confirms, "variants", lambda *given: variants(*given)[:2])

    def _look(self, store: Store, root: str, cluster: Cluster, workers: int) -> None:
        self.looked.append((store.uri, root, workers))
        if self.unseen:
            raise ConfigError([Fault("node", "every node must see it")])

    def _sit(self, log: PatientLog, sitting: Sitting, *given: object) -> SweepResult:
        self.ran.append(sitting.total)
        searcher, _ = sitting.assemble(log, sitting.config, sitting.total, lambda number, reason: None)
        while log.state.next_number < sitting.total:
            number = cast(Any, searcher.suggest(str(log.state.next_number)))["trial"]
            log.append("started", trial=number, attempt=1)
            log.append("ended", trial=number, attempt=1, state="FAILED")
        return SweepResult(1, None, log.store.uri, {})

    def __call__(self, **given: Any) -> SweepResult:
        return confirm(self.run, options=toy_options(), **given)


def test_a_confirmation_asks_the_nodes_before_it_puts_an_earlier_one_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(tmp_path, {"st.weight": 3.0}, resources={"workers_per_trial": 2})
    asked, place = Asked(tmp_path, monkeypatch), tmp_path / "run-confirm"
    asked.unseen = True
    with pytest.raises(ConfigError, match="every node must see it"):
        asked(seeds=2)
    assert asked.looked == [(str(place), str(tmp_path), 2)] and not place.exists()
    asked.unseen = False
    asked(seeds=2)
    before = open_store(place).list()
    asked.unseen = True
    with pytest.raises(ConfigError, match="every node must see it"):
        asked(seeds=3, fresh=True)
    assert open_store(place).list() == before and asked.ran == [4]


def test_a_confirmation_of_something_else_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search(tmp_path, {"st.weight": 3.0})
    asked = Asked(tmp_path, monkeypatch)
    asked(seeds=2)
    # All is done, though nobody was there to close it: it counts by what its trials came to.
    assert asked(seeds=2).exit_code == 1 and asked.ran == [4]
    with pytest.raises(ConfigError, match="trial 0 over 3 seeds, but holds a confirmation of the same trial over 2"):
        asked(seeds=3)
    with RunLog.resume(open_store(asked.run), heartbeat=False) as log:
        other = {**log.state.trials[0].config, "train": {**log.state.trials[0].config["train"], "grad_clip": 0.5}}
        log.append("asked", trial=1, source="sampled", params={}, coords={}, config=other)
        log.append("started", trial=1, attempt=1)
        log.append("evaluated", trial=1, attempt=1, step=5, time_s=1.0, objective=0.6, record={"val/miou": 0.6},
                   decision={"action": "complete"})  # fmt: skip
    with pytest.raises(ConfigError, match="confirm trial 1 over 2 seeds, but holds a confirmation of another trial"):
        asked(seeds=2)
    assert asked(seeds=2, trial=0).exit_code == 1
    asked(seeds=2, fresh=True)
    assert asked.ran == [4, 4]


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"recipe": "supervised", "space": {"optimizer.lr": {}}}, "the search itself is supervised"),
        ({"search": {"objective": "val/voi", "direction": "min"}}, "does not measure val/voi"),
        ({"data": {"layout": "volume"}}, "takes images, not volumes"),
        ({}, None),
    ],
)
def test_a_search_without_a_floor_says_why(tmp_path: Path, sections: dict[str, Any], why: str | None) -> None:
    said = no_floor(toy_config(tmp_path, **sections), CLASSES)
    assert said is None if why is None else why in str(said)
