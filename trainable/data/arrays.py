"""Arrays in `.npy` files: the header first, never a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from trainable.data.files import RESCALE, Header, UInt8, check_pixels, decoding, refuse


def load_array(path: Path) -> npt.NDArray[Any]:
    """The array in an `.npy` file, never through a pickle.

    Raises:
        DataError: the file is damaged, holds objects, or is too large.
    """
    _npy_shape(path)
    with decoding(path):
        return cast("npt.NDArray[Any]", np.load(path, allow_pickle=False))


def array_shape(path: Path) -> tuple[int, ...]:
    """Shape of the array in an `.npy` file, two or three numbers, from its header alone.

    Raises:
        DataError: the file is damaged, holds objects, or is too large.
    """
    return _npy_shape(path)[0]


def is_volume(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape is a volume (D, H, W), and no image with its channels last.

    >>> is_volume((8, 64, 64)), is_volume((64, 64, 3)), is_volume((64, 64))
    (True, False, False)
    """
    return len(shape) == 3 and shape[2] not in (1, 3)


def array_header(path: Path) -> Header:
    """Size and type of an image in an `.npy` file.

    Raises:
        DataError: the file is damaged, or no image of one or three channels.
    """
    shape, dtype = _npy_shape(path)
    channels = 1 if len(shape) == 2 else shape[2]
    if channels not in (1, 3):
        fix = "transpose it to (H, W, C)" if shape[0] in (1, 3) else "save gray or RGB"
        raise refuse(path, f"an array must have shape (H, W), (H, W, 1) or (H, W, 3), but got {shape}; {fix}")
    return Header(shape[0], shape[1], channels, "NPY", str(dtype))


def array_image(path: Path) -> UInt8:
    """The image in an `.npy` file, as 8 bits per channel.

    Raises:
        DataError: the values are not whole numbers from 0 to 255.
    """
    values = load_array(path)
    if values.dtype == np.uint8:
        return values
    exact = values.dtype.kind in "iu" and bool(((values >= 0) & (values <= 255)).all())
    if not exact:
        finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones(1, bool)
        low, high = (values.min(), values.max()) if finite.all() else ("non-finite", "non-finite")
        raise refuse(
            path, f"an image must have 8 bits per channel, but got dtype={values.dtype} with values {low} to {high}; "
            f"{RESCALE}, as uint8"
        )  # fmt: skip
    return values.astype(np.uint8)


def _npy_shape(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type from the header alone, checked against the file's length before anything is allocated."""
    with decoding(path), path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject or dtype.fields is not None:
            raise refuse(path, f"an array must hold numbers, but got dtype={dtype}; save it as uint8")
        if len(shape) not in (2, 3):
            raise refuse(path, f"an array must have shape (H, W) or (H, W, 3), but got {shape}; save one picture each")
        if is_volume(shape):
            check_pixels(path, shape[1], shape[2], pages=shape[0])
        else:
            check_pixels(path, shape[0], shape[1])
        expected = file.tell() + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if path.stat().st_size != expected:
            raise refuse(
                path, f"an array of shape {shape} must fill {expected} bytes, but got {path.stat().st_size}; "
                "the file is damaged or cut short: copy it again or remove it"
            )  # fmt: skip
    return shape, dtype
