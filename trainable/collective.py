"""What the workers of one run do together: averages and sums over all of them, each in one message."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def average(tensors: Sequence[Tensor], world_size: int) -> None:
    """Replace each tensor by its mean over the workers.

    Args:
        tensors: floating point, the same shapes and order on every worker; changed in place.
        world_size: number of workers; with one nothing is sent.

    >>> alone = torch.ones(2)
    >>> average([alone], 1)
    >>> alone
    tensor([1., 1.])
    """
    if world_size == 1 or not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat.div_(world_size)
    parts = torch.split(flat, [t.numel() for t in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def total(tensor: Tensor, world_size: int) -> Tensor:
    """The sum of a tensor over the workers, which is left as it is.

    >>> total(torch.ones(2), 1)
    tensor([1., 1.])
    """
    if world_size == 1:
        return tensor
    summed = tensor.clone()
    dist.all_reduce(summed)
    return summed


def largest(tensor: Tensor, world_size: int) -> Tensor:
    """The largest value of each entry over the workers; the tensor is left as it is.

    >>> largest(torch.ones(2), 1)
    tensor([1., 1.])
    """
    if world_size == 1:
        return tensor
    found = tensor.clone()
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found


def first_of(record: Mapping[str, float | None], device: torch.device, world_size: int) -> dict[str, float | None]:
    """The first worker's numbers, on every worker.

    Args:
        record: numbers by name, of the same names on every worker; None stays None.
        device: that the workers send from. world_size: number of workers.

    >>> first_of({"val/miou": 0.5, "val/auc": None}, torch.device("cpu"), 1)
    {'val/miou': 0.5, 'val/auc': None}
    """
    if world_size == 1:
        return dict(record)
    numbers = [math.nan if value is None else value for value in record.values()]
    sent = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.broadcast(sent, 0)
    return {n: None if math.isnan(v) else v for n, v in zip(record, sent.tolist(), strict=True)}
