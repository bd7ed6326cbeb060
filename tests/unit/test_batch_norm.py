"""One image per step: refused where a network cannot normalize it, before the first step; trained where it can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch

import trainable.session
from search.checks import check_batch as check_config
from tests.support.images import blocks_dataset
from trainable import train
from trainable.batch_norm import POOLING_ARCHITECTURES, check_batch, normalized_pooling
from trainable.config import RunConfig, resolve
from trainable.errors import ConfigError, Fault
from trainable.recipes import get_recipe

TINY: dict[str, Any] = {
    "steps": 2, "eval_every_steps": 2, "batch_size": 1, "crop_size": 32, "patience": 0, "encoder_weights": None,
    "encoder": "tu-test_resnet", "scale_every_steps": 0, "optimizer.warmup_steps": 0,
}  # fmt: skip
SPECIAL = {"dpt": "tu-test_vit", "segformer": "resnet18", "upernet": "resnet18"}


@pytest.mark.parametrize("name", sorted(smp.MODEL_ARCHITECTURES_MAPPING))
def test_the_networks_that_cannot_are_known_and_only_those(name: str) -> None:
    network = smp.create_model(name, encoder_name=SPECIAL.get(name, "tu-test_resnet"), encoder_weights=None, classes=2)
    layer = normalized_pooling(network)
    assert (layer is not None) is (name in POOLING_ARCHITECTURES)
    network.train()
    if layer is None:
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 64, 64)
    else:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            network(torch.zeros(1, 3, 64, 64))
        with pytest.raises(ConfigError, match=f"layer {layer} normalizes whole images"):
            check_batch({"net": network}, 1)
        check_batch({"net": network}, 2)


@pytest.mark.parametrize(("architecture", "works"), [("deeplabv3plus", False), ("unet", True)])
def test_a_run_is_refused_before_its_first_step_or_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, works: bool
) -> None:
    monkeypatch.setattr(trainable.session, "open_dataset", lambda cfg, base, **kwargs: blocks_dataset())
    values = TINY | {"architecture": architecture, "crop_size": 64}
    run = RunConfig(name="t", recipe="supervised", data={"root": "."}, train=values)  # type: ignore[arg-type]
    if works:
        assert train(run, tmp_path).state == "COMPLETE"
        return
    with pytest.raises(ConfigError, match=r"train.batch_size: each worker must have at least 2 .* take 2 or more"):
        train(run, tmp_path)


@pytest.mark.parametrize(
    ("images", "workers", "architecture", "wrong"),
    [
        (1, 1, "deeplabv3plus", True), (4, 4, "pan", True), (8, 4, "pan", False), (1, 1, "unet", False),
        (6, 4, "unet", True), (12, 4, "pan", False),
    ],
)
def test_a_sweep_file_is_refused_at_load(images: int, workers: int, architecture: str, wrong: bool) -> None:
    faults: list[Fault] = []
    made = resolve(get_recipe("per_class").config, train=TINY | {"architecture": architecture, "batch_size": images},
                   class_names=("a", "b"))  # fmt: skip
    check_config(made, workers, faults)
    assert [fault.where for fault in faults] == ["train.batch_size"] * wrong
    if workers > 1 and wrong:
        said = {4: "got batch_size=4 with 4 workers; take 8 or more", 6: "but got batch_size=6; take 4 or 8"}
        assert said[images] in faults[0].message


def test_workers_that_cannot_share_a_batch_are_refused_before_they_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable.session, "open_dataset", lambda cfg, base, **kwargs: blocks_dataset())
    values = TINY | {"architecture": "unet", "batch_size": 4, "unlabeled_batch_size": 3}
    run = RunConfig(name="t", recipe="fixmatch", data={"root": "."}, train=values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="train.unlabeled_batch_size: .* of the 2 workers .* take 2 or 4"):
        train(run, tmp_path, world_size=2)
