"""A running average of a module: the teacher, or the model that is evaluated.

The average is itself a module: it can be called, saved and swapped in. It stays in evaluation mode and takes
no gradient. Nothing here reads a value back to the host.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

Buffers = Literal["average", "copy", "keep"]


def copy_of(module: nn.Module) -> nn.Module:
    """Return a frozen deep copy of `module`, in evaluation mode.

    Args:
        module: the module to copy; it is left as it is.

    Returns:
        The copy; its parameters take no gradient.

    >>> teacher = copy_of(nn.Linear(2, 1))
    >>> teacher.training, any(p.requires_grad for p in teacher.parameters())
    (False, False)
    """
    average = copy.deepcopy(module)
    for parameter in average.parameters():
        parameter.grad = None
    return average.eval().requires_grad_(False)


@torch.no_grad()
def update(
    average: nn.Module, source: nn.Module, decay: float | Tensor, *, buffers: Buffers = "average"
) -> None:
    """Move the average towards its source: `a = decay * a + (1 - decay) * s` for every parameter.

    Integer buffers, such as the batch count of a batch norm, are copied. The work runs in the dtype of the
    average, so an average kept in float32 loses nothing to a source in lower precision. A decay of 0 makes an
    exact copy and a decay of 1 leaves an exact original.

    Args:
        average: the module to change, made by `copy_of`.
        source: the module of the same shape to follow.
        decay: the share of the old average that stays, in [0, 1]; a number, or `float[]` on the modules'
            device.
        buffers: what happens to floating-point buffers (running statistics): "average" treats them as
            parameters, "copy" takes the source's, "keep" leaves those of the average alone, which pairs
            averaged weights with stale statistics and exists only to reproduce systems that did so.

    Raises:
        ValueError: if the two modules' parameters or buffers differ in name or shape.

    >>> student, teacher = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = student.weight.data.fill_(1.0), teacher.weight.data.fill_(0.0)
    >>> update(teacher, student, decay=0.75)
    >>> teacher.weight.item()
    0.25

    Source: Mean Teacher (arXiv 1703.01780); averaged buffers as in UniMatch V2 (arXiv 2410.10777).
    """
    old, new = _matched(dict(average.named_parameters()), dict(source.named_parameters()))
    if buffers not in ("average", "copy", "keep"):
        raise ValueError(f"ema.update: buffers must be 'average', 'copy' or 'keep', but got {buffers=}")
    old_buffers, new_buffers = _matched(dict(average.named_buffers()), dict(source.named_buffers()))
    copied: tuple[list[Tensor], list[Tensor]] = ([], [])
    for mine, theirs in zip(old_buffers, new_buffers, strict=True):
        if not mine.is_floating_point() or buffers == "copy":
            copied[0].append(mine)
            copied[1].append(theirs)
        elif buffers == "average":
            old.append(mine)
            new.append(theirs)
    if copied[0]:
        torch._foreach_copy_(*copied)
    if old:
        new = [theirs.to(mine.dtype) for mine, theirs in zip(old, new, strict=True)]
        _blend(old, new, decay)


def _blend(old: list[Tensor], new: list[Tensor], decay: float | Tensor) -> None:
    share = 1.0 - decay
    if not isinstance(share, Tensor):
        torch._foreach_lerp_(old, new, share)
    elif share.device.type == "cpu":
        torch._foreach_lerp_(old, new, [share] * len(old))  # one pass over memory; the mul and add below take three
    else:  # a share on a GPU: lerp would launch a kernel per tensor
        torch._foreach_mul_(old, decay)
        torch._foreach_add_(old, torch._foreach_mul(new, share))


def _matched(old: dict[str, Tensor], new: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    if old.keys() != new.keys():
        odd = sorted(old.keys() ^ new.keys())[:3]
        raise ValueError(f"ema.update: both modules must have the same names, but got {odd} in only one")
    for name, mine in old.items():
        if mine.shape != new[name].shape:
            shapes = f"{tuple(mine.shape)} and {tuple(new[name].shape)}"
            raise ValueError(f"ema.update: {name} must have one shape in both modules, but got {shapes}")
    return list(old.values()), [new[name] for name in old]
