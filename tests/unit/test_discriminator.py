"""The discriminator, and the scaling of what it is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from trainable.deeplab import AtrousSum
from trainable.discriminator import Discriminator, shown, unit_range
from trainable.models import segmenter

images = arrays(np.float32, (3, 3, 4, 4), elements=st.floats(-4, 4, width=16)).map(torch.from_numpy)


@pytest.mark.parametrize(("classes", "parameters"), [(21, 2_778_561), (7, 2_764_225)])
def test_its_size_is_that_of_the_original(classes: int, parameters: int) -> None:
    assert sum(p.numel() for p in Discriminator(classes).parameters()) == parameters


def test_the_generator_has_the_size_of_the_original() -> None:
    net = segmenter("deeplabv2", "resnet101", None, 7)
    assert sum(p.numel() for p in net.parameters()) == 43_016_284
    affine = [p for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    assert sum(p.numel() for p in affine) == 105_344


def test_it_is_four_convolutions_an_average_window_and_a_line() -> None:
    torch.manual_seed(0)
    made = Discriminator(4, dropout=0.5).eval()
    pair = torch.rand(2, 7, 320, 320)
    hidden = pair
    convolutions = [layer for layer in made.layers if isinstance(layer, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 128, 256, 512]
    for convolution in convolutions:
        hidden = nn.functional.conv2d(hidden, convolution.weight, convolution.bias, stride=2, padding=1)
        hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    features = nn.functional.avg_pool2d(hidden, 20).flatten(1)
    score, found = made(pair)
    assert torch.allclose(found, features, atol=1e-5)
    assert torch.allclose(score, made.score(features).sigmoid()[:, 0], atol=1e-6)
    assert score.shape == (2,)


def test_its_dropout_makes_the_score_random_in_training_alone() -> None:
    made, pair = Discriminator(2, dropout=0.5), torch.rand(4, 5, 32, 32)
    assert not torch.equal(made(pair)[0], made(pair)[0])
    made.eval()
    assert torch.equal(made(pair)[0], made(pair)[0])
    dropped = [layer for layer in made.layers if isinstance(layer, nn.Dropout2d)]
    assert [layer.p for layer in dropped] == [0.5] * 3


def test_score_and_features_stay_float32_under_autocast() -> None:
    made = Discriminator(2, dropout=0.0)
    with torch.no_grad():
        made.score.weight.zero_()
        made.score.bias.fill_(9.0)
        with torch.autocast("cpu", torch.bfloat16):
            score, features = made(torch.rand(2, 5, 32, 32))
    assert score.dtype == features.dtype == torch.float32
    # bfloat16 has no number between this and 1.
    assert torch.allclose(score, torch.tensor(9.0).sigmoid()) and bool((score < 1).all())


@given(images, st.sampled_from(["batch_minmax", "per_image_minmax"]))
@settings(deadline=None, max_examples=60)
def test_images_are_scaled_to_the_unit_range(image: Tensor, norm: str) -> None:
    found = unit_range(image, norm)  # type: ignore[arg-type]
    groups = found.flatten(1) if norm == "per_image_minmax" else found.flatten().unsqueeze(0)
    spread = (image.flatten(1) if norm == "per_image_minmax" else image.flatten().unsqueeze(0)).aminmax(dim=1)
    for group, low, high in zip(groups, spread.min, spread.max, strict=True):
        assert group.min() == 0
        if high - low > 1e-3:
            assert group.max() == pytest.approx(1, abs=1e-6)
        elif high == low:
            assert group.max() == 0


@given(images)
@settings(deadline=None, max_examples=30)
def test_scaling_each_image_ignores_its_own_brightness_and_the_other_images(image: Tensor) -> None:
    spread = image.flatten(1).amax(1) - image.flatten(1).amin(1)
    image = image[spread > 0.25]
    if not len(image):
        return
    alone = unit_range(image[:1], "per_image_minmax")
    assert torch.allclose(unit_range(3 * image + 1, "per_image_minmax")[:1], alone, atol=1e-4)


def test_legacy_divides_by_the_range_of_the_other_batch() -> None:
    image, other = torch.tensor([2.0, 6.0]).view(1, 1, 2), torch.tensor([-1.0, 1.0]).view(1, 1, 2)
    assert unit_range(image, "legacy", other).flatten().tolist() == [0.0, 2.0]
    with pytest.raises(ValueError, match="other=None"):
        unit_range(image, "legacy")


def test_padding_shows_neither_label_nor_prediction() -> None:
    valid = torch.tensor([[[True, False]]])
    pair = shown(torch.ones(1, 2, 1, 2), torch.full((1, 3, 1, 2), 0.5), valid)
    assert pair[0, :, 0, 0].tolist() == [1, 1, 0.5, 0.5, 0.5] and pair[0, :, 0, 1].tolist() == [0, 0, 0.5, 0.5, 0.5]


def test_the_atrous_head_sums_all_its_branches() -> None:
    torch.manual_seed(0)
    head = AtrousSum(6, 3, stride=8)
    features = torch.randn(2, 6, 5, 5)
    total = torch.zeros(2, 3, 5, 5)
    for branch, rate in zip(head.branches, (6, 12, 18, 24), strict=True):
        assert isinstance(branch, nn.Conv2d)
        total = total + nn.functional.conv2d(features, branch.weight, branch.bias, padding=rate, dilation=rate)
    corners = head(features)[..., [0, -1]][..., [0, -1], :]
    assert torch.allclose(corners, total[..., [0, -1]][..., [0, -1], :], atol=1e-5)
    assert head(features).shape == (2, 3, 40, 40)
