"""Random streams that depend on (seed, stream, step) alone, so that nothing random needs saving."""

from __future__ import annotations

import zlib

import numpy as np


def stream_rng(seed: int, stream: str, step: int) -> np.random.Generator:
    """The generator of one stream at one step, counter-based (Philox).

    Args:
        seed: the run's seed, at least 0.
        stream: its name, for example `order/labeled`; different names never share numbers.
        step: at least 0.

    >>> a, b = stream_rng(0, "order", 5), stream_rng(0, "order", 5)
    >>> bool(a.random() == b.random())
    True
    """
    return np.random.Generator(
        np.random.Philox(key=[seed, zlib.crc32(stream.encode())], counter=[0, 0, 0, step])
    )


def stream_seed(seed: int, stream: str, step: int) -> int:
    """A 63-bit seed for a torch generator of one stream at one step.

    >>> stream_seed(0, "dropout", 1) == stream_seed(0, "dropout", 1)
    True
    """
    return int(stream_rng(seed, stream, step).integers(2**63 - 1))
