"""What is done to a mask before its surface is scored: small parts go, small holes are closed."""

from __future__ import annotations

from typing import Literal

import cc3d
import numpy as np
from numpy.typing import NDArray


def clean_mask(mask: NDArray[np.bool_], *, min_component: int = 0, max_hole: int = 0) -> NDArray[np.bool_]:
    """Drop parts below one size and fill holes up to another.

    Args:
        mask: bool[*S], two or three axes.
        min_component: voxels that a part must have to stay; parts join over faces, edges and corners.
        max_hole: voxels that a hole may have to be filled; a hole is a part of the background, joined over faces alone,
            that does not reach the rim.

    Returns:
        bool[*S], a copy.

    >>> clean_mask(np.array([[1, 0, 0, 1, 1]], dtype=bool), min_component=2).astype(int).tolist()
    [[0, 0, 0, 1, 1]]
    """
    cleaned = mask.astype(bool)
    if min_component > 1:
        full: Literal[8, 26] = 26 if mask.ndim == 3 else 8
        cleaned = cc3d.dust(cleaned.astype(np.uint8), threshold=min_component, connectivity=full).astype(bool)
    if max_hole < 1:
        return cleaned.copy()
    faces: Literal[4, 6] = 6 if mask.ndim == 3 else 4
    parts = cc3d.connected_components((~cleaned).astype(np.uint8), connectivity=faces)
    sizes = np.bincount(parts.ravel())
    small = sizes <= max_hole
    small[0] = False
    for axis in range(parts.ndim):
        for end in (0, -1):
            small[np.unique(parts.take(end, axis))] = False
    filled: NDArray[np.bool_] = cleaned | small[parts]
    return filled
