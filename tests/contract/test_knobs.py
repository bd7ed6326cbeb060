"""A knob that does nothing is a lie: each searchable one, changed, changes views, numbers, losses or predictions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch

import trainable.discriminator
from tests.support.images import blocks_dataset, dots_dataset, stacked_dataset
from tests.support.knob_trace import Trace, built, traced
from trainable.config import merge, resolve, unflatten
from trainable.data.dataset import Dataset
from trainable.knob import Knob, knobs_of
from trainable.recipes import RECIPES
from trainable.recipes.interface import Recipe

BASE: dict[str, Any] = {
    "steps": 12, "eval_every_steps": 6, "batch_size": 2, "crop_size": 32, "patience": 0, "encoder_weights": None,
    "architecture": "deeplabv2", "encoder": "tu-test_resnet", "amp": "off",
    "optimizer": {"lr": 0.05, "warmup_steps": 1},
}  # fmt: skip
PIXEL = {"scale_min": 48, "scale_max": 64, "scale_every_steps": 2}
SELECTING = PIXEL | {"st": {"start_step": 1}, "threshold": 0.35, "selection": {"momentum": 0.5}, "num_heads": 1,
                     "ema_decay": 0.7}
ADVERSARIAL = {"st": {"start_step": 1}, "d_threshold": 0.4, "d_lr": 0.01}
OWN: dict[str, dict[str, Any]] = {
    "supervised": PIXEL,
    "s4gan": ADVERSARIAL,
    "s4gan_v2": ADVERSARIAL | {"d_threshold_init": 0.3, "d_warmup_steps": 1, "ema_decay": 0.7},
    "diverse_head": {"num_heads": 3, "head_channels": 4, "freeze_start_step": 1, "freeze_draws": 1},
    "self_training_rounds": {"architecture": "unet", "rounds": {"number": 2, "init_share": 0.5}, "threshold":
                             {"positive": 0.7, "negative": 0.3, "positive_floor": 0.5, "negative_ceiling": 0.45},
                             "optimizer": {"restart_steps": 2}},
    "surface": {"architecture": "unet", "optimizer": {"plateau_patience": 0},
                "post": {"min_component": 4, "max_hole": 2, "threshold": 0.5}},
}  # fmt: skip
"""What makes a recipe act within a few steps; where it does not stand, `SELECTING`."""

UNDER: dict[str, dict[str, Any]] = {
    "optimizer.power": {"optimizer.schedule": "poly"},
    "optimizer.momentum": {"optimizer.name": "sgd"},
    "optimizer.poly_every_steps": {"optimizer.schedule": "step_poly"},
    "optimizer.lr_floor": {"optimizer.schedule": "poly"},
    "optimizer.restart_steps": {"optimizer.schedule": "warm_restarts"},
    "optimizer.restart_growth": {"optimizer.schedule": "warm_restarts", "optimizer.restart_steps": 1},
    "optimizer.restart_floor": {"optimizer.schedule": "warm_restarts", "optimizer.restart_steps": 2},
    "optimizer.plateau_factor": {"optimizer.schedule": "plateau", "optimizer.plateau_patience": 0},
    "optimizer.plateau_patience": {"optimizer.schedule": "plateau"},
    "selection.momentum": {"threshold_mode": "freematch"},
    "selection.ramp_start": {"threshold_mode": "linear_ramp", "threshold": 0.9},
    "selection.ramp_share": {"threshold_mode": "linear_ramp", "threshold": 0.9},
    "selection.keep_ratio": {"threshold_mode": "class_ratio"},
    "selection.drop_share": {"threshold_mode": "entropy_pct"},
    "selection.num_sigmas": {"threshold_mode": "softmatch"},
    "selection.fairness": {"threshold_mode": "freematch"},
    "selection.follow": {"threshold_mode": "freematch", "threshold": 0.99},
    "selection.quantile": {"threshold_mode": "freematch", "selection.follow": "quantile", "threshold": 0.99},
    "selection.weight_gamma": {"selection.weighting": "confidence"},
    "selection.weight_level": {"selection.weighting": "image", "selection.normalize": "all"},
    "threshold": {"threshold_mode": "fixed"},
    "loss.ce": {"loss.dice": 0.5},
    "loss.focal_gamma": {"loss.focal": 0.5},
    "loss.focal_alpha": {"loss.focal": 0.5},
    "loss.class_weights": {"loss.ce": 0.5},
    "loss.tversky_alpha": {"loss.region": "tversky"},
    "loss.tversky_beta": {"loss.region": "tversky"},
    "augment.jitter": {"augment.jitter_p": 1.0},
    "augment.cutmix_boxes": {"augment.cutmix_p": 1.0},
    "augment.contrast": {"augment.contrast_p": 1.0},
    "augment.brightness": {"augment.contrast_p": 1.0},
    "augment.noise_min": {"augment.noise_p": 1.0},
    "augment.noise_max": {"augment.noise_p": 1.0},
    "augment.rotate_degrees": {"augment.rotate_p": 1.0},
    "augment.elastic_alpha": {"augment.elastic_p": 1.0},
    "augment.elastic_sigma": {"augment.elastic_p": 1.0},
    "ema_decay": {"teacher": "ema"},
    "augment.balance_max": {"augment.balance_min": 0.0},
    "head_dropout_step": {"num_heads": 3},
    "keep_share": {"complementary": True},
    "grow_regions": {"threshold_mode": "fixed", "threshold": 0.34},
    "threshold.positive_floor": {"threshold.decay": 0.2},
    "threshold.negative_ceiling": {"threshold.decay": 0.2},
}
"""Under what a knob acts that rests in the recipe's own setting; what the recipe does not have is left out."""

