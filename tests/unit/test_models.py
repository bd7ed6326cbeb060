"""Networks: any image size, every head its own, and refusals that name what does not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainable.errors import ConfigError, WeightsUnavailable
from trainable.models import STRIDE, segmenter

SMALL = "tu-test_resnet"


@pytest.mark.parametrize("architecture", ["deeplabv3plus", "unet", "fpn"])
@pytest.mark.parametrize("size", [(33, 64), (40, 72), (64, 64)])
def test_an_image_of_any_size_gives_the_logits_of_the_padded_one(architecture: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = segmenter(architecture, SMALL, None, 3).eval()
    image = torch.randn(1, 3, *size)
    padded = torch.zeros(1, 3, size[0] + -size[0] % STRIDE, size[1] + -size[1] % STRIDE)
    padded[..., : size[0], : size[1]] = image
    with torch.no_grad():
        logits = net(image)
        expected = net(padded)[..., : size[0], : size[1]]
    assert logits.shape == (1, 3, *size)
    assert torch.equal(logits, expected)


def test_heads_start_from_weights_of_their_own_and_the_network_is_their_mean() -> None:
    torch.manual_seed(0)
    net = segmenter("unet", SMALL, None, 3, num_heads=3).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        heads, mean = net.head_logits(image), net(image)
    assert heads.shape == (3, 1, 3, 32, 32)
    assert not torch.allclose(heads[0], heads[1]) and not torch.allclose(heads[1], heads[2])
    assert torch.allclose(mean, heads.mean(0))


@pytest.mark.parametrize(("stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
def test_deeplabv3plus_looks_as_far_as_its_stride_allows(stride: int, rates: list[int]) -> None:
    net = segmenter("deeplabv3plus", "resnet18", None, 3, output_stride=stride).eval()
    with torch.no_grad():
        features = net.encode(torch.zeros(1, 3, 64, 64))
        logits = net.decode(features, (64, 64))
    assert features[-1].shape[2:] == (64 // stride, 64 // stride) and logits.shape == (1, 1, 3, 64, 64)
    wide = [m.dilation[0] for m in net.decoder.modules() if isinstance(m, nn.Conv2d) and m.dilation[0] > 1]
    assert wide == rates


def test_dpt_takes_a_vision_transformer_with_patches_that_do_not_divide_the_image() -> None:
    torch.manual_seed(0)
    net = segmenter("dpt", "tu-test_vit", None, 3).eval()
    image = torch.randn(1, 3, 70, 33)
    with torch.no_grad():
        features = net.encode(image)
        logits = net.decode(features, image.shape[2:])
    assert all(f.ndim == 4 and f.shape[2:] == (6, 4) for f in features)
    assert logits.shape == (1, 1, 3, 70, 33)


@pytest.mark.parametrize(("architecture", "encoder"), [("dpt", SMALL), ("unetplusplus", "mit_b0")])
def test_an_encoder_that_does_not_fit_is_refused_by_name(architecture: str, encoder: str) -> None:
    with pytest.raises(ConfigError, match=encoder):
        segmenter(architecture, encoder, None, 3)


def test_the_plain_unet_has_four_levels_of_its_width_and_many_heads() -> None:
    torch.manual_seed(0)
    net = segmenter("plain_unet", "width4", None, 3, num_heads=2, head_dropout=0.0).eval()
    levels = net.encode(torch.rand(1, 3, 40, 50))
    assert [(f.shape[1], *f.shape[2:]) for f in levels] == [
        (4, 64, 64), (8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)
    ]  # fmt: skip
    assert net(torch.rand(1, 3, 40, 50)).shape == (1, 3, 40, 50)
    assert not any(module.bias is None for module in net.modules() if isinstance(module, nn.Conv2d))


def test_the_plain_unet_takes_a_width_and_no_pretrained_weights() -> None:
    with pytest.raises(ConfigError, match="'plain_unet' must go with a width, such as width64, but got encoder='res"):
        segmenter("plain_unet", "resnet18", None, 2)
    with pytest.raises(ConfigError, match="'unet' must go with the encoder, but got encoder='width64'"):
        segmenter("unet", "width64", None, 2)
    with pytest.raises(WeightsUnavailable, match="set encoder_weights: null"):
        segmenter("plain_unet", "width4", "imagenet", 2)
