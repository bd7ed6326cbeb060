"""Cross pseudo supervision: who learns from whom, and what is evaluated."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.support.linear_steps import labeled_views, made, take_step, unlabeled_views
from tests.unit.test_recipe_fixmatch import consistency, mean_entropy
from trainable.recipes.cps import CPS


def built(recipe: CPS) -> dict[str, nn.Module]:
    torch.manual_seed(11)
    return recipe.build()


def test_the_networks_start_apart() -> None:
    nets = built(made(CPS))
    pairs = list(zip(nets["net"].parameters(), nets["second"].parameters(), strict=True))
    assert pairs and not any(torch.equal(a, b) for a, b in pairs)


def test_each_network_learns_the_labels_of_the_other() -> None:
    recipe = made(CPS, st={"weight": 1.5}, optimizer={"weight_decay": 0.0})
    nets, labeled, unlabeled = built(recipe), labeled_views(), unlabeled_views(1)
    one, two = (copy.deepcopy(nets[name]) for name in ("net", "second"))

    def loss(student: nn.Module, teacher: nn.Module) -> tuple[Tensor, Tensor]:
        labels = teacher(unlabeled.image).detach()
        cross = consistency(
            student(unlabeled.strong[0]), labels, unlabeled, unlabeled.boxes[0], threshold=0.0
        )
        return mean_entropy(student(labeled.image), labeled.label), cross

    parts = [loss(one, two), loss(two, one)]
    total = sum(supervised + 1.5 * cross for supervised, cross in parts)
    assert isinstance(total, Tensor)
    total.backward()
    out = take_step(recipe, nets, {"labeled": labeled, "unlabeled": unlabeled})
    assert out.losses["loss/total"].item() == pytest.approx(total.item(), rel=1e-5)
    assert out.losses["loss/sup"].item() == pytest.approx(sum(s.item() for s, _ in parts), rel=1e-5)
    assert out.target is not None
    assert torch.equal(out.target.label[unlabeled.valid], two(unlabeled.image).argmax(1)[unlabeled.valid])
    for name, reference in (("net", one), ("second", two)):
        for before, after in zip(reference.parameters(), nets[name].parameters(), strict=True):
            assert before.grad is not None and torch.allclose(after, before - 0.1 * before.grad, atol=1e-5)


def test_three_boxes_are_pasted_as_in_the_original() -> None:
    (unlabeled,) = [s for s in made(CPS).phases()[0].streams if s.name == "unlabeled"]
    assert unlabeled.strong is not None
    assert (unlabeled.strong.cutmix_p, unlabeled.strong.cutmix_boxes) == (1.0, 3)
    assert {preset.values["augment.cutmix_boxes"] for preset in CPS.presets.values()} == {3}


def test_the_mean_of_both_is_evaluated_where_asked_for() -> None:
    first, mean = made(CPS), made(CPS, evaluate="mean")
    assert built(first).keys() == {"net", "second"} and first.evaluated == "net"
    nets, image = built(mean), unlabeled_views(0).image
    assert mean.evaluated == "pair"
    with torch.no_grad():
        expected = (nets["net"](image).softmax(1) + nets["second"](image).softmax(1)) / 2
        assert torch.allclose(mean.probabilities(nets, image), expected, atol=1e-6)
        assert torch.allclose(first.probabilities(nets, image), nets["net"](image).softmax(1), atol=1e-6)
