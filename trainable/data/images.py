"""Pictures and arrays from files that nobody vouches for: the header first, then the pixels, or a `DataError`.

Only PNG, JPEG, TIFF, WebP and NPY are opened, whatever the name says, and never with a pickle. What cannot become
8-bit without loss is refused with the way to mend it, because a silent rescaling would differ from file to file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainable.data.arrays import array_header, array_image
from trainable.data.files import RESCALE, Header, UInt8, check_pixels, decoding, refuse, require_file

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP")

_ORIENTATION = 0x0112
_GRAY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
_GRAY = ("1", "L", "LA", *_GRAY_16)
_COLOR = ("P", "PA", "RGB", "RGBA", "CMYK")
_DEEP = ("I", "F")


def read_header(path: Path) -> Header:
    """Size and kind of a picture, without decoding it.

    Args:
        path: a regular file.

    Raises:
        DataError: the file is missing, not a picture of a known kind, too large, or of a kind that cannot be read
            without loss.
    """
    require_file(path)
    if path.suffix.lower() == ".npy":
        return array_header(path)
    with _opened(path) as image:
        return _picture_header(path, image)


def read_image(path: Path) -> UInt8:
    """Decode an image, upright, as RGB of 8 bits per channel; gray is repeated.

    Args:
        path: a regular file.

    Returns:
        `uint8[H, W, 3]`.

    Raises:
        DataError: as `read_pixels`.
    """
    pixels = read_pixels(path)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def read_pixels(path: Path) -> UInt8:
    """Decode an image, upright, as 8 bits per channel.

    Args:
        path: a regular file.

    Returns:
        `uint8[H, W, 1]` for gray and `uint8[H, W, 3]` (RGB) for color files; `Header.channels` says which.

    Raises:
        DataError: as `read_header`, or the pixels are damaged or would lose precision.
    """
    require_file(path)
    if path.suffix.lower() == ".npy":
        header = array_header(path)
        pixels = array_image(path)
    else:
        with _opened(path) as image:
            header = _picture_header(path, image)
            pixels = _turned(_picture_pixels(path, image), header.orientation)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape != (header.height, header.width, header.channels):
        raise refuse(
            path, f"pixels must have the size that the header gives, {header.width} x {header.height}, "
            f"but got {pixels.shape[1]} x {pixels.shape[0]}; save the file anew"
        )  # fmt: skip
    return np.ascontiguousarray(pixels)


@contextmanager
def opened_mask(path: Path) -> Iterator[Image.Image]:
    """Open a picture that holds labels: no EXIF turn, no alpha that hides something.

    Raises:
        DataError: as `read_header`, or the mask is turned by EXIF.
    """
    require_file(path)
    with _opened(path) as image:
        header = _picture_header(path, image)
        if header.orientation != 1:
            raise refuse(
                path, f"a mask must be stored upright, but got EXIF orientation={header.orientation}; "
                "rotate the pixels and save it without the tag"
            )  # fmt: skip
        yield image


def opaque(path: Path, alpha: UInt8) -> None:
    """Refuse transparency: what lies beneath it is not defined.

    Raises:
        DataError: some pixel is not fully opaque.
    """
    hidden = int((alpha != 255).sum())
    if hidden:
        raise refuse(
            path, f"pixels must be opaque, but got {hidden} transparent ones; flatten the picture onto a background, "
            "or paint what is to be ignored in a color listed in data.ignore"
        )  # fmt: skip


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with decoding(path), Image.open(path, formats=FORMATS) as image:
        check_pixels(path, image.height, image.width)
        yield image


def _picture_header(path: Path, image: Image.Image) -> Header:
    kind = image.format or "?"
    if kind != "MPO" and getattr(image, "n_frames", 1) > 1:
        frames = getattr(image, "n_frames", 1)
        raise refuse(path, f"a file must hold one picture, but got {frames}; save each page or section alone")
    if image.mode not in (*_GRAY, *_COLOR, *_DEEP):
        raise refuse(path, f"mode must be gray, palette or RGB, but got mode={image.mode}; convert it to RGB PNG")
    deep = _lost_bits(image)
    if deep:
        raise refuse(path, f"color files must have 8 bits per channel, but got {deep}; {RESCALE}")
    orientation = _orientation(image)
    height, width = image.height, image.width
    if orientation >= 5:
        height, width = width, height
    channels = 3 if image.mode in _COLOR else 1
    return Header(height, width, channels, kind, image.mode, orientation)


def _lost_bits(image: Image.Image) -> str:
    """Name the depth that Pillow would drop without a word, or the empty string."""
    if image.mode in (*_GRAY_16, *_DEEP):
        return ""
    if image.format == "TIFF":
        tags = cast("dict[int, Any]", getattr(image, "tag_v2", {}))
        bits = tags.get(258, (8,))
        widest = max(bits) if isinstance(bits, tuple) else int(bits)
        return f"{widest} bits" if widest > 8 else ""
    return "16 bits" if "16" in raw_mode(image) else ""


def raw_mode(image: Image.Image) -> str:
    """How Pillow says the pixels are stored ("L;4", "RGB;16B"), known only before they are decoded."""
    tiles: Any = getattr(image, "tile", None)
    if not tiles:
        return ""
    stored = tiles[0][3]
    return str(stored[0] if isinstance(stored, tuple) and stored else stored)


def _orientation(image: Image.Image) -> int:
    # Pillow turns TIFF itself while loading and swaps the size it reports. Asking a PNG without the chunk for its
    # EXIF would decode all pixels.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        value = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # A damaged EXIF block says nothing about the orientation; the pixels are still sound.
        return 1
    return value if 1 <= value <= 8 else 1


def _turned(pixels: UInt8, orientation: int) -> UInt8:
    """Apply an EXIF orientation to `uint8[H, W]` or `uint8[H, W, C]`."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _picture_pixels(path: Path, image: Image.Image) -> UInt8:
    mode = image.mode
    if mode in _GRAY_16:
        return _promoted(path, np.asarray(image))
    if mode in _DEEP:
        raise refuse(path, f"an image must have 8 bits per channel, but got mode={mode} (32 bits); {RESCALE}")
    if mode == "1":
        return np.asarray(image).astype(np.uint8) * np.uint8(255)
    if mode in ("P", "PA"):
        image = image.convert("RGBA")
    pixels: UInt8 = np.asarray(image)
    if mode == "CMYK":
        if pixels[..., 3].any():
            raise refuse(path, "CMYK with black ink has no exact RGB value, but got mode=CMYK; convert it to RGB PNG")
        return np.uint8(255) - pixels[..., :3]
    if image.mode in ("LA", "RGBA"):
        opaque(path, pixels[..., -1])
        return pixels[..., :-1] if image.mode == "RGBA" else pixels[..., 0]
    return pixels


def _promoted(path: Path, values: npt.NDArray[Any]) -> UInt8:
    """16-bit gray that is 8-bit gray times 257, as PNG defines the promotion; anything else would lose bits."""
    wide = values.astype(np.uint16)
    if (wide % 257).any():
        raise refuse(
            path, "an image must have 8 bits per channel, but got 16-bit gray with values "
            f"{int(wide.min())} to {int(wide.max())} that 8 bits cannot hold; {RESCALE}"
        )  # fmt: skip
    return (wide // 257).astype(np.uint8)
