"""The running average of a module, against a loop over its elements."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainable import ema
from trainable.schedules import ema_decay


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))
    net(torch.randn(3, 1, 4, 4))
    return net


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 1_000), st.floats(0.0, 1.0), st.sampled_from(["average", "copy", "keep"]), st.booleans()
)
def test_update_averages_every_element(seed: int, decay: float, buffers: str, as_tensor: bool) -> None:
    source, average = network(seed), ema.copy_of(network(seed + 1))
    before = copy.deepcopy(average.state_dict())
    given_decay = torch.tensor(decay, dtype=torch.float32) if as_tensor else decay
    ema.update(average, source, given_decay, buffers=buffers)
    parameters = dict(average.named_parameters())
    for name, value in average.state_dict().items():
        new = source.state_dict()[name]
        mean = decay * before[name].double() + (1 - decay) * new.double()
        if name in parameters:
            expected = mean
        elif not value.is_floating_point() or buffers == "copy":
            expected = new.double()
        else:
            expected = mean if buffers == "average" else before[name].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_decay_zero_copies_and_decay_one_keeps_to_the_bit() -> None:
    source, average = network(0), ema.copy_of(network(1))
    before = copy.deepcopy(average)
    ema.update(average, source, 1.0, buffers="keep")
    for mine, old in zip(average.parameters(), before.parameters(), strict=True):
        assert torch.equal(mine, old)
    ema.update(average, source, ema_decay(0, 0.999))
    for mine, new in zip(average.state_dict().values(), source.state_dict().values(), strict=True):
        assert torch.equal(mine, new)


def test_copy_is_frozen_in_evaluation_mode_and_leaves_its_source_alone() -> None:
    source = network(0).train()
    source(torch.randn(2, 1, 4, 4)).sum().backward()
    average = ema.copy_of(source)
    assert source.training
    assert all(p.requires_grad and p.grad is not None for p in source.parameters())
    assert not any(module.training for module in average.modules())
    assert not any(p.requires_grad or p.grad is not None for p in average.parameters())
    ema.update(average, network(1), 0.5)
    assert not torch.equal(next(iter(average.parameters())), next(iter(source.parameters())))


def test_a_source_in_low_precision_loses_nothing_of_the_average() -> None:
    source, average = nn.Linear(4, 4).bfloat16(), ema.copy_of(nn.Linear(4, 4))
    before = average.weight.detach().clone()
    ema.update(average, source, 0.999)
    expected = 0.999 * before + 0.001 * source.weight.detach().float()
    assert average.weight.dtype == torch.float32
    torch.testing.assert_close(average.weight.detach(), expected)


def test_modules_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="same names, but got"):
        ema.update(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.9)
    with pytest.raises(ValueError, match="one shape in both modules, but got"):
        ema.update(nn.Linear(2, 2), nn.Linear(3, 2), 0.9)
    with pytest.raises(ValueError, match="buffers must be"):
        ema.update(nn.Linear(2, 2), nn.Linear(2, 2), 0.9, buffers="drop")
