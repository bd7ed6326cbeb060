"""FixMatch, UniMatch, UniMatch V2: one step against the formula, and what moves when."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.support.linear_steps import labeled_views, made, take_step, unlabeled_views
from trainable.data.augment import Views, mix
from trainable.errors import ConfigError
from trainable.recipes.fixmatch import FixMatch
from trainable.recipes.unimatch import UniMatch
from trainable.recipes.unimatch_v2 import UniMatchV2

THRESHOLD = 0.4


def mean_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy over the pixels that are not 255."""
    kept = label != 255
    log = logits.log_softmax(1).permute(0, 2, 3, 1)[kept]
    return -log[torch.arange(len(log)), label[kept]].mean()


def consistency(
    logits: Tensor, teacher: Tensor, views: Views, box: Tensor | None, threshold: float = THRESHOLD
) -> Tensor:
    """Cross-entropy on labels above the threshold, over all pixels that are not padding, pixel by pixel."""
    confidence, label = teacher.softmax(1).max(1)
    selected = (confidence > threshold) & views.valid
    valid = views.valid
    if box is not None:
        label, selected, valid = mix(label, box), mix(selected, box), mix(valid, box)
    entropy = -logits.log_softmax(1).gather(1, label.unsqueeze(1))[:, 0]
    return (entropy * selected).sum() / valid.sum()


def fresh(recipe: FixMatch | UniMatch | UniMatchV2) -> dict[str, nn.Module]:
    torch.manual_seed(7)
    return recipe.build()


def fixmatch_loss(net: nn.Module, labeled: Views, unlabeled: Views) -> Tensor:
    teacher = net(unlabeled.image).detach()
    strong = consistency(net(unlabeled.strong[0]), teacher, unlabeled, unlabeled.boxes[0])
    return (mean_entropy(net(labeled.image), labeled.label) + 1.5 * strong) / 2


def unimatch_loss(net: nn.Module, labeled: Views, unlabeled: Views) -> Tensor:
    """With a feature dropout of 0, the feature view is the weak view."""
    weak = net(unlabeled.image)
    one, two = (
        consistency(net(v), weak.detach(), unlabeled, box)
        for v, box in zip(unlabeled.strong, unlabeled.boxes, strict=True)
    )
    features = consistency(weak, weak.detach(), unlabeled, None)
    sum_of_parts = 0.25 * one + 0.25 * two + 0.5 * features
    return (mean_entropy(net(labeled.image), labeled.label) + 1.5 * sum_of_parts) / 2


def unimatch_v2_loss(net: nn.Module, labeled: Views, unlabeled: Views) -> Tensor:
    """At the first step the average is the network."""
    teacher = net(unlabeled.image).detach()
    one, two = (
        consistency(net(v), teacher, unlabeled, box)
        for v, box in zip(unlabeled.strong, unlabeled.boxes, strict=True)
    )
    return (mean_entropy(net(labeled.image), labeled.label) + 1.5 * (one + two) / 2) / 2


