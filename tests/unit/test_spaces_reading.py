"""What a space may say, and everything that is wrong with it at once."""

from __future__ import annotations

from typing import Any

import pytest

from spaces import SearchSpace
from trainable.config import resolve
from trainable.errors import ConfigError
from trainable.recipes.per_class import PerClassConfig

CLASSES = ("background", "road", "roof", "tree")
FREQ = (0.5, 0.05, 0.15, 0.3)


def read(spec: Any, train: dict[str, Any] | None = None, preset: dict[str, Any] | None = None) -> SearchSpace:
    return SearchSpace.from_spec(spec, PerClassConfig, CLASSES, FREQ, train, preset)


def faults(spec: Any, train: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(spec, train)
    return [str(fault) for fault in caught.value.faults]


def test_a_range_narrows_and_may_change_its_scale() -> None:
    space = read({"optimizer.lr": {"low": 1e-4, "high": 1e-2}, "st.weight": {"low": 1, "log": False}})
    assert space.axes["optimizer.lr"].to_json() == {
        "name": "optimizer.lr", "kind": "float", "low": 1e-4, "high": 1e-2, "log": True
    }  # fmt: skip
    assert space.axes["st.weight"].log is False
    assert (space.axes["st.weight"].low, space.axes["st.weight"].high) == (1.0, 4.0)


def test_sections_may_be_nested_or_dotted() -> None:
    nested = read(
        {"st": {"weight": {}, "ramp_steps": {}}, "loss": {"simplex": ["ce", "dice"], "focal_gamma": {}}}
    )
    dotted = read(
        {"st.weight": {}, "st.ramp_steps": {}, "loss.simplex": ["ce", "dice"], "loss.focal_gamma": {}}
    )
    assert nested == dotted
    assert nested.space_hash == dotted.space_hash


def test_thresholds_in_every_mode() -> None:
    free = read({"threshold": {"mode": "free", "low": 0.5}})
    assert list(free.axes) == [f"threshold.{c}" for c in CLASSES]
    assert {axis.low for axis in free.axes.values()} == {0.5}
    slope = read({"threshold": {"mode": "base_slope", "slope": [-0.5, 0.5]}})
    assert list(slope.axes) == ["threshold.base", "threshold.slope"]
    assert slope.names == free.names
    grouped = read({"threshold": {"groups": {"flat": ["background", "tree"], "built": ["road", "roof"]}}})
    assert list(grouped.axes) == ["threshold.flat", "threshold.built"]
    values = grouped.natural({"threshold.flat": 0.3, "threshold.built": 0.8})
    assert values == {
        "threshold.background": 0.3, "threshold.tree": 0.3, "threshold.road": 0.8, "threshold.roof": 0.8
    }  # fmt: skip
    shared = read({"threshold": {"mode": "shared"}})
    assert len(shared.axes) == 1
    assert len(set(shared.natural({"threshold.all": 0.7}).values())) == 1
    assert read({"threshold": [0.5, 0.9]}).natural(dict.fromkeys(free.axes, 1))["threshold.road"] == 0.9


def test_a_class_may_stand_on_its_own() -> None:
    space = read(
        {"threshold": {"mode": "base_slope"}, "threshold.background": 0.0, "threshold.road": {"low": 0.6}}
    )
    assert set(space.axes) == {"threshold.base", "threshold.slope", "threshold.road"}
    values = space.natural(space.at([0.5] * 3))
    assert values["threshold.background"] == 0.0
    made = resolve(PerClassConfig, sampled=values, class_names=CLASSES)
    assert made.threshold["background"] == 0.0
    full = read({"threshold": {"mode": "base_slope"}})
    coords = {"threshold.base": 0.8, "threshold.slope": 0.5}
    alone = read({"threshold": {"mode": "base_slope"}, "threshold.road": 0.7})
    # A class that is left out does not move the others.
    assert alone.natural(coords)["threshold.tree"] == full.natural(coords)["threshold.tree"]


def test_a_named_space_can_be_changed() -> None:
    quick = read("per_class/quick")
    changed = read(
        {"from": "per_class/quick", "loss": None, "loss.simplex": None, "st.weight": {"low": 1, "high": 2}}
    )
    assert set(quick.axes) - set(changed.axes) == {"loss.ce.share", "loss.dice.share"}
    assert (changed.axes["st.weight"].low, changed.axes["st.weight"].high) == (1.0, 2.0)
    assert read({"from": "per_class/quick"}) == quick


def test_one_of_a_pair_keeps_clear_of_the_other() -> None:
    space = read({"scale_min": {}}, {"scale_max": 300})
    assert (space.axes["scale_min"].low, space.axes["scale_min"].high) == (192, 300)
    space = read({"scale_min": {}, "scale_max": 288})
    assert space.axes["scale_min"].high == 288
    both = read({"augment": {"zoom_min": {"high": 0.8}, "zoom_max": {"low": 1.2}}})
    assert set(both.axes) == {"augment.zoom_min", "augment.zoom_max.gap"}


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"optimizer.lr": {"low": 1e-9}}, ["[1e-05, 0.1]", "low=1e-09", "not widen"]),
        ({"optimizer.lr": {"low": 1e-2, "high": 1e-3}}, ["low must be below high"]),
        ({"st.weight": {"low": 1, "high": 1}}, ["low must be below high"]),
        ({"st.weight": {"low": "1"}}, ["low must be a number"]),
        ({"patience": {"low": 5.5}}, ["low must be a whole number"]),
        ({"patience": [5, 5]}, ["different values"]),
        ({"patience": [5, 600]}, ["[5, 60]", "600"]),
        ({"st.weight": {"lwo": 1}}, ["did you mean 'low'?"]),
        ({"st.weight": {"log": "yes"}}, ["log must be true or false"]),
        ({"loss.focal_gamma": {"log": True}}, ["log scale needs low above 0"]),
        ({"st.wieght": {}}, ["did you mean 'st.weight'?"]),
        ({"threshold.raod": {}}, ["did you mean 'threshold.road'?"]),
        ({"steps": {"low": 10, "high": 20}}, ["cannot be searched", "yardstick"]),
        ({"eval_every_steps": [5, 10]}, ["cannot be searched", "yardstick"]),
        ({"optimizer.schedule": ["cosine", "linear"]}, ["'linear'", "'poly'"]),
        ({"encoder": {}}, ["list to choose from"]),
        ({"encoder": ["resnet18", 5]}, ["text or null"]),
        ({"threshold": {"mode": "fre"}}, ["did you mean 'free'?"]),
        ({"threshold": {"mode": "free", "groups": {"a": ["road"]}}}, ["groups goes with mode: groups"]),
        ({"threshold": {"groups": {"a": ["road"]}}}, ["none for background, roof, tree"]),
        ({"threshold": {"groups": {"a": ["road", "raod"]}}}, ["did you mean 'road'?"]),
        ({"threshold": {"groups": {"a": list(CLASSES), "b": ["road"]}}}, ["road stands in two"]),
        ({"threshold": {"mode": "base_slope", "slope": [-9, 9]}}, ["slope must be"]),
        ({"threshold": {"mode": "base_slope", "low": 0.1}}, ["[0.2, 0.99]"]),
        ({"loss": {"simplex": ["ce"]}}, ["two or more"]),
        ({"loss": {"simplex": ["ce", "dise"]}}, ["did you mean 'dice'?"]),
        ({"loss": {"simplex": ["ce", "focal_gamma"]}}, ["range from 0 to 1"]),
        ({"loss": {"simplex": ["ce", "dice"], "ce": {}}}, ["searched in two"]),
        ({"scale_min": {}, "scale_max": 100}, ["find room beside scale_max=100"]),
        ({"scale_min": [200, 300], "scale_max": {}}, ["stay in order"]),
        ({"batch_size": "eight", "st.weight": {}}, ["must be a whole number, but got batch_size='eight'"]),
        ({"num_heads": {}, "head_dropout": {}, "head_dropout_step": {}}, ["must be below 1", "narrow the knobs"]),
        ("per_class/fulll", ["did you mean 'per_class/full'?"]),
        ({"from": "nothing"}, ["must be one of"]),
        ({"batch_size": 8}, ["at least one knob"]),
        ({}, ["at least one knob"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(spec: Any, wanted: list[str]) -> None:
    found = faults(spec)
    assert found[0].startswith("space")
    assert all(part in "\n".join(found) for part in wanted), found


def test_all_faults_at_once() -> None:
    spec = {
        "steps": {},
        "st": {"wieght": {}},
        "optimizer.lr": {"low": 1e-9},
        "threshold": {"mode": "x"},
        "ema_decay": {},
    }
    found = faults(spec, {"ema_decay": 0.9, "batch_size": "x"})
    assert [text.split(": ")[0] for text in found] == [
        "train:batch_size", "space.steps", "space.st.wieght", "space.optimizer.lr", "space.threshold",
        "space.ema_decay",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("train", "knob"),
    [
        ({"st": {"weight": 1.0}}, "st.weight"),
        ({"st.weight": 1.0}, "st.weight"),
        ({"threshold": 0.5}, "threshold"),
        ({"threshold": {"default": 0.5}}, "threshold.default"),
        ({"threshold": {"road": 0.5}}, "threshold.road"),
        ({"loss": {"dice": 0.5}}, "loss.dice"),
    ],
)
def test_a_knob_is_fixed_or_searched(train: dict[str, Any], knob: str) -> None:
    found = faults("per_class/quick", train)
    assert len(found) == 1
    assert found[0].startswith(f"space.{knob}: a knob must be either fixed or searched")


def test_a_number_for_all_classes_is_the_base_of_one_that_is_searched() -> None:
    space = read({"threshold.road": {}}, {"threshold": 0.5})
    made = resolve(
        PerClassConfig,
        train={"threshold": 0.5},
        sampled=space.natural({"threshold.road": 0.9}),
        class_names=CLASSES,
    )
    assert (made.threshold["road"], made.threshold["default"]) == (0.9, 0.5)


def test_a_range_in_steps_is_checked_at_the_length_of_the_run() -> None:
    found = faults({"st.start_step": {"low": 0, "high": 900}}, {"steps": 1000})
    assert "[0, 100], its range worth trying at steps=1000" in found[0]
    assert read({"st.start_step": {"high": 900}}, {"steps": 10_000}).axes["st.start_step"].high == 900


def test_the_whole_configuration_must_agree_to_be_represented() -> None:
    space = read({"threshold": {"mode": "free"}}, {"steps": 1000})
    base = resolve(PerClassConfig, train={"steps": 1000}, class_names=CLASSES).model_dump(mode="json")
    assert space.represent(base, base) == dict.fromkeys(space.axes, 0.6)
    other = resolve(PerClassConfig, train={"steps": 1000, "threshold": {"road": 0.3}}, class_names=CLASSES)
    found = space.represent(other.model_dump(mode="json"), base)
    assert found is not None
    assert found["threshold.road"] == 0.3
    faster = resolve(PerClassConfig, train={"steps": 1000, "optimizer": {"lr": 0.1}}, class_names=CLASSES)
    assert space.represent(faster.model_dump(mode="json"), base) is None
    below = resolve(PerClassConfig, train={"steps": 1000, "threshold": {"road": 0.1}}, class_names=CLASSES)
    assert space.represent(below.model_dump(mode="json"), base) is None


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="format must be 1"):
        SearchSpace.from_json({**read({"st.weight": {}}).to_json(), "format": 2})
