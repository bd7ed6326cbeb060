"""Noise on features: factors, complements, and what stays as it is."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable.recipes.perturbation import channel_dropout, complementary_dropout


def maps(number: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    image = torch.rand(number, 3, 8, 8)
    sides = {5: 4, 7: 2, 0: 4, 3: 1}
    return [image] + [torch.ones(number, channels, side, side) for channels, side in sides.items()], image


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.floats(0.0, 1.0), st.integers(0, 10**6))
def test_two_views_share_every_channel_of_an_image_that_is_not_kept(
    batch: int, keep: float, seed: int
) -> None:
    torch.manual_seed(seed)
    features, image = maps(2 * batch)
    noisy = complementary_dropout(features, image, keep)
    assert noisy[0] is features[0]
    untouched = None
    for before, after in zip(features[1:], noisy[1:], strict=True):
        assert after.shape == before.shape
        first, second = after.chunk(2)
        assert torch.equal(first + second, 2 * torch.ones_like(first))
        assert set(after.flatten().tolist()) <= {0.0, 1.0, 2.0}
        assert torch.equal(after, after[..., :1, :1].expand_as(after))
        whole = (first == 1).flatten(1).all(1)
        untouched = whole if untouched is None else untouched & whole
    assert untouched is not None and int(untouched.sum()) == int(keep * batch)


def test_maps_with_equal_channels_share_one_split() -> None:
    torch.manual_seed(0)
    features = [torch.ones(8, 16, 4, 4), torch.ones(8, 16, 2, 2)]
    one, two = complementary_dropout(features, torch.zeros(8, 3, 32, 32), 0.5)
    assert torch.equal(one[..., 0, 0], two[..., 0, 0]) and one.unique().tolist() == [0.0, 1.0, 2.0]


def test_channel_dropout_drops_whole_channels_but_not_the_image() -> None:
    torch.manual_seed(0)
    features, image = maps(4)
    noisy = channel_dropout(features, image, 0.5)
    assert noisy[0] is features[0]
    assert torch.equal(noisy[1], noisy[1][..., :1, :1].expand_as(noisy[1])) and noisy[
        1
    ].unique().tolist() == [0.0, 2.0]
    for before, after in zip(features, channel_dropout(features, image, 0.0), strict=True):
        assert torch.equal(before, after)
