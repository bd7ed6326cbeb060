"""A run's configuration: one declaration per knob, precedence, scaling, and every fault at once."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable.config import RunConfig, check_name, flatten, merge, per_class, resolve, unflatten
from trainable.errors import ConfigError
from trainable.knob import knob, knobs_of
from trainable.recipes import RECIPES, get_recipe
from trainable.recipes.per_class import PerClassConfig

NAMES = ("background", "road", "water")


def made(preset: str | None = None, sampled: dict[str, Any] | None = None, **train: Any) -> Any:
    values = get_recipe("per_class").preset_values(preset)
    return resolve(PerClassConfig, preset=values, train=train, sampled=sampled, class_names=NAMES)


def faults(**train: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        made(**train)
    return [str(fault) for fault in caught.value.faults]


def test_defaults_yield_to_the_preset_the_preset_to_train_and_train_to_the_sample() -> None:
    assert made().st.weight == 1.0
    assert made("V3.1").st.weight == 1.5
    assert made("V3.1", st={"weight": 0.7}).st.weight == 0.7
    assert made("V3.1", {"st.weight": 0.3}, st={"weight": 0.7}).st.weight == 0.3


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_says_what_is_worth_searching_within_what_is_legal(name: str) -> None:
    for declared in knobs_of(RECIPES[name].config).values():
        if declared.search and declared.legal:
            assert declared.legal[0] <= declared.search[0] < declared.search[1] <= declared.legal[1], declared.name
        assert declared.help, declared.name
        assert declared.searchable or declared.why_not, declared.name


def test_the_yardsticks_cannot_be_searched() -> None:
    declared = knobs_of(PerClassConfig)
    assert not any(declared[n].searchable for n in ("steps", "eval_every_steps", "exclude_classes"))


def test_presets_keep_their_proportions_on_a_shorter_run() -> None:
    short = made("V3.1", steps=750, eval_every_steps=5, crop_size=128)
    assert short.optimizer.warmup_steps == 15
    assert short.st.start_step == 5
    assert short.patience == 40
    assert (short.scale_min, short.scale_max) == (128, 160)
    assert short.ema_decay == pytest.approx(1 - 0.0005 * 100)


def test_what_train_sets_is_not_scaled() -> None:
    short = made("V3.1", steps=750, optimizer={"warmup_steps": 100}, ema_decay=0.9995, patience=3)
    assert (short.optimizer.warmup_steps, short.ema_decay, short.patience) == (100, 0.9995, 3)


@settings(deadline=None, max_examples=40)
@given(steps=st.integers(20, 10**6))
def test_a_scaled_default_is_legal_at_any_length(steps: int) -> None:
    cfg = made(steps=steps)
    assert cfg.steps == steps and cfg.optimizer.warmup_steps >= 1 and 0 <= cfg.ema_decay < 1
    horizon_share = 1 / (1 - cfg.ema_decay) / steps
    assert math.isclose(horizon_share, 1000 / 50_000, rel_tol=1e-6) or cfg.ema_decay == 0.0


def test_preset_thresholds_go_by_class_name_and_others_get_their_mean() -> None:
    v30 = made("V3.0")
    assert per_class(v30.threshold, NAMES) == (0.0, 0.625, 0.625)
    names = ("Jalan", "Snake Fruit")
    values = get_recipe("per_class").preset_values("V3.0")
    named = resolve(PerClassConfig, preset=values, class_names=names)
    assert per_class(named.threshold, names) == (0.70, 0.55)


def test_one_threshold_may_be_changed_alone() -> None:
    assert per_class(made(threshold={"road": 0.9}).threshold, NAMES) == (0.6, 0.9, 0.6)
    assert per_class(made("V3.0", threshold=0.8).threshold, NAMES) == (0.8, 0.8, 0.8)


@pytest.mark.fault(
    46,
    how="ema_decay=2.0, scale_min above scale_max, zoom_min above zoom_max, a threshold of no class",
    saw="all at once with the values given",
)
def test_every_fault_is_reported_at_once_with_what_was_given() -> None:
    found = faults(
        stepz=4, ema_decay=2.0, optimizer={"lr": "fast"}, threshold={"rod": 0.5}, scale_min=500,
        augment={"zoom_min": 3.0},
    )  # fmt: skip
    text = "\n".join(found)
    expected = ("'stepz'", "did you mean 'steps'", "ema_decay=2.0", "lr='fast'", "scale_min=500", "zoom_min=3.0")
    for part in (*expected, "'rod'"):
        assert part in text, part


@pytest.mark.fault(
    46,
    how="thresholds 1.0, -0.1, NaN, a word and a truth value",
    saw="refused at load, each with what it got",
)
@pytest.mark.parametrize("value", [1.0, -0.1, float("nan"), "high", True])
def test_a_threshold_outside_its_range_is_refused(value: Any) -> None:
    assert "threshold" in faults(threshold={"road": value})[0]
    assert len(faults(threshold={"default": value})) == 1, "what is wrong alone makes nothing else wrong"


def test_a_search_range_outside_the_legal_one_is_a_mistake_of_the_recipe() -> None:
    with pytest.raises(ValueError, match="inside legal"):
        knob(1.0, legal=(0, 1), search=(0, 2), help="x")


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(), max_size=4))
def test_flatten_and_unflatten_are_inverse(flat: dict[str, int]) -> None:
    assert flatten(unflatten(flat)) == flat
    assert merge({}, unflatten(flat)) == unflatten(flat)


@pytest.mark.fault(
    47,
    how="../x, CON, nul.txt, trailing dot, 101 letters, slash, Unicode, leading dash, two dots, NUL",
    saw="each refused with the rule",
)
@pytest.mark.parametrize("name", ["../x", "CON", "a.", "", "a" * 101, "a/b", "naïve", "-x", "nul.txt", "a..b", "a\x00"])
def test_names_that_are_no_safe_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name must be"):
        check_name(name)


def test_a_run_survives_its_own_dump() -> None:
    run = RunConfig.model_validate({"name": "x", "recipe": "per_class", "data": {"root": "r"}, "train": {"steps": 5}})
    assert RunConfig.model_validate(run.model_dump(mode="json", by_alias=True)) == run
