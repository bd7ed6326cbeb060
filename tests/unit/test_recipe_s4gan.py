"""s4gan and s4gan_v2: schedules of the notes, one step against a plain reference, and every enhancement alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.recipe_rows import Row, run_row
from tests.support.steps import NAMES, Bench, bench, views
from trainable.checkpoint import load_last
from trainable.config import resolve
from trainable.discriminator import Discriminator
from trainable.optimizers import Optimizer, OptimizerSpec
from trainable.recipes import get_recipe
from trainable.recipes.adversarial import AdversarialConfig
from trainable.state import Progress
from trainable.task import Task

STILL = {"d_dropout": 0.0}


def batch(number: int = 3) -> dict[str, Any]:
    return {"labeled": views(1), "unlabeled": views(2, number), "real": views(3)}


def with_preset(recipe: str, preset: str | None, **train: Any) -> Any:
    kind = get_recipe(recipe)
    cfg = resolve(kind.config, preset=kind.preset_values(preset), train=train, class_names=NAMES)
    return kind(cfg, Task(NAMES, (10, 20, 30)))


def snapshot_nets(folder: Path) -> dict[str, dict[str, Tensor]]:
    found, _ = load_last(folder)
    assert found is not None
    return found.nets


# -- schedules -------------------------------------------------------------------------------------------------------


def test_v1_as_it_ran_stops_the_generator_at_two_fifths_but_not_the_discriminator() -> None:
    recipe = with_preset("s4gan", "legacy_v1")
    (phase,) = recipe.phases()
    rates = [phase.optimizers["net"].lr(step) for step in (0, 5_000, 10_000, 19_990, 19_999, 20_000, 49_999)]
    assert rates == pytest.approx([2.5e-4, 1.930e-4, 1.340e-4, 2.67e-7, 2.67e-7, 0.0, 0.0], rel=2e-3, abs=0)
    assert phase.optimizers["net"].lr(5_009) == phase.optimizers["net"].lr(5_000) != phase.optimizers["net"].lr(5_010)
    assert phase.optimizers["d"].lr(20_000) == pytest.approx(1e-4 * 0.6**0.9)
    assert recipe.st_weight(1000) == 0 and recipe.st_weight(1001) == 1
    assert recipe.cfg.encoder_weights is None and recipe.cfg.bn_momentum == 0.999 and recipe.cfg.batch_size == 4


def test_v1_as_meant_decays_to_its_end() -> None:
    recipe = with_preset("s4gan", "v1")
    (phase,) = recipe.phases()
    assert phase.optimizers["net"].lr(20_000) == pytest.approx(2.5e-4 * 0.6**0.9)
    assert recipe.cfg.d_threshold == 0.2 and recipe.cfg.crop_size == 256 and recipe.cfg.encoder_weights == "imagenet"


def test_paper_selects_from_the_second_step_on() -> None:
    recipe = with_preset("s4gan", "paper")
    assert (recipe.st_weight(0), recipe.st_weight(1)) == (0.0, 1.0)
    cfg = recipe.cfg
    assert (cfg.d_threshold, cfg.fm_weight, cfg.d_lr, cfg.d_beta1, cfg.d_beta2) == (0.6, 0.1, 1e-4, 0.9, 0.99)
    (phase,) = recipe.phases()
    assert phase.optimizers["net"].lr(10_000) == pytest.approx(2.5e-4 * 0.75**0.9)
    assert phase.optimizers["net"].head_lr_mult == 10 and phase.optimizers["net"].clip == 0


def test_cityscapes_and_the_code_as_it_runs_differ_from_the_paper_in_what_they_say() -> None:
    paper, city, legacy = (with_preset("s4gan", name).cfg for name in ("paper", "Cityscapes", "legacy_paper"))
    assert city == paper.model_copy(update={"crop_size": 256, "d_threshold": 0.7, "d_lr": 1e-5})
    assert legacy == paper.model_copy(update={"aspp_branches": 2, "d_image_norm": "legacy"})
    kind = get_recipe("s4gan")
    assert [name for name, preset in kind.presets.items() if preset.baseline] == ["paper", "als4gan", "v1", "legacy_v1"]


def test_two_branches_are_the_first_two_of_four() -> None:
    two, four = (bench("s4gan", {"aspp_branches": number}).nets["net"] for number in (2, 4))
    wide = [[m.dilation for m in net.heads.modules() if isinstance(m, nn.Conv2d)] for net in (two, four)]  # type: ignore[union-attr]
    assert wide == [[(6, 6), (12, 12)], [(6, 6), (12, 12), (18, 18), (24, 24)]]


def test_als4gan_has_three_rates() -> None:
    spec = with_preset("s4gan", "als4gan").optimizers(0)["net"]
    nets = {"net": nn.ModuleDict({"encoder": nn.Conv2d(1, 1, 1), "head": nn.Conv2d(1, 1, 1)})}
    made = Optimizer(spec, nets)
    made.set_lr(1.0)
    groups = made._optimizer.param_groups
    assert [group["lr"].item() for group in groups] == [1.0, 10.0, 20.0]
    assert [group["weight_decay"] for group in groups] == [5e-4, 5e-4, 0.0]
    assert groups[2]["params"][0] is nets["net"]["head"].bias
    assert len(groups[0]["params"]) == 2


def test_v2_follows_the_numbers_of_its_notes() -> None:
    recipe = with_preset("s4gan_v2", "V2")
    warmup, main = recipe.phases()
    assert (warmup.name, warmup.steps, list(warmup.optimizers)) == ("discriminator_warmup", 500, ["net"])
    assert main.steps == 49_500
    rates = [main.optimizers["net"].lr(step - 500) for step in (500, 1000, 10_000, 25_000)]
    assert rates == pytest.approx([1.25e-4, 2.5e-4, 2.298e-4, 1.290e-4], rel=1e-3)
    assert warmup.optimizers["net"].lr(0) == 0
    weights = [main.schedules["st.weight"](step - 500) for step in (500, 5_000, 10_000, 20_000, 49_999)]
    assert weights == pytest.approx([0.1225, 0.325, 0.55, 1.0, 1.0])
    assert warmup.schedules["st.weight"](499) == 0
    thresholds = [main.schedules["d_threshold"](step - 500) for step in (12_500, 30_000, 49_999)]
    assert thresholds == pytest.approx([0.1125, 0.2, 0.2])
    assert main.optimizers["net"].clip == main.optimizers["d"].clip == 10
    assert (recipe.cfg.patience, recipe.cfg.patience_action, recipe.cfg.health.gap_warn) == (10, "warn", 0.1)
    assert recipe.cfg.d_image_norm == "per_image_minmax" and recipe.evaluated == "ema"


def test_v2_over_the_whole_run_reads_as_in_its_sample_line() -> None:
    recipe = with_preset("s4gan_v2", "V2", d_threshold_ramp_steps=50_000)
    assert recipe.d_threshold(12_500) == pytest.approx(0.0875)


def test_a_shorter_run_keeps_its_shape() -> None:
    long, short = with_preset("s4gan_v2", "V2"), with_preset("s4gan_v2", "V2", steps=5000)
    for step in (0, 40, 49, 50, 1000, 2999, 4999):
        assert short.d_threshold(step) == pytest.approx(long.d_threshold(10 * step))
        assert short.st_weight(step) == pytest.approx(long.st_weight(10 * step))


def test_legacy_cmd_ends_at_one_tenth() -> None:
    recipe = with_preset("s4gan_v2", "legacy_cmd")
    assert recipe.d_threshold(30_000) == pytest.approx(0.10) and recipe.d_threshold(0) == pytest.approx(0.05)
    assert recipe.cfg.ema_buffers == "copy"


# -- one step --------------------------------------------------------------------------------------------------------


def scaled(image: Tensor, norm: str) -> Tensor:
    out = torch.empty_like(image)
    for i, one in enumerate(image):
        source = one if norm == "per_image_minmax" else image
        out[i] = (one - source.min()) / (source.max() - source.min())
    return out


def reference_step(made: Bench, data: dict[str, Any], threshold: float, weight: float) -> dict[str, Any]:
    """One iteration in plain torch, in the order of the original; returns losses and both networks afterwards."""
    cfg: AdversarialConfig = made.recipe.cfg
    net, d = copy.deepcopy(made.nets["net"]), copy.deepcopy(made.nets["d"])
    assert isinstance(d, Discriminator)
    encoder = [p for n, p in net.named_parameters() if n.startswith("encoder.")]
    head = [p for n, p in net.named_parameters() if not n.startswith("encoder.")]
    rate = cfg.optimizer.lr
    groups = [{"params": encoder, "lr": rate}, {"params": head, "lr": 10 * rate}]
    opt_net = torch.optim.SGD(groups, momentum=0.9, weight_decay=cfg.optimizer.weight_decay)
    opt_d = torch.optim.Adam(d.parameters(), lr=cfg.d_lr, betas=(cfg.d_beta1, cfg.d_beta2))
    labeled, unlabeled, real = data["labeled"], data["unlabeled"], data["real"]
    supervised = F.cross_entropy(net(labeled.image), labeled.label, ignore_index=255)
    logits = net(unlabeled.image)
    probabilities = logits.softmax(1) * unlabeled.valid.unsqueeze(1)
    fake = torch.cat([probabilities, scaled(unlabeled.image, cfg.d_image_norm)], 1)
    truth = torch.stack([(real.label == c).float() for c in range(3)], 1)
    shown = torch.cat([truth, scaled(real.image, cfg.d_image_norm)], 1)
    score, fake_features = d(fake)
    chosen = [i for i in range(len(score)) if score[i] > threshold]
    self_training = torch.zeros(())
    if chosen:
        label = torch.where(unlabeled.valid, logits.argmax(1), 255)[chosen]
        self_training = F.cross_entropy(logits[chosen], label, ignore_index=255)
    matching = (d(shown)[1].mean(0) - fake_features.mean(0)).abs().mean()
    loss = supervised + cfg.fm_weight * matching + weight * self_training
    gradients = torch.autograd.grad(loss, [*encoder, *head])
    d_fake, d_real = d(fake.detach())[0], d(shown)[0]
    d_loss = (F.binary_cross_entropy(d_fake, torch.zeros(3)) + F.binary_cross_entropy(d_real, torch.ones(2))) / 2
    opt_d.zero_grad()
    d_loss.backward()
    for parameter, gradient in zip([*encoder, *head], gradients, strict=True):
        parameter.grad = gradient
    opt_net.step()
    opt_d.step()
    losses = {"loss/sup": supervised, "loss/st": self_training, "loss/fm": matching, "loss/total": loss}
    return {"losses": losses | {"loss/d": d_loss}, "net": net, "d": d, "score": score.detach(), "chosen": len(chosen)}


@pytest.mark.parametrize("norm", ["batch_minmax", "per_image_minmax"])
@pytest.mark.parametrize("passing", [0, 1, 3])
def test_a_step_is_that_of_the_original(norm: str, passing: int) -> None:
    knobs = {**STILL, "d_image_norm": norm, "d_lr": 1e-3, "optimizer": {"lr": 0.01}, "fm_weight": 0.5}
    made, data = bench("s4gan", knobs), batch()
    first = reference_step(made, data, 0.0, 0.7)
    scores = sorted(first["score"].tolist(), reverse=True)
    threshold = {0: 0.999, 1: (scores[0] + scores[1]) / 2, 3: 0.0}[passing]
    expected = reference_step(made, data, threshold, 0.7)
    assert expected["chosen"] == passing
    out = made.step(data, 0, **{"d_threshold": threshold, "st.weight": 0.7})
    for name, value in expected["losses"].items():
        assert out.losses[name].item() == pytest.approx(value.item(), abs=1e-5), name
    assert out.target is not None
    assert out.target.stats["st/images_selected"].item() == passing
    assert out.target.stats["st/images_seen"].item() == 3
    assert out.target.stats["st/pixels_selected"].item() == passing * 32 * 31
    for name in ("net", "d"):
        for (key, one), two in zip(
            made.nets[name].named_parameters(), expected[name].parameters(), strict=True
        ):
            assert torch.allclose(one, two, atol=2e-5), f"{name}.{key}"
    assert out.losses["d_score/fake"].item() == pytest.approx(expected["score"].mean().item(), abs=1e-5)


def test_before_its_start_self_training_sees_and_selects_nothing() -> None:
    made = bench("s4gan", {**STILL, "d_threshold": 0.0, "st": {"start_step": 5}})
    early, late = made.step(batch(), 4), made.step(batch(), 5)
    assert early.target is not None and late.target is not None
    assert early.losses["loss/st"] == 0 and early.target.stats["st/images_seen"] == 0
    assert late.losses["loss/st"] > 0 and late.target.stats["st/images_selected"] == 3


def test_a_rejected_batch_leaves_the_other_losses_alone() -> None:
    one, two = bench("s4gan", STILL), bench("s4gan", STILL)
    one.step(batch(), 3, **{"d_threshold": 0.999, "st.weight": 4.0})
    two.step(batch(), 3, **{"d_threshold": 0.0, "st.weight": 0.0})
    for a, b in zip(one.nets["net"].parameters(), two.nets["net"].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("recipe", ["s4gan", "s4gan_v2"])
def test_pseudo_labels_to_be_measured_are_the_argmax_of_images_above_the_score(recipe: str) -> None:
    made = bench(recipe, {"st": {"start_step": 2}})
    image, valid = views(5, 3).image, views(5, 3).valid
    net, d = made.nets["net"], made.nets["d"]
    with torch.no_grad():
        logits = net.eval()(image)
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        if recipe == "s4gan":
            low, high = low.amin(), high.amax()
        fake = torch.cat([logits.softmax(1) * valid.unsqueeze(1), (image - low) / (high - low)], 1)
        score = d.eval()(fake)[0]
    net.train(), d.train()
    limit = score.sort().values[1].item()
    found = made.recipe.pseudo_labels(made.nets, image, valid, made.sched(2, d_threshold=limit))
    assert found is not None and net.training and d.training
    expected = torch.where(valid & (score > limit).view(-1, 1, 1), logits.argmax(1), 255)
    assert torch.equal(found.label, expected) and found.stats["st/images_selected"] == 1
    before = made.recipe.pseudo_labels(made.nets, image, valid, made.sched(1, d_threshold=0.0))
    assert before is not None and before.stats["st/pixels_selected"] == 0


def test_in_its_warmup_the_discriminator_is_matched_but_does_not_learn() -> None:
    made = bench("s4gan", {"d_warmup_steps": 5, "fm_weight": 10.0})
    still = bench("s4gan", {"d_warmup_steps": 5, "fm_weight": 0.0})
    assert [phase.steps for phase in made.recipe.phases()] == [5, made.recipe.cfg.steps - 5]
    before = copy.deepcopy(made.nets["d"].state_dict())
    out = made.step(batch(), 3)
    still.step(batch(), 3)
    assert "loss/d" not in out.losses and out.losses["loss/fm"] > 0
    assert all(torch.equal(value, before[name]) for name, value in made.nets["d"].state_dict().items())
    assert made.nets["d"].training and all(p.requires_grad and p.grad is None for p in made.nets["d"].parameters())
    pairs = zip(made.nets["net"].parameters(), still.nets["net"].parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_the_generator_leaves_no_gradient_in_the_discriminator() -> None:
    made = bench("s4gan", {**STILL, "d_lr": 0.0})
    before = copy.deepcopy(made.nets["d"].state_dict())
    made.step(batch(), 3)
    assert all(torch.equal(value, before[name]) for name, value in made.nets["d"].state_dict().items())


def test_frozen_batch_norm_stays_and_its_momentum_is_the_knob() -> None:
    made = bench("s4gan", {"freeze_bn_affine": True, "bn_momentum": 0.3, "optimizer": {"lr": 0.1}})
    norms = [m for m in made.nets["net"].modules() if isinstance(m, nn.BatchNorm2d)]
    before = [p.clone() for m in norms for p in m.parameters()]
    running = [m.running_mean.clone() for m in norms if m.running_mean is not None]
    made.step(batch(), 3)
    assert norms and all(m.momentum == 0.3 for m in norms)
    assert all(torch.equal(a, b) for a, b in zip(before, [p for m in norms for p in m.parameters()], strict=True))
    assert any(not torch.equal(a, m.running_mean) for a, m in zip(running, norms, strict=True))  # type: ignore[arg-type]


def test_legacy_scales_labeled_images_by_the_wrong_range() -> None:
    plain, wrong = bench("s4gan", STILL), bench("s4gan", {**STILL, "d_image_norm": "legacy"})
    data = batch()
    data["labeled"] = views(1)
    data["labeled"].image[0, 0, 0, 0] = 40.0
    one, two = plain.step(data, 3), wrong.step(data, 3)
    assert torch.equal(one.losses["d_score/fake"], two.losses["d_score/fake"])
    assert not torch.equal(one.losses["d_score/real"], two.losses["d_score/real"])


# -- the ten enhancements --------------------------------------------------------------------------------------------

OFF: dict[str, Any] = {
    "grad_clip": 0.0, "optimizer.schedule": "poly", "optimizer.warmup_steps": 0, "ema_decay": 0.0,
    "d_threshold_ramp_steps": 0, "d_warmup_steps": 0, "st.start_step": 3, "st.ramp_steps": 0, "patience": 0,
    "health.gap_warn": 0.0, "d_image_norm": "batch_minmax",
}  # fmt: skip
SMALL = {"d_threshold": 0.0, "d_lr": 0.001, "steps": 6, "eval_every_steps": 3}


def trained(recipe: str, folder: Path, **train: Any) -> dict[str, dict[str, Tensor]]:
    assert run_row(Row(recipe, SMALL), folder, **train).state == "COMPLETE"
    return snapshot_nets(folder)


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        level = found
        for part in parents:
            level = level.setdefault(part, {})
        level[last] = value
    return found


def test_without_its_enhancements_v2_is_s4gan_bit_for_bit(tmp_path: Path) -> None:
    plain = {"st": {"start_step": 3}, "optimizer": {"warmup_steps": 0}}
    one, two = trained("s4gan", tmp_path / "a", **plain), trained("s4gan_v2", tmp_path / "b", **nested(OFF))
    assert equal(one["net"], two["net"]) and equal(one["d"], two["d"])
    assert equal(two["net"], two["ema"])


@pytest.mark.parametrize(
    "on",
    [
        {"grad_clip": 0.01},
        {"optimizer.schedule": "cosine"},
        {"optimizer.warmup_steps": 3},
        {"d_threshold_ramp_steps": 12, "d_threshold_init": 0.9},
        {"d_warmup_steps": 2},
        {"st.start_step": 1},
        {"st.ramp_steps": 6, "st.weight_init": 0.1},
        {"d_image_norm": "per_image_minmax"},
    ],
    ids=str,
)
def test_each_enhancement_acts_alone(on: dict[str, Any], tmp_path: Path, without: dict[str, dict[str, Tensor]]) -> None:
    found = trained("s4gan_v2", tmp_path, **nested(OFF | on))
    assert not equal(found["net"], without["net"])


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    return trained("s4gan_v2", tmp_path_factory.mktemp("off"), **nested(OFF))


def test_the_average_is_what_is_evaluated_and_lags(tmp_path: Path, without: dict[str, dict[str, Tensor]]) -> None:
    found = trained("s4gan_v2", tmp_path, **nested(OFF | {"ema_decay": 0.9}))
    assert equal(found["net"], without["net"]) and not equal(found["ema"], without["ema"])


def test_the_average_may_take_the_newest_running_statistics(tmp_path: Path) -> None:
    found = trained("s4gan_v2", tmp_path, **nested(OFF | {"ema_decay": 0.9, "ema_buffers": "copy"}))
    for name, value in found["net"].items():
        assert torch.equal(value, found["ema"][name]) == ("running" in name or "batches" in name), name


def test_monitors_warn_and_never_stop(tmp_path: Path) -> None:
    messages: list[str] = []

    def observe(progress: Progress) -> None:
        messages.append(progress.message)

    knobs = {
        "patience": 1, "optimizer": {"lr": 0.0, "warmup_steps": 0}, "d_lr": 0.0, "ema_decay": 0.999,
        "health": {"d_loss_low": 2.0, "d_loss_high": 3.0},
    }  # fmt: skip
    outcome = run_row(Row("s4gan_v2", SMALL), tmp_path, observer=observe, **knobs)
    assert outcome.state == "COMPLETE" and outcome.health["d_loss"] == 3
    assert any(m.startswith("d_loss: loss/d is") for m in messages) and any(m.startswith("patience") for m in messages)


# -- health ----------------------------------------------------------------------------------------------------------


def test_starvation_counts_images_and_names_the_threshold(tmp_path: Path) -> None:
    messages: list[str] = []
    knobs = {"d_threshold": 0.99, "health": {"st_inactive_evals": 2, "action": "stop"}, "st": {"start_step": 1}}
    outcome = run_row(
        Row("s4gan"), tmp_path, observer=lambda progress: messages.append(progress.message), **knobs
    )
    assert (outcome.state, outcome.stop_reason) == ("STOPPED", "st_inactive")
    assert any("d_threshold=0.99" in m for m in messages)


def test_by_default_starvation_only_warns(tmp_path: Path) -> None:
    outcome = run_row(Row("s4gan"), tmp_path, d_threshold=0.99, health={"st_inactive_evals": 2})
    assert outcome.state == "COMPLETE" and outcome.health["st_inactive"] == 8


def test_the_band_of_the_discriminators_loss() -> None:
    rules = {rule.name: rule for rule in with_preset("s4gan", None).rules()}
    assert set(rules) == {"gap", "st_inactive", "collapsed", "plateau", "d_loss"}
    for loss, broken in ((0.05, True), (0.1, False), (0.693, False), (0.7, False), (0.75, True), (None, False)):
        assert (rules["d_loss"].check({"loss/d": loss}, {}) is not None) == broken
    assert rules["d_loss"].action == "warn"


# -- the multi-label branch ------------------------------------------------------------------------------------------


def test_the_branch_rules_out_what_it_does_not_see() -> None:
    knobs = {"enabled": True, "presence_threshold": 0.5}
    made, zero = (bench("s4gan", {"mlmt": {**knobs, "legacy_zero": legacy}}) for legacy in (False, True))
    image = views(1).image
    for one in (made, zero):
        one.nets["net"].eval()
        head = one.nets["net"].get_submodule("presence.head")
        assert isinstance(head, nn.Linear)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.tensor([9.0, -9.0, 9.0]))
    with torch.no_grad():
        plain = made.nets["net"](image).softmax(1)
        found, legacy = made.recipe.probabilities(made.nets, image), zero.recipe.probabilities(zero.nets, image)
    assert bool((found[:, 1] == 0).all())
    assert torch.allclose(found[:, 0] / found[:, 2], plain[:, 0] / plain[:, 2], rtol=1e-4)
    assert bool((legacy[:, 1] > 0).all())


def test_the_branch_learns_and_leaves_the_segmentation_alone(tmp_path: Path) -> None:
    branch = {"mlmt": {"enabled": True, "start_step": 1, "ramp_steps": 2, "lr": 0.05, "ema_decay": 0.5}}
    one, two = trained("s4gan", tmp_path / "a"), trained("s4gan", tmp_path / "b", **branch)
    own = {name: value for name, value in two["net"].items() if not name.startswith("presence.")}
    assert equal(one["net"], own) and len(own) < len(two["net"])
    teacher = {n.removeprefix("presence."): v for n, v in two["net"].items() if n.startswith("presence.")}
    assert teacher.keys() == two["classifier"].keys() and not equal(teacher, two["classifier"])


def test_the_branch_follows_its_notes() -> None:
    recipe = with_preset("s4gan", None, mlmt={"enabled": True})
    schedules, spec = recipe.schedules(), recipe.optimizers(0)["classifier"]
    weights = [schedules["mlmt.weight"](step) for step in (0, 4000, 14_000, 24_000, 39_999)]
    assert weights == pytest.approx([0, 0, 0.5, 1, 1])
    assert [schedules["mlmt.ema_decay"](step) for step in (0, 1, 9999)] == pytest.approx([0, 0.5, 0.999])
    assert (spec.lr(0), spec.lr(40_000)) == pytest.approx((3e-2, 1e-4)) and spec.nesterov
    assert spec.weight_decay == 1e-5
    strong = recipe.streams()[1]
    assert strong.num_strong == 1 and strong.strong.cutmix_p == 0


def test_biases_get_no_group_of_their_own_unless_asked() -> None:
    nets = {"net": nn.ModuleDict({"encoder": nn.Conv2d(1, 1, 1), "head": nn.Conv2d(1, 1, 1)})}
    made = Optimizer(OptimizerSpec(("net",), lambda step: 1.0, head_lr_mult=10.0), nets)
    assert [len(group["params"]) for group in made._optimizer.param_groups] == [2, 2]
