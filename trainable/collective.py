"""What the workers of one run do together: averages and sums over all of them, each in one message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from trainable.config import RecipeConfig
from trainable.errors import Fault


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


def gathered(
    noted: Mapping[int, Sequence[float | None]], places: Sequence[int], device: torch.device, world_size: int
) -> list[list[float | None]]:
    """What the workers noted of some places, each of its own share of them, on every worker.

    Args:
        noted: this worker's numbers by place, as many of each as every worker has; None where there is none.
        places: all of them, each noted by one worker.
        device: that the workers send from. world_size: number of workers.

    Returns:
        The numbers of each place, in the order of `places`.

    >>> gathered({7: (0.5, None), 3: (1.0, 2.0)}, [3, 7], torch.device("cpu"), 1)
    [[1.0, 2.0], [0.5, None]]
    """
    if world_size == 1:
        return [list(noted[place]) for place in places]
    own = torch.tensor(max(map(len, noted.values()), default=0), device=device)
    width = int(largest(own, world_size).item())
    # Each number beside a 1, none beside a 0; what others noted is 0 here, and adding that changes nothing.
    table = torch.zeros(len(places), 2, width, dtype=torch.float64)
    for row, place in enumerate(places):
        for column, value in enumerate(noted.get(place, ())):
            if value is not None:
                table[row, 0, column], table[row, 1, column] = value, 1.0
    return [
        [value if there else None for value, there in zip(*row, strict=True)]
        for row in total(table.to(device), world_size).tolist()
    ]


def uneven_batches(cfg: RecipeConfig, workers: int) -> list[Fault]:
    """What is wrong where the workers of a run cannot share its batches evenly.

    Args:
        cfg: the recipe's knobs. workers: how many.

    >>> [str(fault) for fault in uneven_batches(RecipeConfig(batch_size=6), 4)]
    ['train.batch_size: it must be a multiple of the 4 workers that share it, but got batch_size=6; take 4 or 8']
    """
    sizes = {name: getattr(cfg, name, None) for name in ("batch_size", "unlabeled_batch_size")}
    return [
        Fault(f"train.{name}", f"it must be a multiple of the {workers} workers that share it, but got {name}={size}; "
              f"take {' or '.join(str(n) for n in (size - size % workers, size - size % workers + workers) if n)}")
        for name, size in sizes.items()
        if size is not None and size % workers
    ]  # fmt: skip
