"""One generated aerial photo: where things lie, drawn once as labels and once as they really are.

The labels are polygons, as an annotator draws them; on the ground the same borders of fields, woods and water are
ragged. Roads are thin, buildings cast shadows, and one class is rare.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trainable.data.draws import (
    Draws,
    Point,
    around,
    cover,
    fill,
    fill_path,
    fill_star,
    rough_noise,
    smooth_noise,
)

CLASS_NAMES = ("background", "water", "building", "road", "tree", "crop", "bare")
CLASS_COLORS = (
    (90, 90, 90), (30, 110, 200), (200, 40, 40), (250, 230, 60), (20, 120, 50), (150, 220, 90), (190, 130, 70),
)  # fmt: skip
BACKGROUND, WATER, BUILDING, ROAD, TREE, CROP, BARE = range(7)

_PARCEL_PX = 76
_RARE_SHARE = 0.0145
_RAGGED_PX = 3.5
_SINGLE_TREES_PER_PX = 1 / 1100


@dataclass
class Scene:
    """The ground of one photo.

    Attributes:
        labels: `uint8[H, W]` class ids as annotated.
        truth: `uint8[H, W]` class ids as they look.
        parcel: `int64[H, W]` number of the parcel that a pixel lies in.
        parcel_class: class id by parcel.
        height: `uint8[H, W]` pixels that a thing's shadow reaches, 0 on the ground.
        roof: `uint8[H, W]`, 0 where there is no building, else 2 x kind + 1, plus 1 on the shaded half.
        main_road: `uint8[H, W]`, 1 on paved roads.
    """

    labels: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    parcel: npt.NDArray[np.int64]
    parcel_class: list[int]
    height: npt.NDArray[np.uint8]
    roof: npt.NDArray[np.uint8]
    main_road: npt.NDArray[np.uint8]
    roads: list[list[Point]] = field(default_factory=list)


def make_scene(draws: Draws, height: int, width: int) -> Scene:
    """Draw one photo's ground.

    Args:
        draws: random numbers of this photo.
        height: rows.
        width: columns.
    """
    parcel, parcel_class = _parcels(draws, height, width)
    labels = np.array(parcel_class, np.uint8)[parcel]
    blank = np.zeros((height, width), np.uint8)
    scene = Scene(labels, labels, parcel, parcel_class, blank.copy(), blank.copy(), blank.copy())
    _woods(draws, scene)
    _rare(draws, scene)
    _waters(draws, scene)
    scene.truth = _ragged(draws, scene.labels)
    _single_trees(draws, scene)
    _roads(draws, scene)
    _buildings(draws, scene)
    scene.height[(scene.truth == TREE)] = np.maximum(scene.height[scene.truth == TREE], 3)
    return scene


def _parcels(draws: Draws, height: int, width: int) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Fields: every pixel belongs to the nearest of some scattered centers, so that borders are straight."""
    rows, columns = max(2, round(height / _PARCEL_PX)), max(2, round(width / _PARCEL_PX))
    jitter = draws.numbers(rows, columns, 2) * 1.1 - 0.05
    ys = ((np.arange(rows)[:, None] + jitter[..., 0]) * height / rows).astype(np.int64).ravel()
    xs = ((np.arange(columns)[None, :] + jitter[..., 1]) * width / columns).astype(np.int64).ravel()
    stretch = draws.whole(5, 11)
    best = np.full((height, width), np.iinfo(np.int64).max)
    nearest = np.zeros((height, width), np.int64)
    # The nearest center is never two cells away, so each is compared with the pixels around it only.
    reach = 2 * max(height // rows, width // columns) + 2
    for number, (cy, cx) in enumerate(zip(ys.tolist(), xs.tolist(), strict=True)):
        near = slice(max(0, cy - reach), max(0, cy + reach)), slice(max(0, cx - reach), max(0, cx + reach))
        dy = np.arange(height, dtype=np.int64)[near[0], None] - cy
        dx = np.arange(width, dtype=np.int64)[None, near[1]] - cx
        distance = dy * (dx * (stretch - 8)) + dy * dy * 8 + dx * dx * stretch
        closer = distance < best[near]
        best[near][closer] = distance[closer]
        nearest[near][closer] = number
    farmed = draws.number(0.25, 0.6)
    wooded = draws.number(0.05, 0.2)
    chances = draws.numbers(len(ys))
    kinds = [CROP if c < farmed else TREE if c < farmed + wooded else BACKGROUND for c in chances.tolist()]
    return nearest, kinds


def _woods(draws: Draws, scene: Scene) -> None:
    height, width = scene.labels.shape
    for _ in range(max(1, round(height * width / 30000))):
        center = draws.number(0, width), draws.number(0, height)
        fill_star(scene.labels, center, around(draws, center, draws.number(9, 26), draws.whole(7, 11)), TREE)


def _rare(draws: Draws, scene: Scene) -> None:
    """Bare soil and small quarries: about one pixel in a hundred."""
    height, width = scene.labels.shape
    left = max(_RARE_SHARE * height * width * draws.number(0.6, 1.4), 90.0)
    while left > 60:
        radius = min(draws.number(8, 20), float(np.sqrt(left / 2.4)) + 1)
        center = draws.number(0, width), draws.number(0, height)
        fill_star(scene.labels, center, around(draws, center, radius, draws.whole(6, 9)), BARE)
        left -= 2.4 * radius * radius


def _waters(draws: Draws, scene: Scene) -> None:
    height, width = scene.labels.shape
    if draws.number() < 0.6:
        fill_path(scene.labels, _crossing(draws, height, width, 5, 0.16), draws.number(16, 36), WATER)
    for _ in range(draws.whole(1, 3)):
        center = draws.number(0, width), draws.number(0, height)
        fill_star(scene.labels, center, around(draws, center, draws.number(18, 46), draws.whole(8, 13)), WATER)


def _crossing(draws: Draws, height: int, width: int, pieces: int, bend: float) -> list[Point]:
    """A path from one side to the opposite one."""
    level = draws.number(0.15, 0.85)
    slope = draws.number(-0.3, 0.3)
    upright = draws.number() < 0.5
    path = []
    for piece in range(pieces + 1):
        along = piece / pieces
        across = level + slope * (along - 0.5) + draws.number(-bend, bend) * 0.5
        along = along * 1.1 - 0.05
        path.append((across * width, along * height) if upright else (along * width, across * height))
    return path


def _ragged(draws: Draws, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The same cover with uneven borders: each pixel looks up its class a few pixels away."""
    height, width = labels.shape
    reach = np.float32(4.4 * _RAGGED_PX)
    shifts = [(rough_noise(draws, height, width, 12, 3) - np.float32(0.5)) * reach for _ in range(2)]
    y = np.arange(height)[:, None] + np.rint(shifts[0]).astype(np.int64)
    x = np.arange(width)[None, :] + np.rint(shifts[1]).astype(np.int64)
    ragged: npt.NDArray[np.uint8] = labels[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return ragged


def _single_trees(draws: Draws, scene: Scene) -> None:
    """Bushes that no annotator draws."""
    height, width = scene.labels.shape
    for _ in range(round(height * width * _SINGLE_TREES_PER_PX * draws.number(0.3, 1.2))):
        center = draws.number(0, width), draws.number(0, height)
        if scene.truth[int(center[1]), int(center[0])] == BACKGROUND:
            fill_star(scene.truth, center, around(draws, center, draws.number(1.2, 3.2), 6), TREE)


def _roads(draws: Draws, scene: Scene) -> None:
    height, width = scene.labels.shape
    for number in range(draws.whole(3, 4) * max(1, round(max(height, width) / 512))):
        paved = number == 0 or draws.number() < 0.4
        path = _crossing(draws, height, width, 3 if paved else 5, 0.05 if paved else 0.2)
        road_width = draws.number(7, 10) if number == 0 else draws.number(3.2, 5)
        scene.roads.append(path)
        for target in (scene.labels, scene.truth):
            fill_path(target, path, road_width, ROAD)
        if paved:
            fill_path(scene.main_road, path, road_width, 1)


def _buildings(draws: Draws, scene: Scene) -> None:
    height, width = scene.labels.shape
    wanted = round(height * width / draws.number(2600, 5500))
    taken = np.isin(scene.labels, (ROAD, WATER)).astype(np.uint8)
    for _ in range(wanted * 3):
        center, along = _beside_road(draws, scene, height, width)
        half = draws.number(4.5, 10), draws.number(5, 15)
        corners = _box(center, along, half)
        room = cover(taken.shape, _box(center, along, (half[0] + 2.5, half[1] + 2.5)))
        if room is None or taken[room[0], room[1]][room[2]].any():
            continue
        kind, tall = draws.whole(0, 4), draws.whole(3, 8)
        taken[room[0], room[1]][room[2]] = 1
        for target in (scene.labels, scene.truth):
            fill(target, corners, BUILDING)
        fill(scene.height, corners, tall)
        fill(scene.roof, corners, 2 * kind + 1)
        fill(scene.roof, (*corners[:2], *_middle(corners)), 2 * kind + 2)
        wanted -= 1
        if wanted == 0:
            return


def _beside_road(draws: Draws, scene: Scene, height: int, width: int) -> tuple[Point, Point]:
    """A place for a building, most often along a road, and the direction of its walls."""
    if draws.number() < 0.15:
        return (draws.number(0, width), draws.number(0, height)), draws.direction()
    path = draws.pick(scene.roads)
    piece = draws.whole(0, len(path) - 2)
    (x0, y0), (x1, y1) = path[piece], path[piece + 1]
    length = float(np.sqrt((x1 - x0) * (x1 - x0) + (y1 - y0) * (y1 - y0))) or 1.0
    along = (x1 - x0) / length, (y1 - y0) / length
    # Squared, so that villages crowd at one end of a piece and thin out along it.
    t, side = draws.number() * draws.number(), draws.pick((-1.0, 1.0)) * draws.number(11, 34)
    return (x0 + t * (x1 - x0) - along[1] * side, y0 + t * (y1 - y0) + along[0] * side), along


def _box(center: Point, along: Point, half: Point) -> list[Point]:
    (x, y), (ux, uy), (a, b) = center, along, half
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    return [(x + ux * a * i - uy * b * j, y + uy * a * i + ux * b * j) for i, j in signs]


def _middle(corners: list[Point]) -> tuple[Point, Point]:
    """The ridge: halfway between the first two corners and the last two, in the order that closes the shape."""
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = corners
    return ((x1 + x2) / 2, (y1 + y2) / 2), ((x0 + x3) / 2, (y0 + y3) / 2)


def crowns(draws: Draws, height: int, width: int) -> npt.NDArray[np.float32]:
    """Light and dark of tree crowns, `float32[height, width]` in about [-1, 1]: small bumps lit from one side."""
    bumps = smooth_noise(draws, height, width, 4) + np.float32(0.5) * smooth_noise(draws, height, width, 9)
    lit = bumps - np.roll(np.roll(bumps, 1, axis=0), 1, axis=1)
    return lit * np.float32(2.2) + (bumps - np.float32(0.75)) * np.float32(0.8)
