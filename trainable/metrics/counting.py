"""Counting on the device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor

# Adding ones to a handful of bins makes every thread of a GPU queue for the same few addresses; neighboring
# elements therefore count in copies of the bins, which are added up at the end. Many bins need no copies.
_CELLS = 4096
_MOST_COPIES = 64


def count_bins(index: Tensor, num_bins: int) -> Tensor:
    """Count how often each bin occurs.

    `torch.bincount` reads its largest element back to the host; this does not, and it is exact and
    independent of the order of the elements.

    Args:
        index: int[*], each in [0, num_bins).
        num_bins: the number of bins.

    Returns:
        int64[num_bins]; all 0 for an empty `index`.

    >>> count_bins(torch.tensor([0, 2, 2]), 4).tolist()
    [1, 0, 2, 0]
    """
    flat = index.reshape(-1).long()
    copies = max(1, min(_MOST_COPIES, _CELLS // max(num_bins, 1)))
    lane = torch.arange(flat.numel(), device=flat.device) % copies
    bins = torch.zeros(num_bins * copies, dtype=torch.int64, device=flat.device)
    bins.scatter_add_(0, flat * copies + lane, torch.ones_like(flat))
    return bins.view(num_bins, copies).sum(1)


def count_classes(label: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Count the masked elements of each class.

    Args:
        label: int[*]; values outside [0, num_classes) are not counted.
        mask: bool[*], of the same shape; what counts.
        num_classes: C.

    Returns:
        int64[C].

    >>> count_classes(torch.tensor([0, 1, 1, 255]), torch.tensor([True, True, False, True]), 2).tolist()
    [1, 1]
    """
    # Bin 0 takes what does not count, the last one labels beyond the classes.
    index = (label.long().clamp(-1, num_classes) + 1) * mask
    return count_bins(index, num_classes + 2)[1:-1]
