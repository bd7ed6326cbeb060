"""What every decoder of unvouched files shares: which files are opened, how large, and how a crash is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from trainable.errors import DataError, Fault

UInt8 = npt.NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".npy")
PIXEL_LIMIT = 89_478_485
"""Pillow's own default; a larger picture has to be cut into patches anyway."""

VOLUME_LIMIT = 1 << 30
"""Pixels of all pages of a volume together: 1024 x 1024 x 1024."""

RESCALE = "save all files as 8-bit by one rule for the whole set, for example the same black and white point"


@dataclass(frozen=True)
class Header:
    """What a file says about its picture, before any pixel is decoded.

    Attributes:
        height: rows, after the EXIF orientation.
        width: columns, after the EXIF orientation.
        channels: 1 (gray) or 3 (color) once decoded as an image.
        kind: PNG, JPEG, TIFF, WEBP, MPO or NPY.
        mode: Pillow's mode, or the type of the array.
        orientation: EXIF orientation that decoding applies, 1 = none.
    """

    height: int
    width: int
    channels: int
    kind: str
    mode: str
    orientation: int = 1


def refuse(path: Path, message: str) -> DataError:
    """A `DataError` about one file."""
    return DataError([Fault(str(path), message)])


def require_file(path: Path) -> None:
    """Refuse what is no regular file.

    Raises:
        DataError: there is none, or it is something else.
    """
    # A pipe or a device would block for ever, so only regular files are opened.
    if not path.is_file():
        what = "not a regular file" if path.exists() else "no such file"
        raise refuse(path, f"must be a picture file, but there is {what}; check the name")


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into a `DataError` that names the file."""
    try:
        yield
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise refuse(path, _too_large(str(error))) from error
    except (UnidentifiedImageError, FileNotFoundError, PermissionError) as error:
        raise refuse(
            path, f"must be a PNG, JPEG, TIFF, WebP or NPY file that can be read, but got {type(error).__name__}; "
            "convert it to PNG"
        ) from error  # fmt: skip
    except Exception as error:  # Decoders raise anything on hostile bytes; every crash becomes one record of the file.
        detail = str(error).replace(str(path), path.name)[:120]
        raise refuse(
            path, f"must decode without an error, but got {type(error).__name__}: {detail}; "
            "the file is damaged or cut short: copy it again or remove it"
        ) from error  # fmt: skip


def check_pixels(path: Path, height: int, width: int, pages: int = 1) -> None:
    """Refuse empty pictures, those above Pillow's limit, and volumes above `VOLUME_LIMIT` over all of their pages.

    Raises:
        DataError: before anything is decoded.
    """
    limit = min(Image.MAX_IMAGE_PIXELS or PIXEL_LIMIT, PIXEL_LIMIT)
    if height < 1 or width < 1 or pages < 1:
        raise refuse(path, f"a picture must have pixels, but got {width} x {height}; remove the file")
    if height * width > limit:
        raise refuse(path, _too_large(f"{width} x {height} = {height * width:,} pixels, above {limit:,}"))
    if (total := pages * height * width) > VOLUME_LIMIT:
        deep = f"{pages} pages of {width} x {height} = {total:,} pixels, above {VOLUME_LIMIT:,}"
        raise refuse(path, _too_large(deep, "volume"))


def _too_large(detail: str, what: str = "picture") -> str:
    parts = "patches" if what == "picture" else "smaller volumes"
    return f"a {what} must not exceed the pixel limit, but got {detail}; cut it into {parts}"
