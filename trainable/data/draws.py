"""Random numbers, smooth noise and shapes for generated scenes, the same on every machine.

Only the raw words of Philox and the four correctly rounded operations and square roots are used: no sines, no
exponentials, no fused kernels, whose last bits differ between machines. Shapes are filled with whole numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Point = tuple[float, float]
"""(x, y) in pixels."""

_FINE = 16
"""Corners are rounded to sixteenths of a pixel, so that a shape is filled by whole numbers alone."""

Choice = TypeVar("Choice")


class Draws:
    """An endless row of random numbers, one row per seed and name.

    Args:
        seed: any whole number.
        name: another name, other numbers.

    >>> Draws(0, "a").number() == Draws(0, "a").number()
    True
    """

    def __init__(self, seed: int, name: str) -> None:
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        key = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
        self._words = np.random.Philox(key=np.array(key, np.uint64))
        self._ahead: list[float] = []

    def numbers(self, *shape: int) -> npt.NDArray[np.float64]:
        """Uniform in [0, 1)."""
        words = np.asarray(self._words.random_raw(int(np.prod(shape, dtype=np.int64))), np.uint64)
        return ((words >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)

    def number(self, low: float = 0.0, high: float = 1.0) -> float:
        """Uniform in [low, high)."""
        if not self._ahead:
            self._ahead = self.numbers(512).tolist()
        return low + (high - low) * self._ahead.pop()

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.number() * (high - low + 1))

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """One of several."""
        return choices[self.whole(0, len(choices) - 1)]

    def order(self, count: int) -> list[int]:
        """A permutation of 0 .. count - 1."""
        return [int(place) for place in np.argsort(self.numbers(count), kind="stable")]

    def bells(self, *shape: int) -> F32:
        """Nearly normal numbers of mean 0 and deviation 1: the sum of three uniform ones, times 2."""
        total = self.numbers(*shape) + self.numbers(*shape) + self.numbers(*shape)
        return ((total - 1.5) * 2.0).astype(np.float32)

    def direction(self) -> Point:
        """A unit vector."""
        x, y = self.number(-1, 1), self.number(-1, 1)
        length = float(np.sqrt(x * x + y * y))
        return (x / length, y / length) if length > 1e-3 else (1.0, 0.0)


def smooth_noise(draws: Draws, height: int, width: int, cell: int) -> F32:
    """Noise in [0, 1] that changes over about `cell` pixels: a lattice, blended by 3 t^2 - 2 t^3.

    Returns:
        `float32[height, width]`.
    """
    lattice = draws.numbers(height // cell + 2, width // cell + 2).astype(np.float32)
    (rows, ty), (columns, tx) = (_blend(size, cell) for size in (height, width))
    across = lattice[:, columns] + (lattice[:, columns + 1] - lattice[:, columns]) * tx
    noise: F32 = across[rows] + (across[rows + 1] - across[rows]) * ty[:, None]
    return noise


def rough_noise(draws: Draws, height: int, width: int, cell: int, octaves: int = 4) -> F32:
    """Noise in [0, 1] with details at `cell`, `cell` / 2, ... pixels, each half as strong.

    Returns:
        `float32[height, width]`.
    """
    total = np.zeros((height, width), np.float32)
    weight, weights = 1.0, 0.0
    for octave in range(octaves):
        size = max(2, cell >> octave)
        total += smooth_noise(draws, height, width, size) * np.float32(weight)
        weights += weight
        weight /= 2
    return total / np.float32(weights)


def _blend(size: int, cell: int) -> tuple[npt.NDArray[np.int64], F32]:
    position = np.arange(size)
    whole = position // cell
    t = ((position - whole * cell) / cell).astype(np.float32)
    return whole, t * t * (np.float32(3) - np.float32(2) * t)


def fill(target: npt.NDArray[np.uint8], corners: Sequence[Point], value: int) -> None:
    """Fill a convex shape.

    Args:
        target: `uint8[H, W]`, written to.
        corners: around the shape, either way.
        value: written inside.
    """
    covered = cover(target.shape, corners)
    if covered is not None:
        rows, columns, inside = covered
        target[rows, columns][inside] = value


def cover(shape: tuple[int, ...], corners: Sequence[Point]) -> tuple[slice, slice, Bools] | None:
    """The pixels whose centers lie in a convex shape or on its rim.

    Args:
        shape: (H, W) of the picture.
        corners: around the shape, either way.

    Returns:
        Rows, columns, and `bool` of that size; None outside the picture.
    """
    xs = np.array([round(x * _FINE) for x, _ in corners], np.int64)
    ys = np.array([round(y * _FINE) for _, y in corners], np.int64)
    left, right = max(0, int(xs.min()) // _FINE), min(shape[1] - 1, int(xs.max()) // _FINE + 1)
    top, bottom = max(0, int(ys.min()) // _FINE), min(shape[0] - 1, int(ys.max()) // _FINE + 1)
    if left > right or top > bottom:
        return None
    x = np.arange(left, right + 1, dtype=np.int64)[None, :] * _FINE
    y = np.arange(top, bottom + 1, dtype=np.int64)[:, None] * _FINE
    sides = [
        (xs[i - 1] - xs[i]) * (y - ys[i]) - (ys[i - 1] - ys[i]) * (x - xs[i]) for i in range(len(corners))
    ]
    inside = np.logical_and.reduce([side >= 0 for side in sides])
    inside |= np.logical_and.reduce([side <= 0 for side in sides])
    return slice(top, bottom + 1), slice(left, right + 1), inside


def fill_star(target: npt.NDArray[np.uint8], center: Point, corners: Sequence[Point], value: int) -> None:
    """Fill a shape whose every corner is seen from its center, as triangles."""
    for i in range(len(corners)):
        fill(target, (center, corners[i - 1], corners[i]), value)


def fill_path(target: npt.NDArray[np.uint8], path: Sequence[Point], width: float, value: int) -> None:
    """Fill a path of a width, with eight-sided joints.

    Args:
        target: `uint8[H, W]`, written to.
        path: points in order.
        width: in pixels.
        value: written inside.
    """
    half = width / 2
    cut = half * 0.4142135623730951
    for (x0, y0), (x1, y1) in zip(path, path[1:], strict=False):
        length = float(np.sqrt((x1 - x0) * (x1 - x0) + (y1 - y0) * (y1 - y0)))
        if length == 0:
            continue
        nx, ny = -(y1 - y0) / length * half, (x1 - x0) / length * half
        fill(target, ((x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)), value)
    for x, y in path[1:-1]:
        octagon = ((-cut, -half), (cut, -half), (half, -cut), (half, cut), (cut, half), (-cut, half), (-half, cut),
                   (-half, -cut))  # fmt: skip
        fill(target, [(x + dx, y + dy) for dx, dy in octagon], value)


def around(draws: Draws, center: Point, radius: float, corners: int) -> list[Point]:
    """Corners of an uneven blob around a center, in order, at 0.6 to 1.25 of the radius.

    The directions are those of a regular polygon's corners on a square's rim, scaled to unit length.
    """
    found = []
    for place in range(corners):
        t = (place + draws.number(-0.3, 0.3)) / corners * 8
        side, along = int(t // 2) % 4, t % 2 - 1
        x, y = ((along, -1.0), (1.0, along), (-along, 1.0), (-1.0, -along))[side]
        scale = radius * draws.number(0.6, 1.25) / float(np.sqrt(x * x + y * y))
        found.append((center[0] + x * scale, center[1] + y * scale))
    return found
