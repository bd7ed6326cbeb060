"""Label masks as they are stored: numbers or colors, not interpreted yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trainable.data.arrays import load_array
from trainable.data.files import UInt8, refuse, require_file
from trainable.data.images import opaque, opened_mask, raw_mode

Family = Literal["rgb", "palette", "gray"]

# Pillow spreads 2- and 4-bit gray over 0..255.
_STORED_BITS = {"L;2": 2, "L;4": 4}


@dataclass(frozen=True)
class RawMask:
    """A mask as it is stored.

    Attributes:
        family: `rgb`, `palette` (numbers with a color each) or `gray` (numbers that are their own gray).
        pixels: `uint8[H, W]` numbers, or `uint8[H, W, 3]` for `rgb`.
        palette: `uint8[256, 3]` colors of the numbers; unused for `rgb`.
    """

    family: Family
    pixels: UInt8
    palette: UInt8


_GRAY_PALETTE: UInt8 = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)


def read_raw(path: Path) -> RawMask:
    """Read a mask file without interpreting it.

    Raises:
        DataError: the file cannot be read, or is no mask: transparent, 16-bit with large numbers, real numbers.
    """
    if path.suffix.lower() == ".npy":
        require_file(path)
        return _from_array(path, load_array(path))
    with opened_mask(path) as image:
        mode, stored_bits = image.mode, _STORED_BITS.get(raw_mode(image), 8)
        if mode in ("P", "PA"):
            if mode == "PA":
                opaque(path, np.asarray(image.getchannel("A")))
                image = image.getchannel("P")
            return _from_palette(np.asarray(image), image.getpalette("RGB") or [])
        pixels = np.asarray(image)
        if mode == "1":
            black_white = np.zeros((256, 3), np.uint8)
            black_white[1] = 255
            return RawMask("gray", pixels.astype(np.uint8), black_white)
        if mode == "L":
            return _from_gray(pixels, stored_bits)
        if mode in ("LA", "RGBA"):
            opaque(path, pixels[..., -1])
            return _from_array(path, pixels[..., 0] if mode == "LA" else pixels[..., :3])
        if mode == "CMYK":
            raise refuse(path, "a mask must be RGB, palette or gray, but got mode=CMYK; save it as PNG")
        return _from_array(path, pixels)


def _from_gray(pixels: UInt8, stored: int) -> RawMask:
    if stored == 8:
        return RawMask("gray", pixels, _GRAY_PALETTE)
    step = 255 // (2**stored - 1)
    palette = np.zeros((256, 3), np.uint8)
    palette[: 2**stored] = _GRAY_PALETTE[::step]
    return RawMask("gray", pixels // np.uint8(step), palette)


def _from_palette(pixels: UInt8, flat: list[int]) -> RawMask:
    palette = np.zeros((256, 3), np.uint8)
    given = np.asarray(flat[:768], np.uint8).reshape(-1, 3)
    palette[: len(given)] = given
    return RawMask("gray" if bool((palette == _GRAY_PALETTE).all()) else "palette", pixels, palette)


def _from_array(path: Path, values: npt.NDArray[Any]) -> RawMask:
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.dtype.kind not in "iub":
        raise refuse(
            path, f"a mask must hold whole numbers, but got dtype={values.dtype}; save class ids as uint8"
        )
    if values.ndim == 3 and (values.shape[2] != 3 or values.dtype != np.uint8):
        raise refuse(
            path, f"a mask must be class ids (H, W) or uint8 colors (H, W, 3), but got {values.dtype}{values.shape}; "
            "save class ids as uint8"
        )  # fmt: skip
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 255:
        raise refuse(
            path,
            f"class ids must lie between 0 and 255, but got values {low} to {high}; save class ids as 8-bit PNG",
        )
    pixels: UInt8 = values.astype(np.uint8)
    return RawMask("rgb" if pixels.ndim == 3 else "gray", pixels, _GRAY_PALETTE)
