"""CorrMatch: how logits are spread, and what a step's loss is made of."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.linear_steps import labeled_views, made, take_step, unlabeled_views
from tests.unit.test_recipe_fixmatch import THRESHOLD, consistency, fresh, mean_entropy
from trainable.data.augment import mix
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
        corr_channels=4, st={"weight": 1.5}, grow_regions=0,
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


def test_regions_are_what_is_more_like_a_place_than_the_middle_of_its_range() -> None:
    torch.manual_seed(1)
    module, features, places = Correlation(5, 4), 3 * torch.randn(2, 5, 2, 3), torch.tensor([4, 0, 4])
    found = module.regions(features, places, (7, 9), stride=8)
    assert found.shape == (2, 3, 7, 9) and found.dtype == torch.bool and not found.requires_grad
    query, key = module.query(features).flatten(2), module.key(features).flatten(2)
    for image in range(2):
        for number, place in enumerate(places.tolist()):
            like = torch.stack([query[image, :, place] @ key[image, :, j] for j in range(6)]) / 2
            # The features lie over 8 x 16 pixels, of which the image is the first 7 x 9.
            large = F.interpolate(
                like.softmax(0).view(1, 1, 2, 3), (8, 16), mode="bilinear", align_corners=False
            )[0, 0, :7, :9]
            share = (large - large.min()) / (large.max() - large.min())
            assert torch.equal(found[image, number], share > 0.5)
    flat = module.regions(torch.zeros(1, 5, 1, 1), torch.tensor([0]), (8, 8), stride=8)
    assert not bool(flat.any()), "one place is like itself alone: it has no region"


def test_strong_views_learn_labels_that_grew_outside_of_their_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image is one region: where that is nearly all of one class, the strong views learn this class alone."""
    torch.manual_seed(3)
    recipe = made(CorrMatch, threshold_mode="fixed", threshold=0.5, fp_dropout=0.0, corr_channels=4, grow_regions=1)
    nets, labeled, unlabeled = fresh(recipe), labeled_views(), unlabeled_views(2)
    with torch.no_grad():
        nets["net"].heads[0].bias[1] += 2.0  # type: ignore[index, union-attr]
    regions = torch.ones(4, 1, 32, 32, dtype=torch.bool)
    monkeypatch.setattr(Correlation, "regions", lambda *_: regions)
    net, spread = copy.deepcopy(nets["net"]), copy.deepcopy(nets["correlation"])
    with torch.no_grad():
        weak = net(unlabeled.image)
        confidence, plain = weak.softmax(1).max(1)
        plain = torch.where((confidence > 0.5) & unlabeled.valid, plain, 255)
        expected, grown = torch.zeros(()), 0
        for image, box in zip(unlabeled.strong, unlabeled.boxes, strict=True):
            label, valid = mix(plain, box), mix(unlabeled.valid, box)
            for number in range(len(label)):
                inside = valid[number] & ~box[number]
                chosen = label[number][inside & (label[number] != 255)]
                counts = torch.stack([(chosen == c).sum() for c in range(3)])
                if len(chosen) >= 0.5 * inside.sum() and counts.max() > 0.5 * len(chosen):
                    grown += int((inside & (label[number] == 255)).sum())
                    label[number][inside] = counts.argmax()
            logits = net(image)
            moved = spread(net.encode(image)[-1], logits)
            for seen, share in ((logits, 1.0), (moved, 0.5)):
                entropy = F.cross_entropy(seen, label, ignore_index=255, reduction="none")
                expected = expected + share * entropy.sum() / valid.sum() / 4
        entropy = F.cross_entropy(weak, plain, ignore_index=255, reduction="none")
        expected = expected + entropy.sum() / unlabeled.valid.sum() / 4
    out = take_step(recipe, nets, {"labeled": labeled, "unlabeled": unlabeled})
    assert out.losses["loss/st"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert out.target is not None and out.target.stats["st/pixels_grown"].item() == grown > 0
    assert out.target.stats["st/pixels_selected"].item() == (plain != 255).sum()


def test_labels_do_not_grow_without_thresholds() -> None:
    recipe = made(CorrMatch, threshold_mode="softmatch", corr_channels=4)
    out = take_step(recipe, fresh(recipe), {"labeled": labeled_views(), "unlabeled": unlabeled_views(2)})
    assert out.target is not None and "st/pixels_grown" not in out.target.stats
