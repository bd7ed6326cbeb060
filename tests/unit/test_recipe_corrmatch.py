"""CorrMatch: how logits are spread, and what a step's loss is made of."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.linear_steps import labeled_views, made, take_step, unlabeled_views
from tests.unit.test_recipe_fixmatch import THRESHOLD, consistency, fresh, mean_entropy
from trainable.recipes.corrmatch import Correlation, CorrMatch


def spread_by_hand(module: Correlation, features: Tensor, logits: Tensor) -> Tensor:
    """Place by place, in float64."""
    height, width = features.shape[2:]
    coarse = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False).double()
    query, key = module.query(features).double(), module.key(features).double()
    found = torch.zeros_like(coarse)
    places = [(y, x) for y in range(height) for x in range(width)]
    for image in range(len(features)):
        for y, x in places:
            like = torch.stack([query[image, :, y, x] @ key[image, :, v, u] for v, u in places])
            weight = (like / query.shape[1] ** 0.5).softmax(0)
            found[image, :, y, x] = sum(w * coarse[image, :, v, u] for w, (v, u) in zip(weight, places, strict=True))
    return F.interpolate(found, logits.shape[2:], mode="bilinear", align_corners=False)


def test_logits_are_spread_to_the_places_that_look_alike() -> None:
    torch.manual_seed(0)
    module, features, logits = Correlation(5, 4), torch.randn(2, 5, 3, 4), torch.randn(2, 3, 6, 8)
    with torch.no_grad():
        expected = spread_by_hand(module, features, logits)
    torch.testing.assert_close(module(features, logits), expected.float(), rtol=1e-4, atol=1e-5)
    # Two kinds of places that differ strongly: what holds for one place holds for all of its kind.
    with torch.no_grad():
        for part in (module.query, module.key):
            part.weight.zero_()
            part.bias.zero_()
            part.weight[0, 0] = 20.0
    kinds = torch.tensor([1.0, 1.0, -1.0, -1.0]).expand(1, 5, 1, 4)
    one_hot = torch.zeros(1, 2, 1, 4)
    one_hot[0, 0, 0, 0], one_hot[0, 1, 0, 3] = 1.0, 1.0
    torch.testing.assert_close(
        module(kinds, one_hot), torch.tensor([[[[0.5, 0.5, 0, 0]], [[0, 0, 0.5, 0.5]]]]), rtol=1e-3, atol=1e-3
    )


def test_features_lie_over_the_padded_image_and_the_logits_with_them() -> None:
    module = Correlation(5, 4)
    with torch.no_grad():
        for part in (module.query, module.key):
            part.weight.zero_()
            part.bias.zero_()
        # Every place is like itself alone: what is spread stays where it was.
        for channel in range(4):
            module.query.weight[channel, channel] = module.key.weight[channel, channel] = 30.0
    features = torch.zeros(1, 5, 1, 4)
    features[0, :4, 0] = torch.eye(4)
    logits = torch.zeros(1, 1, 8, 26)
    logits[..., 16:24] = 1.0
    moved = module(features, logits, 8)
    assert moved.shape == logits.shape
    # Padded to 32, the third of four places is pixels 16 to 23; its middle keeps the object, others do not get it.
    assert moved[0, 0, 4, 20] > 0.9 and moved[0, 0, 4, 4] < 0.1 and moved[0, 0, 4, 11] < 0.1


def test_only_the_comparison_learns_from_spread_logits() -> None:
    module = Correlation(5, 4)
    features, logits = torch.randn(1, 5, 2, 2, requires_grad=True), torch.randn(1, 3, 4, 4, requires_grad=True)
    module(features, logits).square().sum().backward()
    assert logits.grad is None and features.grad is not None
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.parameters())


@pytest.mark.parametrize("joint", [True, False])
def test_a_step_follows_the_formula(joint: bool) -> None:
    recipe = made(
        CorrMatch, threshold=THRESHOLD, threshold_mode="per_class", joint_forward=joint, fp_dropout=0.0, corr_share=0.3,
        corr_channels=4, st={"weight": 1.5},
    )  # fmt: skip
    nets, labeled, unlabeled = fresh(recipe), labeled_views(), unlabeled_views(2)
    net, spread = copy.deepcopy(nets["net"]), copy.deepcopy(nets["correlation"])
    loss = by_hand(net, spread, labeled, unlabeled)
    loss.backward()
    out = take_step(recipe, nets, {"labeled": labeled, "unlabeled": unlabeled})
    assert out.losses["loss/total"].item() == pytest.approx(loss.item(), rel=1e-5)
    cfg = recipe.cfg.optimizer
    for before, after in zip(spread.parameters(), nets["correlation"].parameters(), strict=True):
        expected = before - 0.1 * cfg.head_lr_mult * (before.grad + cfg.weight_decay * before)
        assert torch.allclose(after, expected, atol=1e-5)
    alone = take_step(recipe, fresh(recipe), {"labeled": labeled})
    assert alone.losses["loss/total"].item() == pytest.approx(alone.losses["loss/sup"].item() / 2)
    assert alone.losses["loss/sup"].item() == pytest.approx(out.losses["loss/sup"].item(), rel=1e-5)


def by_hand(net: nn.Module, spread: nn.Module, labeled: object, unlabeled: object) -> Tensor:
    """(0.7 labeled + 0.3 labeled spread + 1.5 (strong + strong + feature + spread) / 4) / 2."""

    def parts(image: Tensor) -> tuple[Tensor, Tensor]:
        logits = net(image)
        return logits, spread(net.encode(image)[-1], logits)

    plain, moved = parts(labeled.image)
    supervised = 0.7 * mean_entropy(plain, labeled.label) + 0.3 * mean_entropy(moved, labeled.label)
    weak = net(unlabeled.image)
    teacher = weak.detach()
    terms = [consistency(weak, teacher, unlabeled, None)]
    for image, box in zip(unlabeled.strong, unlabeled.boxes, strict=True):
        logits, moved = parts(image)
        terms += [consistency(logits, teacher, unlabeled, box), consistency(moved, teacher, unlabeled, box) / 2]
    return (supervised + 1.5 * sum(terms) / 4) / 2
