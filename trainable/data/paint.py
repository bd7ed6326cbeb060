"""How a generated photo looks: materials, shadows, light, haze and sensor, which differ from photo to photo.

The difference between photos is larger than that between some classes: a net that has seen few photos labeled
mistakes ripe fields for soil and roofs for roads elsewhere, which is what unlabeled photos can mend.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainable.data.draws import F32, Draws, rough_noise, smooth_noise
from trainable.data.scenes import BARE, BUILDING, CROP, ROAD, TREE, WATER, Scene, crowns

Rgb = tuple[float, float, float]

_GRASS: tuple[Rgb, Rgb] = ((96, 112, 70), (152, 142, 98))
_CROPS: tuple[Rgb, ...] = ((84, 134, 54), (188, 166, 82), (134, 100, 74), (64, 110, 50), (150, 160, 76))
_ROOFS: tuple[Rgb, ...] = ((150, 80, 60), (130, 130, 132), (206, 206, 200), (80, 78, 82), (120, 95, 72))
_WATERS: tuple[Rgb, ...] = ((34, 62, 80), (58, 88, 100), (74, 98, 96), (26, 46, 72))
_SOILS: tuple[Rgb, ...] = ((180, 160, 124), (160, 116, 88), (196, 184, 160))
_TREES: tuple[Rgb, ...] = ((54, 78, 46), (68, 84, 44), (44, 66, 48))
_PAVED: Rgb = (126, 126, 130)
_GRAVEL: Rgb = (184, 172, 152)


def paint(draws: Draws, scene: Scene) -> npt.NDArray[np.uint8]:
    """Render a scene as the photo of one flight.

    Args:
        draws: random numbers of this photo.
        scene: its ground.

    Returns:
        `uint8[H, W, 3]`.
    """
    ground = _materials(draws, scene)
    ground *= _shade(draws, scene)[..., None]
    return _sensed(draws, _season(draws, ground))


def _materials(draws: Draws, scene: Scene) -> F32:
    height, width = scene.truth.shape
    grain = rough_noise(draws, height, width, 16, 4) - np.float32(0.5)
    patchy = rough_noise(draws, height, width, 48, 3)
    color = _mix(_GRASS[0], _GRASS[1], np.clip(patchy * np.float32(2.4) - np.float32(0.7), 0, 1))
    color += grain[..., None] * np.float32(46)
    _put(color, scene.truth == CROP, _crops(draws, scene) + grain[..., None] * np.float32(22))
    trees = _flat(draws.pick(_TREES)) * (np.float32(1) + np.float32(0.42) * crowns(draws, height, width))[..., None]
    _put(color, scene.truth == TREE, trees)
    soil = _flat(draws.pick(_SOILS)) + (grain * np.float32(70) + (patchy - np.float32(0.5)) * np.float32(30))[..., None]
    _put(color, scene.truth == BARE, soil)
    _put(color, scene.truth == WATER, _flat(draws.pick(_WATERS)) + (patchy * np.float32(26))[..., None])
    worn = smooth_noise(draws, height, width, 10)[..., None] * np.float32(26)
    paved = (scene.main_road == 1)[..., None]
    _put(color, scene.truth == ROAD, np.where(paved, _flat(_PAVED), _flat(_GRAVEL)) + worn - np.float32(8))
    _put(color, scene.truth == BUILDING, _roofs(draws, scene))
    return color


def _crops(draws: Draws, scene: Scene) -> F32:
    """Each field its own plant, with rows in its own direction and width."""
    height, width = scene.truth.shape
    count = len(scene.parcel_class)
    ripe = draws.numbers(count, 3)
    table = np.array([_CROPS[int(value * len(_CROPS))] for value in ripe[:, 0]], np.float32)
    table += ((ripe[:, 1:2] - 0.5) * 34).astype(np.float32)
    steps = np.array([(draws.whole(-3, 3), draws.whole(1, 3), draws.whole(7, 17)) for _ in range(count)], np.int64)
    per_pixel = steps[scene.parcel]
    y, x = np.arange(height, dtype=np.int64)[:, None], np.arange(width, dtype=np.int64)[None, :]
    period = per_pixel[..., 2]
    phase = (per_pixel[..., 0] * x + per_pixel[..., 1] * y) % period
    rows = np.abs(phase * 2 - period).astype(np.float32) / period.astype(np.float32) - np.float32(0.5)
    strength = ((12 + ripe[:, 2] * 34).astype(np.float32))[scene.parcel]
    fields: F32 = table[scene.parcel] + (rows * strength)[..., None]
    return fields


def _roofs(draws: Draws, scene: Scene) -> F32:
    tint = draws.number(0.85, 1.1)
    table = np.zeros((2 * len(_ROOFS) + 1, 3), np.float32)
    for kind, roof in enumerate(_ROOFS):
        table[2 * kind + 1] = np.array(roof, np.float32) * np.float32(tint)
        table[2 * kind + 2] = np.array(roof, np.float32) * np.float32(tint * 0.78)
    height, width = scene.truth.shape
    return table[scene.roof] + (draws.bells(height, width) * np.float32(4))[..., None]


def _shade(draws: Draws, scene: Scene) -> F32:
    """Shadows that buildings and trees cast, all one way: a factor per pixel, 1 in the sun."""
    dx, dy = draws.direction()
    low_sun = draws.number(0.5, 1.5)
    shadow = np.zeros(scene.truth.shape, bool)
    for step in range(1, int(8 * low_sun) + 1):
        reaches = scene.height.astype(np.float32) * np.float32(low_sun) >= step
        shadow |= _moved(reaches, round(dx * step), round(dy * step))
    shadow &= scene.truth != BUILDING
    return np.where(shadow, np.float32(draws.number(0.42, 0.62)), np.float32(1))


def _moved(mask: npt.NDArray[np.bool_], dx: int, dy: int) -> npt.NDArray[np.bool_]:
    height, width = mask.shape
    moved = np.zeros_like(mask)
    target = slice(max(0, dy), height + min(0, dy)), slice(max(0, dx), width + min(0, dx))
    source = slice(max(0, -dy), height + min(0, -dy)), slice(max(0, -dx), width + min(0, -dx))
    moved[target] = mask[source]
    return moved


def _season(draws: Draws, color: F32) -> F32:
    """From green to dry: vegetation turns toward brown, more or less, and everything gains or loses color."""
    dry = np.float32(draws.number(0, 0.7))
    gray = (color[..., 0] + color[..., 1] + color[..., 2]) / np.float32(3)
    green = np.clip((color[..., 1] - color[..., 0]) * np.float32(0.06), 0, 1)
    brown = gray[..., None] * np.array((1.16, 1.0, 0.72), np.float32)
    color = color + (brown - color) * (green * dry)[..., None]
    vivid = np.float32(draws.number(0.65, 1.15))
    return (gray[..., None] + (color - gray[..., None]) * vivid).astype(np.float32)


def _sensed(draws: Draws, color: F32) -> npt.NDArray[np.uint8]:
    """Light, haze, white balance, blur and noise of one flight."""
    height, width, _ = color.shape
    warm, green = draws.number(-0.16, 0.16), draws.number(-0.05, 0.05)
    balance = np.array((1 + warm - green / 2, 1 + green, 1 - warm - green / 2), np.float32)
    light = np.float32(draws.number(0.72, 1.2))
    slope_x, slope_y = draws.number(-0.14, 0.14), draws.number(-0.14, 0.14)
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * np.float32(slope_x)
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(slope_y)
    color = color * balance * (light * (np.float32(1) + across + down))[..., None]
    unit = np.clip(color / np.float32(255), 0, 1)
    unit = unit + np.float32(draws.number(-0.3, 0.36)) * unit * (np.float32(1) - unit)
    haze = np.float32(draws.number(0, 0.2))
    unit = unit * (np.float32(1) - haze) + haze * np.array((0.72, 0.78, 0.86), np.float32)
    unit = _blurred(unit, np.float32(draws.number(0.15, 0.8)))
    noisy = unit + draws.bells(height, width, 3) * np.float32(draws.number(0.008, 0.03))
    picture: npt.NDArray[np.uint8] = np.rint(np.clip(noisy, 0, 1) * np.float32(255)).astype(np.uint8)
    return picture


def _blurred(image: F32, strength: np.float32) -> F32:
    """A mix of the image and its mean over 3 x 3 pixels."""
    mean = image
    for axis in (0, 1):
        before, after = np.roll(mean, 1, axis), np.roll(mean, -1, axis)
        mean = (before + mean + after) / np.float32(3)
    blurred: F32 = image + (mean - image) * strength
    return blurred


def _flat(color: Rgb) -> F32:
    return np.array(color, np.float32)


def _mix(first: Rgb, second: Rgb, share: F32) -> F32:
    a, b = _flat(first), _flat(second)
    return a + (b - a) * share[..., None]


def _put(color: F32, where: npt.NDArray[np.bool_], values: F32) -> None:
    color[where] = np.broadcast_to(values, color.shape)[where]
