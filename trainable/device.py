"""What a device is, can do and has used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import torch

from trainable.processes import peak_resident_mb


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device computes bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def autocast(
    amp: Literal["auto", "bf16", "off"], device: torch.device
) -> Callable[[], AbstractContextManager[Any]]:
    """The context of a forward pass: bf16 autocast, or nothing.

    >>> autocast("off", torch.device("cpu")) is nullcontext
    True
    """
    if amp == "off" or (amp == "auto" and not bf16_is_fast(device)):
        return nullcontext
    return partial(torch.autocast, device.type, torch.bfloat16)


def device_name(device: torch.device) -> str:
    """The name that the table shows, for example `cpu` or the GPU's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory_mb(device: torch.device) -> float | None:
    """Most memory so far in MB: allocated on a GPU, resident on the CPU; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return peak_resident_mb()
