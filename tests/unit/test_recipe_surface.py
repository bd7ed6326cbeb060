"""The surface recipe: its loss, what counts as a label, its plateau, its scores, and volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.support.images import stacked_dataset
from trainable import losses
from trainable.config import resolve
from trainable.data.augment import Views, make_views, normalize
from trainable.data.balance import Balance
from trainable.data.tone import stretched
from trainable.errors import ConfigError
from trainable.health import no_better_than
from trainable.metrics.cleaning import clean_mask
from trainable.models_3d import fitted_window, sliding_window, volume_segmenter
from trainable.optimizers import Optimizer
from trainable.recipes.surface import Surface
from trainable.recipes.surface_config import SurfaceConfig
from trainable.recipes.surface_parts import SurfaceExaminer, SurfaceLossConfig, composite_loss
from trainable.task import Task


def made(ndim: Any = 2, preset: str | None = None, **train: Any) -> Surface:
    tiny = {"architecture": "unet", "encoder": "tu-test_resnet", "encoder_weights": None, "amp": "off"}
    cfg = resolve(SurfaceConfig, preset=Surface.preset_values(preset), train=tiny | train)
    assert isinstance(cfg, SurfaceConfig)
    return Surface(cfg, Surface.adapt(Task(("background", "surface"), (3, 1), ndim=ndim)))


def volumes(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    probability = torch.rand(2, 1, *shape, generator=generator)
    truth = (torch.rand(2, 1, *shape, generator=generator) > 0.7).float()
    return probability, truth, torch.rand(2, 1, *shape, generator=generator) > 0.1


@pytest.mark.parametrize("shape", [(12, 10), (6, 8, 7)])
def test_the_composite_loss_is_the_weighted_sum_of_its_parts(shape: tuple[int, ...]) -> None:
    probability, truth, known = volumes(*shape)
    cfg = SurfaceLossConfig(skeleton=0.07)
    total, parts = composite_loss(probability, truth, known, cfg)
    assert parts["dice"].item() == losses.probability_dice_loss(probability, truth, mask=known).item()
    weights = {"dice": 0.3, "focal": 0.4, "boundary": 0.15, "cldice": 0.1, "connectivity": 0.05, "skeleton": 0.07}
    assert total.item() == pytest.approx(sum(weights[name] * value.item() for name, value in parts.items()), rel=1e-5)
    alone, parts = composite_loss(probability, truth, known, SurfaceLossConfig(
        dice=0, focal=2.0, boundary=0, cldice=0, connectivity=0))  # fmt: skip
    assert list(parts) == ["focal"] and alone.item() == pytest.approx(2 * parts["focal"].item())


def test_the_focal_part_follows_the_class_weights_only_where_it_is_balanced() -> None:
    probability, truth, known = volumes(9, 9)
    entropy = -(truth * probability.log() + (1 - truth) * (1 - probability).log())
    shape = (1 - torch.exp(-entropy)) ** 2 * entropy
    weight = torch.where(truth > 0, 0.34 * 0.52, 0.66 * 1.94)
    only: dict[str, Any] = {"dice": 0, "focal": 1.0, "boundary": 0, "cldice": 0, "connectivity": 0}
    balanced, _ = composite_loss(probability, truth, known, SurfaceLossConfig(**only))
    assert balanced.item() == pytest.approx((shape * weight)[known].mean().item(), rel=1e-4)
    scalar = SurfaceLossConfig(**only, focal_balanced=False, focal_alpha=0.25)
    plain, _ = composite_loss(probability, truth, known, scalar)
    assert plain.item() == pytest.approx((0.25 * shape)[known].mean().item(), rel=1e-4)


def one_step(recipe: Surface, label: torch.Tensor, valid: torch.Tensor) -> float:
    torch.manual_seed(2)
    nets, spec = recipe.build(), recipe.phases()[0].optimizers["net"]
    image = torch.randn(len(label), 3, *label.shape[1:])
    view = Views(image, label, valid, (), (), torch.arange(len(label)))
    out = recipe.step(nets, {"labeled": view}, {}, {"net": Optimizer(spec, nets)})
    return out.losses["loss/total"].item()


def test_voxels_without_a_label_count_as_configured_and_padding_never() -> None:
    label = torch.randint(0, 2, (2, 32, 32), generator=torch.Generator().manual_seed(0))
    label[:, :8], label[..., -1] = 255, 255
    valid = torch.ones_like(label, dtype=torch.bool)
    valid[..., -1] = False
    hidden = (label == 255) & valid
    quiet: dict[str, Any] = {"augment": {"noise_p": 0.0, "contrast_p": 0.0, "flip": False, "rot90_p": 0.0}}
    for how, value in (("foreground", 1), ("background", 0)):
        taught = one_step(made(unlabeled_as=how, **quiet), label, valid)
        assert taught == one_step(made(**quiet), torch.where(hidden, value, label), valid)
        assert taught != one_step(made(**quiet), label, valid)
    assert made(preset="seed_labels").cfg.unlabeled_as == "foreground"


def test_the_presets_are_the_text_and_what_was_committed() -> None:
    text, committed = made(preset="text").cfg, made(preset="as_committed").cfg
    assert (text.optimizer.lr, text.loss.focal_alpha, text.loss.focal_balanced) == (0.01, 0.34, True)
    assert (committed.optimizer.lr, committed.optimizer.warmup_steps, committed.loss.focal_alpha) == (0.005, 0, 0.25)
    assert not committed.loss.focal_balanced
    broken = {rule.name: rule.check({}, {}) for rule in made(preset="text").rules()}
    assert broken["double_weighting"] and "1.28 to foreground 0.18" in broken["double_weighting"]
    assert "double_weighting" not in {rule.name for rule in made(preset="as_committed").rules()}


def test_the_rate_is_cut_where_the_loss_stops_falling_as_torch_does_it() -> None:
    curve = [1.0, 0.8, 0.9, 0.85, 0.81, 0.79, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    recipe = made(optimizer={"plateau_factor": 0.5, "plateau_patience": 2, "warmup_steps": 0})
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    remember: dict[str, float] = {}
    for value in curve:
        recipe.after_evaluation({"val/loss": value}, remember)
        # What is remembered is all that counts: the next evaluation may come in another process.
        recipe = made(optimizer={"plateau_factor": 0.5, "plateau_patience": 2, "warmup_steps": 0})
        torchs.step(value)
        assert remember["lr_scale/net"] == optimizer.param_groups[0]["lr"]
    assert remember["lr_scale/net"] < 0.5
    untouched: dict[str, float] = {}
    made(optimizer={"plateau_factor": 1.0}).after_evaluation({"val/loss": 1.0}, untouched)
    assert untouched == {}


def test_a_perfect_answer_scores_fully_and_a_constant_one_costs_what_is_said() -> None:
    cfg = made(post={"min_component": 0, "max_hole": 0}).cfg
    label = np.zeros((24, 24), np.uint8)
    label[8:12], label[:, 20:] = 1, 255
    perfect, constant = SurfaceExaminer(cfg.loss, cfg.post, None), SurfaceExaminer(cfg.loss, cfg.post, None)
    truth = (label == 1).astype(np.float32)
    good = perfect.scores([perfect.see(np.stack([1 - truth, truth]), label, None)])
    flat = constant.scores([constant.see(np.full((2, 24, 24), 0.5, np.float32), label, None)])
    assert good["val/loss"] == pytest.approx(0.0, abs=1e-4) and good["val/voi_score"] == 1.0
    assert good["val/surface_dice"] in (1.0, None) and good["val/topo"] is None and good["val/surface_score"] is None
    assert good["val/loss_constant"] == flat["val/loss_constant"] <= flat["val/loss"] + 1e-6  # type: ignore[operator]
    known = perfect.constants
    assert known is not None and SurfaceExaminer(cfg.loss, cfg.post, known).constants == known


def test_a_loss_that_stays_at_the_constant_answer_breaks_a_rule() -> None:
    rule, memory = no_better_than("val/loss", "val/loss_constant", 2, "stop"), {}
    flat, falling = {"val/loss": 0.5, "val/loss_constant": 0.4}, {"val/loss": 0.3, "val/loss_constant": 0.4}
    assert [rule.check(r, memory) is None for r in (flat, falling, flat, flat)] == [True, True, True, False]
    assert rule.check({"val/loss": None}, memory) is None


@pytest.mark.parametrize("shape", [(40, 40), (14, 16, 15)])
def test_cleaning_drops_small_parts_and_fills_small_holes(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(3).random(shape) < 0.45
    cleaned = clean_mask(mask, min_component=6, max_hole=3)
    parts, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    sizes = ndimage.sum_labels(mask, parts, range(count + 1))
    kept = mask & (sizes >= 6)[parts]
    holes, count = ndimage.label(~kept)
    rim = {int(v) for axis in range(mask.ndim) for end in (0, -1) for v in np.unique(holes.take(end, axis))}
    small = [h for h in range(1, count + 1) if h not in rim and (holes == h).sum() <= 3]
    assert np.array_equal(cleaned, kept | np.isin(holes, small)) and (cleaned != mask).any()
    assert np.array_equal(clean_mask(mask), mask)


def test_the_volume_network_has_the_documented_size() -> None:
    count = sum(p.numel() for p in volume_segmenter(1, filters=16, depth=4).parameters())
    assert count == pytest.approx(5_644_913, rel=5e-4)


def test_windows_cover_a_volume_that_is_no_multiple_of_them() -> None:
    image = torch.randn(1, 3, 5, 19, 33)
    found = sliding_window(image, (16, 16, 16), lambda part: part[:, :1] * 2, batch_size=3, overlap=0.25)
    assert found.shape == (1, 1, 5, 19, 33) and torch.allclose(found, image[:, :1] * 2, atol=1e-5)


def test_a_thin_volume_is_predicted_by_windows_as_thin_many_at_a_time() -> None:
    recipe = made(3, crop_size=16, batch_size=2, volume={"depth": 2, "filters": 8})
    net, seen = recipe.build()["net"].eval(), []

    class Watched(torch.nn.Module):
        def forward(self, window: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(window.shape))
            return torch.as_tensor(net(window))

    image = torch.randn(1, 3, 3, 40, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = recipe.probabilities({"net": Watched()}, image)
        assert found.shape == (1, 2, 3, 40, 64) and seen == [(15, 3, 4, 16, 16)]
        padded = torch.nn.functional.pad(image, (0, 0, 0, 0, 0, 1))
        corner = net(recipe.stretched(padded[..., :16, :16])).sigmoid()[..., :3, :12, :12]
        torch.testing.assert_close(found[:, 1:, :, :12, :12], corner)
        seen.clear()
        deep = recipe.probabilities({"net": Watched()}, torch.randn(1, 3, 20, 20, 20))
        assert deep.isfinite().all() and seen == [(8, 3, 16, 16, 16)]


def test_a_thin_volume_is_learned_from_crops_as_thin_as_its_windows() -> None:
    recipe, data = made(3, crop_size=16, volume={"depth": 2, "filters": 8}), stacked_dataset(sections=6, size=20)
    sampler = data.sampler(recipe.phases()[0].streams[0], seed=1)
    views = make_views(sampler.batch(0))
    assert views.image.shape[2:] == fitted_window(6, 16, 4) == (8, 16, 16)
    for label, valid in zip(views.label, views.valid, strict=True):
        deep = valid.flatten(1).all(1)
        assert deep.sum() == 6 and bool((valid.flatten(1).any(1) == deep).all())
        assert [bool((section != 255).all()) for section in label[deep]] == [True, False] * 3
    deeper = stacked_dataset(sections=18, size=40)
    assert make_views(deeper.sampler(recipe.phases()[0].streams[0], seed=1).batch(0)).image.shape[2:] == (16, 16, 16)


def test_windows_blend_alike_on_every_section_of_a_thin_volume() -> None:
    number = iter(range(100))

    def predict(part: torch.Tensor) -> torch.Tensor:
        return torch.full_like(part[:, :1], float(next(number)))

    found = sliding_window(torch.zeros(1, 3, 4, 28, 8), (4, 16, 8), predict, batch_size=1, overlap=0.25)
    blend = found[0, 0, :, 12:16, 0]
    assert torch.equal(blend, blend[:1].expand_as(blend)) and bool((blend[0].diff() > 0.05).all())


def test_a_crop_that_the_volume_network_cannot_halve_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"multiple of 2\^volume.depth.*crop_size=24, volume.depth=4"):
        made(ndim=3, crop_size=24, volume={"depth": 4}).build()


def test_crops_are_balanced_by_the_labels_as_they_are_taught() -> None:
    taught = {"ignore": ((1,), (0,)), "foreground": ((1, 255), (0,)), "background": ((1,), (0, 255))}
    for how, (positive, negative) in taught.items():
        stream = made(unlabeled_as=how).phases()[0].streams[0]
        assert stream.balance == Balance(10, 0.3, 0.7, positive, negative)
    assert made(augment={"balance_tries": 1}).phases()[0].streams[0].balance is None


@pytest.mark.parametrize(("ndim", "shape"), [(2, (32, 32)), (3, (16, 16, 16))])
def test_brightness_is_stretched_alike_in_training_and_in_prediction(ndim: int, shape: tuple[int, ...]) -> None:
    still = {"noise_p": 0.0, "contrast_p": 0.0, "flip": False, "rot90_p": 0.0, "clip_percent": 2.0}
    recipe = made(ndim, augment=still, crop_size=16 if ndim == 3 else 32, volume={"depth": 2, "filters": 8})
    net = recipe.build()["net"].eval()
    seen = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(4))
    whole = torch.ones(1, *shape, dtype=torch.bool)
    learned = recipe.augmented(Views(normalize(seen), whole.long(), whole, (), (), torch.arange(1))).image
    torch.testing.assert_close(learned, normalize(stretched(seen, whole, 2.0)), rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        found = recipe.probabilities({"net": net}, normalize(seen))
        dark = recipe.probabilities({"net": net}, normalize(0.1 + 0.5 * seen))
        torch.testing.assert_close(found[:, 1:], net(learned).sigmoid(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found, dark, rtol=1e-2, atol=1e-2)


def test_views_are_turned_and_toned_with_their_labels() -> None:
    recipe = made(augment={"noise_p": 1.0, "noise_max": 0.05, "contrast_p": 1.0})
    label = torch.randint(0, 2, (8, 32, 32), generator=torch.Generator().manual_seed(0))
    image = normalize(label.float().unsqueeze(1).repeat(1, 3, 1, 1))
    view = Views(image, label, torch.ones_like(label, dtype=torch.bool), (), (), torch.arange(8))
    torch.manual_seed(3)
    seen = recipe.augmented(view)
    assert torch.equal(seen.image[:, 0] > 0, seen.label == 1) and not torch.equal(seen.label, label)


def test_volumes_say_what_they_need_and_images_need_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("trainable.models_3d.importlib.import_module", missing)
    assert made().build()["net"] is not None
    with pytest.raises(ConfigError, match="extra `volume`"):
        made(3, crop_size=64).build()
