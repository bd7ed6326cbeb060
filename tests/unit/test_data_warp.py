"""Images that are turned and bent: labels and padding stay with their pixels, and nothing else changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from tests.support.images import dots_dataset
from tests.support.no_sync import no_host_sync
from trainable.data.augment import Views
from trainable.data.balance import Balance
from trainable.data.loaders import StreamSampler
from trainable.data.streams import Geometry, Stream
from trainable.data.warp import Warp, quarter_turned, sampling_grid, smooth_field, warped

SEEDS = st.integers(0, 2**31)
LIKE = torch.zeros(1)
BOTH = Warp(rotate_p=1.0, rotate_degrees=30.0, elastic_p=1.0, flip=True)


def view_of(*shape: int, count: int = 2, seed: int = 0) -> Views:
    """Images whose first channel is their label, and whose padding is 0."""
    label = torch.randint(1, 200, (count, *shape), generator=torch.Generator().manual_seed(seed))
    valid = torch.ones_like(label, dtype=torch.bool)
    valid[..., -3:] = False
    image = label.float().unsqueeze(1).repeat(1, 3, *[1] * len(shape)) * valid.unsqueeze(1)
    label = torch.where(valid, label, 255)
    return Views(image, label, valid, (image,), (valid,), torch.arange(count))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([(8, 8), (3, 6, 6)]), st.booleans(), st.sampled_from([0.0, 0.5, 1.0]))
def test_quarter_turns_move_every_pixel_with_its_label(
    seed: int, shape: tuple[int, ...], flip: bool, chance: float
) -> None:
    view = view_of(*shape, count=4, seed=seed)
    torch.manual_seed(seed)
    turned = quarter_turned(view, chance, flip=flip)
    assert torch.equal(turned.image[:, 0].long(), torch.where(turned.valid, turned.label, 0))
    assert bool((turned.label[~turned.valid] == 255).all())
    for before, after in zip(view.label, turned.label, strict=True):
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)
    if shape[0] != shape[1] and not flip:
        planes = zip(view.label.flatten(0, 1), turned.label.flatten(0, 1), strict=True)
        assert all(torch.equal(a.flatten().sort().values, b.flatten().sort().values) for a, b in planes)


def test_quarter_turns_are_those_of_torch_and_all_orientations_occur() -> None:
    view = view_of(4, 4, count=300)
    view = Views(view.image[:1].repeat(300, 1, 1, 1), view.label[:1].repeat(300, 1, 1), view.valid, (), (), view.index)
    torch.manual_seed(0)
    known = [torch.rot90(view.image[0], k, (1, 2)) for k in range(4)]
    turned = quarter_turned(view, 1.0, flip=False).image
    found = {next(k for k, image in enumerate(known) if torch.equal(image, one)) for one in turned}
    assert found == {1, 2, 3}
    mirrored = quarter_turned(view, 0.5, flip=True).image
    assert len({tuple(one.flatten().tolist()) for one in mirrored}) == 8
    stack = view_of(2, 4, 4, count=300)
    image, label, valid = (value[:1].expand_as(value) for value in (stack.image, stack.label, stack.valid))
    same = Views(image, label, valid, (), (), stack.index)
    assert len({tuple(one.flatten().tolist()) for one in quarter_turned(same, 0.5, flip=True).image}) == 16


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_a_warp_moves_labels_and_padding_with_the_image(seed: int) -> None:
    side = 64
    x = torch.arange(side).float().view(1, 1, 1, side).expand(4, 3, side, side)
    y = torch.arange(side).float().view(1, 1, side, 1).expand(4, 3, side, side)
    label = (x[:, 0] // 8).long()
    valid = y[:, 0] < 48
    view = Views(torch.stack((x[:, 0], y[:, 0], x[:, 0]), 1), label, valid, (), (), torch.arange(4))
    torch.manual_seed(seed)
    with no_host_sync():
        moved = warped(view, BOTH)
    assert not torch.equal(moved.image, view.image)
    assert bool((moved.image[~moved.valid.unsqueeze(1).expand_as(moved.image)] == 0).all())
    inside = moved.valid
    assert moved.image[:, 1].max() < 48.5
    nearest = (moved.image[:, 0] // 8).long()
    apart = (moved.image[:, 0] % 8 - 4).abs() < 2.5
    assert bool((nearest == moved.label)[inside & apart].all()) and bool((inside & apart).any())
    assert 0.5 < moved.valid.float().mean() < 1.0


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_padding_does_not_mix_into_the_pixels_beside_it(seed: int) -> None:
    valid = torch.ones(3, 32, 32, dtype=torch.bool)
    valid[:, 20:], valid[1, :, 9:] = False, False
    image = 2.0 * valid.unsqueeze(1).expand(-1, 3, -1, -1)
    torch.manual_seed(seed)
    moved = warped(Views(image, valid.long(), valid, (), (), torch.arange(3)), BOTH)
    torch.testing.assert_close(moved.image, 2.0 * moved.valid.unsqueeze(1).expand_as(moved.image))


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.floats(1.0, 90.0))
def test_a_rotation_turns_about_the_center_by_no_more_than_it_may(seed: int, degrees: float) -> None:
    torch.manual_seed(seed)
    plain = sampling_grid(1, (16, 16), Warp(), LIKE)
    grid = sampling_grid(50, (16, 16), Warp(rotate_p=1.0, rotate_degrees=degrees), LIKE)
    torch.testing.assert_close(grid.norm(dim=-1), plain.norm(dim=-1).expand(50, 16, 16))
    across = grid[:, 0, 15] - grid[:, 0, 0]
    angle = torch.atan2(across[:, 1], across[:, 0]).rad2deg()
    assert bool((angle.abs() <= degrees + 1e-3).all()) and angle.min() < 0 < angle.max()


@pytest.mark.parametrize("sigma", [1.0, 5.0])
def test_the_bend_is_smoothed_noise(sigma: float) -> None:
    torch.manual_seed(3)
    field = smooth_field(2, (20, 24), 50.0, sigma, LIKE)
    torch.manual_seed(3)
    reach = math.ceil(3 * sigma)
    noise = (torch.rand(4, 20 + 2 * reach, 24 + 2 * reach) * 2 - 1).numpy()
    for index, plane in enumerate(noise):
        smooth = 50.0 * ndimage.gaussian_filter(plane.astype(np.float64), sigma, truncate=3.0)
        inner = smooth[reach:-reach, reach:-reach]
        np.testing.assert_allclose(field.flatten(0, 1)[index], inner, rtol=1e-3, atol=1e-3)
    torch.manual_seed(0)
    wide = smooth_field(1, (200, 200), 50.0, sigma, LIKE)
    assert wide.std().item() == pytest.approx(50.0 / (2 * sigma * math.sqrt(3 * math.pi)), rel=0.1)


def test_each_change_has_its_chance_and_none_changes_nothing() -> None:
    view = view_of(32, 32)
    assert warped(view, Warp()) is view and quarter_turned(view, 0.0, flip=False) is view
    for only in (Warp(rotate_p=0.3), Warp(elastic_p=0.3), Warp(flip=True)):
        many = view_of(32, 32, count=400)
        torch.manual_seed(1)
        moved = warped(many, only)
        same = (moved.image - many.image).abs().amax((1, 2, 3)) < 0.01
        expected = 0.25 if only.flip else 0.7
        assert same.float().mean().item() == pytest.approx(expected, abs=0.08), only
        assert not moved.strong and not moved.boxes


def positives(sampler: StreamSampler, step: int) -> Tensor:
    batch = sampler.batch(step)
    known = batch.plane < 2
    return (batch.plane == 1).flatten(1).sum(1) / known.flatten(1).sum(1)


def test_a_balanced_crop_is_the_best_of_its_tries() -> None:
    data = dots_dataset()
    plain = Stream("labeled", "labeled", 4, 16, Geometry(flip=False))
    balance = Balance(tries=6, low=0.3, high=0.7)
    chosen = data.sampler(Stream(**{**vars(plain), "balance": balance}), seed=5)
    assert torch.equal(chosen.batch(3).theta, data.sampler(chosen.stream, seed=5).batch(3).theta)
    free = data.sampler(plain, seed=5)
    rng_a, rng_b = np.random.default_rng(2), np.random.default_rng(2)
    for index in free.indices:
        mask = data.source.mask(index)
        places = [free._place(index, rng_b) for _ in range(balance.tries + 1)]
        misses = []
        for place in places[: balance.tries]:
            top, left = (math.floor(c) for c in place.corner)
            share = (mask[top : top + 16, left : left + 16] == 1).mean()
            misses.append(max(0.3 - share, share - 0.7, 0.0))
        assert chosen._best(chosen._drawn(index, rng_a)) == places[int(np.argmin(misses))]
    once = data.sampler(Stream(**{**vars(plain), "balance": Balance(tries=1, low=0.0, high=1.0)}), seed=5)
    assert torch.equal(once.batch(2).theta[0], free.batch(2).theta[0])


def test_every_worker_looks_for_the_balanced_crops_of_its_own_images_alone() -> None:
    stream = Stream("labeled", "labeled", 4, 16, Geometry(flip=False), balance=Balance(tries=6, low=0.05, high=0.1))
    data = dots_dataset(labeled=4)
    whole = data.sampler(stream, seed=5).batch(3)
    for rank in range(2):
        data.source.read.clear()  # type: ignore[attr-defined]
        part = data.sampler(stream, 5, rank, 2, {}).batch(3)
        assert torch.equal(part.theta, whole.theta[2 * rank : 2 * rank + 2])
        assert set(data.source.read) == set(part.index.tolist())  # type: ignore[attr-defined]
