"""Changes of brightness: what they may change, how often, and scales by an image's own values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.no_sync import no_host_sync
from trainable.data.augment import normalize
from trainable.data.tone import (
    Tone,
    denormalize,
    icy,
    known_pixels,
    renormalize,
    standardized,
    stretched,
    toned,
    toned_by_level,
)

SEEDS = st.integers(0, 2**31)


def gray(count: int = 2, *shape: int, seed: int = 0) -> torch.Tensor:
    """float32[B, 3, *S] in [0.2, 0.8], the same in every channel."""
    drawn = torch.rand(count, 1, *(shape or (24, 24)), generator=torch.Generator().manual_seed(seed))
    return (0.2 + 0.6 * drawn).repeat(1, 3, *[1] * len(shape or (24, 24)))


def test_denormalize_undoes_normalize_and_no_color_is_taken_for_padding() -> None:
    image = torch.arange(256).float().div(255).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    torch.testing.assert_close(denormalize(normalize(image)), image)
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    torch.testing.assert_close(renormalize(image, valid), normalize(image))
    assert bool((normalize(image) != 0).all()) and bool(known_pixels(normalize(image)).all())
    assert not bool(renormalize(image, ~valid).any())


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.1, 5.0), st.floats(-2.0, 2.0))
def test_standardizing_gives_mean_0_and_deviation_1_whatever_the_scale(seed: int, a: float, b: float) -> None:
    image = gray(2, 9, 7, seed=seed)
    valid = torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(seed)) < 0.7
    found = standardized(image, valid)
    for one, known in zip(found, valid, strict=True):
        inside = one[:, known]
        assert inside.mean().item() == pytest.approx(0, abs=1e-4)
        assert inside.std(correction=0).item() == pytest.approx(1, abs=1e-4)
        assert not bool(one[:, ~known].any())
    torch.testing.assert_close(standardized(a * image + b, valid), found, rtol=1e-3, atol=1e-3)
    flat = standardized(torch.full((1, 3, 4, 4), 0.5), torch.ones(1, 4, 4, dtype=torch.bool))
    assert bool((flat.abs() < 1e-3).all())


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.0, 40.0), st.sampled_from([(9, 8), (4, 5, 6)]))
def test_stretching_clips_at_the_percentiles_of_what_is_known(
    seed: int, percent: float, shape: tuple[int, ...]
) -> None:
    image = gray(2, *shape, seed=seed)
    valid = torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed)) < 0.8
    valid[:, 0] = True
    with no_host_sync():
        found = stretched(image, valid, percent)
    for one, known, out in zip(image, valid, found, strict=True):
        ordered = np.sort(one[0][known].numpy())
        low, high = (ordered[round((len(ordered) - 1) * share)] for share in (percent / 100, 1 - percent / 100))
        expected = np.clip((one.numpy() - low) / max(high - low, 1e-6), 0, 1)
        np.testing.assert_allclose(out.numpy(), expected, atol=2e-2 if percent > 39 else 1e-4)
    nothing = stretched(image, torch.zeros_like(valid), percent)
    assert bool(nothing.isfinite().all())


CHANGES: dict[str, dict[str, Any]] = {
    "contrast_p": {"contrast": 0.3, "brightness": 0.1}, "blur_p": {}, "noise_p": {}, "ice_p": {},
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_has_its_chance_and_leaves_gray_gray(name: str) -> None:
    image = gray(300, 16, 16)
    assert toned(image, Tone()) is image
    for chance in (0.3, 1.0):
        torch.manual_seed(4)
        with no_host_sync():
            changed = toned(image, Tone(**{name: chance, **CHANGES[name]}))
        met = (changed - image).abs().amax((1, 2, 3)) > 1e-6
        assert met.float().mean().item() == pytest.approx(chance, abs=0.15 if name == "ice_p" else 0.08)
        assert torch.allclose(changed[:, 0], changed[:, 1]) and torch.allclose(changed[:, 0], changed[:, 2])


def test_contrast_and_brightness_stay_in_their_ranges() -> None:
    image = gray(500, 4, 4)
    torch.manual_seed(0)
    changed = toned(image, Tone(contrast_p=1.0, contrast=0.2, brightness=0.1)).double()
    x, y = image.double()[:, 0].flatten(1), changed[:, 0].flatten(1)
    low, high = x.argmin(1, keepdim=True), x.argmax(1, keepdim=True)
    span = (y.gather(1, high) - y.gather(1, low)) / (x.gather(1, high) - x.gather(1, low))
    assert 0.8 - 1e-3 <= span.min() < 0.85 and 1.15 < span.max() <= 1.2 + 1e-3
    offset = y.gather(1, low) - (x.gather(1, low) - 0.5) * span - 0.5
    assert -0.1 - 1e-3 <= offset.min() < -0.08 and 0.08 < offset.max() <= 0.1 + 1e-3


def test_noise_has_a_deviation_from_its_range_and_blur_smooths() -> None:
    image = gray(60, 40, 40)
    torch.manual_seed(1)
    noise = toned(image, Tone(noise_p=1.0, noise_min=0.01, noise_max=0.05)) - image
    deviations = noise[:, 0].flatten(1).std(1)
    assert 0.009 < deviations.min() < 0.02 and 0.04 < deviations.max() < 0.053
    blurred = toned(image, Tone(blur_p=1.0))
    assert bool((blurred.flatten(1).var(1) <= image.flatten(1).var(1) + 1e-6).all())
    torch.testing.assert_close(blurred.mean((1, 2, 3)), image.mean((1, 2, 3)), rtol=0.05, atol=0.02)


def test_discs_cover_little_and_change_it_alike() -> None:
    image = torch.full((200, 3, 100, 100), 0.5)
    torch.manual_seed(2)
    changed = icy(image, 1.0)
    share = (changed != image).float().mean((1, 2, 3))
    assert share.median() > 0 and share.max() <= 3 * np.pi * 0.085**2 + 1e-3
    difference = (changed - image).abs().amax((1, 2, 3))
    assert difference.median() > 0.05 and changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(icy(image, 0.0), image)


def test_volumes_are_toned_too() -> None:
    image = gray(2, 4, 8, 8)
    torch.manual_seed(0)
    changed = toned(image, Tone(contrast_p=1.0, blur_p=1.0, noise_p=1.0))
    assert changed.shape == image.shape and bool(changed.isfinite().all()) and not torch.equal(changed, image)


LOUD = Tone(contrast_p=1.0, blur_p=1.0, noise_p=1.0, ice_p=1.0)


def level(image: torch.Tensor) -> torch.Tensor:
    """float32[B, 2]."""
    return torch.stack((image.flatten(1).mean(1), image.flatten(1).std(1, correction=0)), 1)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_a_crop_that_is_the_whole_image_is_toned_and_then_standardized(seed: int) -> None:
    image, valid = gray(3, seed=seed), torch.ones(3, 24, 24, dtype=torch.bool)
    torch.manual_seed(seed)
    found = toned_by_level(image, valid, LOUD, level(image))
    torch.manual_seed(seed)
    torch.testing.assert_close(found, standardized(toned(image, LOUD), valid), rtol=1e-3, atol=1e-3)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_a_crop_is_scaled_as_that_part_of_its_image_whatever_the_contrast(seed: int) -> None:
    image = 0.4 * gray(2, seed=seed) + 0.3
    image[..., 12:] += 0.15
    crop, valid = image[..., 12:], torch.ones(2, 24, 12, dtype=torch.bool)
    whole = standardized(image, torch.ones(2, 24, 24, dtype=torch.bool))
    torch.manual_seed(seed)
    found = toned_by_level(crop, valid, Tone(contrast_p=1.0, contrast=0.1, brightness=0.05), level(image))
    torch.testing.assert_close(found, whole[..., 12:], rtol=1e-3, atol=1e-3)
    noisy = toned_by_level(crop, valid, Tone(noise_p=1.0, noise_min=0.02, noise_max=0.02), level(image))
    shrunk = level(image)[:, 1] / (level(image)[:, 1] ** 2 + 0.02**2).sqrt()
    torch.testing.assert_close(noisy.mean((1, 2, 3)), whole[..., 12:].mean((1, 2, 3)) * shrunk, rtol=0.1, atol=0.05)


def test_padding_and_a_flat_crop_stay_finite() -> None:
    flat, valid = torch.full((1, 3, 8, 8), 0.5), torch.ones(1, 8, 8, dtype=torch.bool)
    valid[..., :2] = False
    with no_host_sync():
        found = toned_by_level(flat, valid, LOUD, torch.tensor([[0.4, 0.1]]))
    assert bool(found.isfinite().all()) and not found[..., :2].any() and found.abs().max() < 10