@pytest.mark.parametrize(
    ("kind", "num_strong", "extra", "formula"),
    [
        (FixMatch, 1, {}, fixmatch_loss),
        (UniMatch, 2, {"fp_dropout": 0.0}, unimatch_loss),
        (UniMatchV2, 2, {"complementary": False, "optimizer": {"name": "sgd"}}, unimatch_v2_loss),
    ],
    ids=["fixmatch", "unimatch", "unimatch_v2"],
)
@pytest.mark.parametrize("joint", [True, False])
def test_a_step_follows_the_formula(
    kind: type[FixMatch], num_strong: int, extra: dict[str, object],
    formula: Callable[[nn.Module, Views, Views], Tensor], joint: bool,
) -> None:  # fmt: skip
    recipe = made(kind, threshold=THRESHOLD, joint_forward=joint, st={"weight": 1.5}, **extra)
    nets, labeled, unlabeled = fresh(recipe), labeled_views(), unlabeled_views(num_strong)
    reference = copy.deepcopy(nets["net"])
    loss = formula(reference, labeled, unlabeled)
    loss.backward()
    out = take_step(recipe, nets, {"labeled": labeled, "unlabeled": unlabeled})
    assert out.losses["loss/total"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert (
        out.target is not None
        and 0 < out.target.stats["st/pixels_selected"] < out.target.stats["st/pixels_seen"]
    )
    assert out.target.stats["st/pixels_seen"] == unlabeled.valid.sum()
    cfg = recipe.cfg.optimizer
    for (name, before), after in zip(reference.named_parameters(), nets["net"].parameters(), strict=True):
        assert before.grad is not None
        rate = 0.1 * (1.0 if name.startswith("encoder.") else cfg.head_lr_mult)
        expected = before - rate * (before.grad + cfg.weight_decay * before)
        assert torch.allclose(after, expected, atol=1e-5), name


def test_a_pixel_at_the_threshold_is_not_kept() -> None:
    recipe = made(FixMatch, threshold=0.5)
    probabilities = torch.tensor([0.5, 0.25, 0.25]).view(1, 3, 1, 1)
    valid = torch.ones(1, 1, 1, dtype=torch.bool)
    sched = {name: torch.tensor(value(0)) for name, value in recipe.schedules().items()}
    assert recipe.select(probabilities, valid, sched).stats["st/pixels_selected"] == 0


def test_before_self_training_half_the_labeled_loss_is_left() -> None:
    recipe = made(FixMatch, st={"start_step": 5})
    assert recipe.phases()[0].streams[1].start_step == 5
    out = take_step(recipe, fresh(recipe), {"labeled": labeled_views()})
    assert out.target is None and out.losses["loss/total"] == out.losses["loss/sup"] / 2


def test_hard_pixels_alone_count_where_asked_for() -> None:
    recipe, plain = made(FixMatch, ohem_threshold=0.3, ohem_min_kept=10), made(FixMatch)
    views = labeled_views()
    hard, all_of_them = (
        take_step(r, fresh(r), {"labeled": views}).losses["loss/sup"] for r in (recipe, plain)
    )
    assert hard > all_of_them
    with pytest.raises(ConfigError, match=r"ohem_threshold=0\.3, loss\.dice=0\.4"):
        made(FixMatch, ohem_threshold=0.3, loss={"dice": 0.4})


def test_an_average_is_built_only_where_it_is_used() -> None:
    assert fresh(made(FixMatch)).keys() == {"net"} and made(FixMatch).evaluated == "net"
    recipe = made(FixMatch, evaluate="ema")
    assert fresh(recipe).keys() == {"net", "ema"} and recipe.evaluated == "ema"
    assert fresh(made(UniMatch, teacher="ema")).keys() == {"net", "ema"}


def test_dropped_features_reach_the_feature_view_and_nothing_else() -> None:
    still, noisy = (
        made(UniMatch, threshold=THRESHOLD, fp_dropout=0.0),
        made(UniMatch, threshold=THRESHOLD, fp_dropout=0.6),
    )
    batch = {"labeled": labeled_views(), "unlabeled": unlabeled_views(2)}
    one, two = (take_step(r, fresh(r), batch) for r in (still, noisy))
    assert one.losses["loss/sup"] == two.losses["loss/sup"] and one.losses["loss/st"] != two.losses["loss/st"]
    assert (
        one.target is not None and two.target is not None and torch.equal(one.target.label, two.target.label)
    )
    only_strong = made(UniMatch, threshold=THRESHOLD, fp_dropout=0.6, fp_share=0.0)
    without = made(UniMatch, threshold=THRESHOLD, fp_dropout=0.0, fp_share=0.0)
    three, four = (take_step(r, fresh(r), batch).losses["loss/st"] for r in (only_strong, without))
    assert three.item() == pytest.approx(four.item(), rel=1e-6)


def test_the_second_versions_average_starts_as_a_copy_and_takes_in_the_statistics() -> None:
    recipe = made(UniMatchV2, ema_decay=0.9)
    assert [recipe.ema_decay(i) for i in (0, 1, 3, 9, 50)] == pytest.approx([0.0, 0.5, 0.75, 0.9, 0.9])
    nets = fresh(recipe)
    for net in nets.values():
        net.register_buffer("statistics", torch.zeros(2))
    batch = {"labeled": labeled_views(), "unlabeled": unlabeled_views(2)}
    nets["net"].get_buffer("statistics").fill_(4.0)
    take_step(recipe, nets, batch, step=0)
    assert all(
        torch.equal(a, b) for a, b in zip(nets["net"].parameters(), nets["ema"].parameters(), strict=True)
    )
    nets["net"].get_buffer("statistics").fill_(8.0)
    take_step(recipe, nets, batch, step=1)
    assert nets["ema"].get_buffer("statistics").tolist() == [6.0, 6.0]


def test_complementary_channels_change_the_strong_views_alone() -> None:
    with_it, without = (
        made(UniMatchV2, threshold=THRESHOLD),
        made(UniMatchV2, threshold=THRESHOLD, complementary=False),
    )
    batch = {"labeled": labeled_views(), "unlabeled": unlabeled_views(2)}
    one, two = (take_step(r, fresh(r), batch) for r in (with_it, without))
    assert one.losses["loss/sup"] == two.losses["loss/sup"] and one.losses["loss/st"] != two.losses["loss/st"]


def test_the_second_version_trains_a_vision_transformer_with_dpt() -> None:
    recipe = made(UniMatchV2, threshold=THRESHOLD, architecture="dpt", encoder="tu-test_vit")
    del recipe.network  # the real one instead of the tests' linear one
    nets = fresh(recipe)
    before = copy.deepcopy(nets["net"])
    batch = {"labeled": labeled_views(), "unlabeled": unlabeled_views(2)}
    out = take_step(recipe, nets, batch, lr=1e-3)
    assert torch.isfinite(out.losses["loss/total"]) and out.losses["loss/st"] > 0
    pairs = zip(before.named_parameters(), nets["net"].named_parameters(), strict=True)
    moved = {name.split(".")[0] for (name, old), (_, new) in pairs if not torch.equal(old, new)}
    assert moved == {"encoder", "decoder", "heads"}