OTHER: dict[str, Any] = {
    "optimizer.restart_steps": [3], "optimizer.poly_every_steps": [3], "optimizer.plateau_patience": [0, 2],
    "optimizer.warmup_steps": [3], "st.ramp_steps": [4], "st.start_step": [2], "volume.depth": [3],
    "scale_max": [48], "scale_min": [16, 32], "scale_every_steps": [0],
    "batch_size": [4], "crop_size": [48], "d_warmup_steps": [3], "d_threshold_ramp_steps": [6],
    "augment.zoom_min": [0.9], "augment.zoom_max": [1.3], "mlmt.start_step": [1], "mlmt.ramp_steps": [2],
    "optimizer.decay_steps": [8], "freeze_start_step": [4], "ohem_threshold": [0.5], "optimizer.lr_floor": [0.02],
    "selection.weight_level": [0.4], "augment.balance_max": [0.1],
}  # fmt: skip
"""Other values, where those of the range worth trying do not fit a run of twelve steps."""

EXEMPT = {
    "patience": "the loop counts it",
    "mlmt.presence_threshold": "every image here holds every class; the branch's own test has one that does not",
    "architecture": "it is the network", "encoder": "it is the network", "encoder_weights": "it is the network's",
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_and_exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trainable.discriminator, "WIDTHS", (4, 4, 4, 8))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def others(knob: Knob, value: Any) -> list[Any]:
    """Values that a knob does not have."""
    if knob.name in OTHER:
        return list(OTHER[knob.name])
    if knob.kind in ("choice", "bool"):
        return [choice for choice in knob.choices if choice != value]
    if knob.kind == "per_class":
        return [0.5, 0.8]
    ends = knob.search or knob.legal
    assert ends is not None, knob.name
    return [end for end in (ends[1], ends[0]) if end != value]


Look = Callable[[type[Recipe[Any]], dict[str, Any], Dataset], Trace]
LOOKS: tuple[Look, ...] = (traced, built, partial(traced, linear=False))
"""The cheapest first: a linear network tells most knobs apart."""


def partly_labeled_dots() -> Dataset:
    """Dots, and a stripe without labels in every labeled image."""
    data = dots_dataset()
    for position in data.positions("labeled"):
        data.source.masks[position][:, 20:30] = 255  # type: ignore[attr-defined]
    return data


class Recipes:
    """One recipe's traces, each made once."""

    def __init__(self, name: str, dataset: Dataset, base: dict[str, Any]) -> None:
        self.kind, self.data, self.base = RECIPES[name], dataset, base
        self.known = knobs_of(self.kind.config)
        self._made: dict[str, Trace] = {}

    def trace(self, settings: dict[str, Any], look: Look) -> Trace:
        key = json.dumps([settings, LOOKS.index(look)], sort_keys=True, default=str)
        if key not in self._made:
            self._made[key] = look(self.kind, settings, self.data)
        return self._made[key]

    def setting(self, knob: str) -> dict[str, Any]:
        """The base, under which the knob acts."""
        under = {name: value for name, value in UNDER.get(knob, {}).items() if name in self.known}
        if knob.startswith("mlmt."):
            under |= {"mlmt.enabled": True, "mlmt.start_step": 0, "mlmt.ramp_steps": 0}
        if knob.startswith("ohem"):
            under |= {"ohem_min_kept": 1}
        return merge(self.base, unflatten(under))

    def acts(self, knob: Knob) -> bool:
        setting = self.setting(knob.name)
        resolved = resolve(self.kind.config, train=setting, class_names=self.data.manifest.class_names)
        value: Any = resolved.model_dump()
        for part in knob.name.split("."):
            value = value[part]
        changed = [merge(setting, unflatten({knob.name: other})) for other in others(knob, value)]
        return any(
            self.trace(setting, look) != self.trace(other, look) for look in LOOKS for other in changed
        )


def resting(name: str, dataset: Dataset, own: dict[str, Any], part: str = "") -> list[str]:
    """Searchable knobs of a recipe that change nothing."""
    known = knobs_of(RECIPES[name].config)
    own = {key: value for key, value in own.items() if any(k == key or k.startswith(f"{key}.") for k in known)}
    recipe = Recipes(name, dataset, merge(BASE, own))
    tried = [k for k in known.values() if k.searchable and k.name not in EXEMPT and k.name.startswith(part)]
    return [knob.name for knob in tried if not recipe.acts(knob)]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_searchable_knob_acts(name: str) -> None:
    binary = RECIPES[name].name in ("self_training_rounds", "surface")
    found = resting(name, partly_labeled_dots() if binary else blocks_dataset(), OWN.get(name, SELECTING))
    in_volumes = [knob for knob in found if name == "surface" and knob.startswith("volume.")]
    assert [knob for knob in found if knob not in in_volumes] == []


def test_the_knobs_of_the_network_for_volumes_act_on_volumes() -> None:
    own = {"crop_size": 16, "volume": {"depth": 2, "filters": 8}}
    assert resting("surface", stacked_dataset(), own, part="volume.") == []


def test_what_is_exempt_is_still_a_knob() -> None:
    known = {name for kind in RECIPES.values() for name in knobs_of(kind.config)}
    assert set(EXEMPT) <= known and set(UNDER) <= known and set(OTHER) <= known
