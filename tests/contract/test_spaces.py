"""What every named space promises: no illegal point, and a way back from every point."""

from __future__ import annotations

import json
import random

import optuna
import pytest

from spaces import NAMED, SearchSpace
from spaces.derive import same
from spaces.groups import SELECTION, VIEWS
from trainable.config import resolve
from trainable.knob import knobs_of
from trainable.recipes import RECIPES

SAMPLES = 200
FEWER = 24
LENGTHS: dict[str, dict[str, int]] = {
    "default": {},
    "short": {"steps": 600, "eval_every_steps": 50, "crop_size": 128},
    "tiny": {"steps": 12},
}


def classes(count: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Class names and shares of the pixels, the last class without any."""
    shares = [4.0**-c for c in range(count - 1)] + [0.0]
    return tuple(f"class {c}" for c in range(count)), tuple(s / sum(shares) for s in shares)


def space_of(name: str, count: int, train: dict[str, int]) -> SearchSpace:
    names, freq = classes(count)
    return SearchSpace.from_spec(name, RECIPES[name.split("/")[0]].config, names, freq, train)


@pytest.mark.parametrize("count", range(2, 10))
@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_sampled_point_is_legal_and_found_again(name: str, count: int) -> None:
    draw = random.Random(f"{name}{count}")
    samples = 3 * FEWER if count == 7 else FEWER
    for length, train in LENGTHS.items():
        check_points(name, count, train, samples // len(LENGTHS) + (length == "default"), draw)


def check_points(name: str, count: int, train: dict[str, int], samples: int, draw: random.Random) -> None:
    space = space_of(name, count, train)
    config = RECIPES[name.split("/")[0]].config
    base = resolve(config, train=train, class_names=space.class_names).model_dump(mode="json")
    for index in range(samples):
        corners = index % 3 == 0
        shares = [draw.choice((0.0, 1.0)) if corners else draw.random() for _ in space.axes]
        natural = space.natural(space.at(shares))
        made = resolve(config, train=train, sampled=natural, class_names=space.class_names)
        whole = json.loads(json.dumps(made.model_dump(mode="json")))
        again = space.represent(whole, base)
        assert again is not None, (train, natural)
        assert all(same(value, natural[key]) for key, value in space.natural(again).items())
        assert space.params(whole) == natural


@pytest.mark.parametrize("name", sorted(NAMED))
def test_what_optuna_draws_is_legal(name: str) -> None:
    space = space_of(name, 4, {})
    config = RECIPES[name.split("/")[0]].config
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(SAMPLES):
        coords = study.ask(space.distributions).params
        resolve(config, sampled=space.natural(coords), class_names=space.class_names)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_sampled_value_stays_in_the_range_worth_trying(name: str) -> None:
    space = space_of(name, 5, {})
    knobs = knobs_of(RECIPES[name.split("/")[0]].config)
    slopes = {n for entry in space.entries if entry.kind == "base_slope" for n in entry.names}
    draw = random.Random(3)
    for _ in range(SAMPLES):
        for key, value in space.natural(space.at([draw.random() for _ in space.axes])).items():
            knob = knobs[key] if key in knobs else knobs[key.rpartition(".")[0]]
            if knob.search is not None and key not in slopes:
                assert knob.search[0] <= value <= knob.search[1], key
            elif key in slopes:
                assert 0.0 < value < 1.0


@pytest.mark.parametrize("name", sorted(NAMED))
def test_json_keeps_a_space_whole(name: str) -> None:
    space = space_of(name, 6, {})
    again = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert again.space_hash == space.space_hash
    assert space_of(name, 5, {}).space_hash != space.space_hash or "supervised" in name


def test_what_a_search_is_asked_for_is_in_the_full_space() -> None:
    names, _ = classes(4)
    searched = set(space_of("per_class/full", 4, {}).names)
    wanted = {"st.weight", "ema_decay", "patience", "loss.ce", "loss.dice", "loss.focal"}
    assert wanted | {f"threshold.{c}" for c in names} <= searched


def test_every_recipe_has_a_space() -> None:
    assert set(RECIPES) == {name.split("/")[0] for name in NAMED}


def test_steps_scale_with_the_length_of_the_run() -> None:
    names, freq = classes(3)
    config = RECIPES["per_class"].config
    for steps, high in ((50_000, 5000), (5000, 500), (600, 60)):
        space = SearchSpace.from_spec({"st.start_step": {}}, config, names, freq, {"steps": steps})
        assert (space.axes["st.start_step"].low, space.axes["st.start_step"].high) == (0, high)
    half = SearchSpace.from_spec({"scale_min": {}, "scale_max": {}}, config, names, freq, {"crop_size": 128})
    assert half.natural(half.at([1.0, 1.0]))["scale_max"] == 256
    few = {"steps": 600, "eval_every_steps": 60}
    assert SearchSpace.from_spec({"patience": {}}, config, names, freq, few).axes["patience"].high == 6


def test_what_several_recipes_search_alike_is_declared_once() -> None:
    full = {name: NAMED[f"{name}/full"].spec for name in ("fixmatch", "cps", "mean_teacher", "per_class")}
    assert full["cps"]["selection"] is full["mean_teacher"]["selection"] is SELECTION
    assert full["fixmatch"]["augment"] is full["mean_teacher"]["augment"] is VIEWS
    assert full["fixmatch"]["optimizer"] is full["cps"]["optimizer"] is full["mean_teacher"]["optimizer"]
    for name, more in (("fixmatch", {"normalize", "ramp_share", "fairness"}), ("per_class", {"fairness"})):
        assert [key for key in full[name]["selection"] if key not in more] == list(SELECTION)
