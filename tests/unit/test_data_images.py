"""Decoding files that nobody vouches for: exact where nothing is lost, a DataError with the file's name else."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.folders import image_of
from trainable.data.images import read_header, read_image, read_pixels
from trainable.data.raw_masks import read_raw
from trainable.errors import DataError

RGB = image_of(0)
GRAY = RGB[..., 0]


def png_of(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG written by hand, for depths that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {}), ("a.tif", {}), ("b.tiff", {"compression": "tiff_lzw"}), ("a.webp", {"lossless": True}),
     ("A.PNG", {})],
)  # fmt: skip
def test_lossless_files_come_back_exactly(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = saved(tmp_path / name, Image.fromarray(RGB), **options)
    assert np.array_equal(read_pixels(path), RGB)
    header = read_header(path)
    assert (header.height, header.width, header.channels) == RGB.shape


def test_arrays_come_back_exactly(tmp_path: Path) -> None:
    for name, array in {"a": RGB, "b": GRAY, "c": GRAY[..., None], "d": GRAY.astype(np.int64)}.items():
        np.save(tmp_path / f"{name}.npy", array)
        found = read_pixels(tmp_path / f"{name}.npy")
        assert found.dtype == np.uint8
        assert np.array_equal(found, array.reshape(found.shape))


def test_gray_has_one_channel(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(GRAY))
    assert np.array_equal(read_pixels(path), GRAY[..., None])
    assert np.array_equal(read_image(path), np.dstack([GRAY] * 3))


@pytest.mark.fault(
    39,
    how="palette, RGBA, LA, CMYK and 1-bit files without loss",
    saw="converted, pixel by pixel as expected",
)
@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "CMYK", "1"])
def test_other_modes_are_converted_where_nothing_is_lost(tmp_path: Path, mode: str) -> None:
    expected = RGB.copy()
    if mode == "P":
        picture = Image.fromarray(RGB).quantize(16)
        expected = np.asarray(picture.convert("RGB"))
    elif mode == "RGBA":
        picture = Image.fromarray(RGB).convert("RGBA")
    elif mode == "LA":
        picture, expected = Image.fromarray(GRAY).convert("LA"), GRAY[..., None]
    elif mode == "1":
        picture, expected = Image.fromarray(GRAY > 99), ((GRAY > 99) * 255)[..., None]
    else:
        picture = Image.fromarray(np.dstack([255 - RGB, np.zeros_like(GRAY)]), mode="CMYK")
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    assert np.array_equal(read_pixels(saved(path, picture)), expected)


@pytest.mark.fault(
    39,
    how="all eight EXIF orientations in four formats",
    saw="turned upright, as Pillow does it",
)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_the_exif_orientation_is_applied_as_pillow_applies_it(tmp_path: Path, orientation: int, suffix: str) -> None:
    tag = Image.Exif()
    tag[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(RGB), exif=tag, **options)
    with Image.open(path) as picture:
        moves = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
        upright = Image.fromarray(RGB) if suffix != "jpg" else picture.copy()
        if orientation > 1:
            upright = upright.transpose(Image.Transpose(moves[orientation]))
    found = read_pixels(path)
    assert np.array_equal(found, np.asarray(upright))
    assert found.shape[:2] == (read_header(path).height, read_header(path).width)


@pytest.mark.fault(
    39,
    how="16-bit gray whose values are 257 times a byte, and others",
    saw="the first is converted exactly, the second refused by name",
)
def test_16_bit_gray_is_taken_only_where_8_bits_hold_it(tmp_path: Path) -> None:
    for suffix in ("png", "tif"):
        path = saved(tmp_path / f"a.{suffix}", Image.fromarray(GRAY.astype(np.uint16) * 257))
        assert np.array_equal(read_pixels(path)[..., 0], GRAY)
        odd = saved(tmp_path / f"b.{suffix}", Image.fromarray(GRAY.astype(np.uint16) * 200))
        with pytest.raises(DataError, match=r"b\.\w+: .*16-bit gray .*8-bit by one rule"):
            read_pixels(odd)


def refusals(folder: Path) -> dict[str, Path]:
    """Files that must be refused, by the words that the message must hold."""
    transparent = np.dstack([RGB, np.full_like(GRAY, 255)])
    transparent[0, 0, 3] = 0
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    floats = np.linspace(0, 1, 12).reshape(3, 4)
    np.save(folder / "floats.npy", floats)
    np.save(folder / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(folder / "deep.npy", np.zeros((2, 3, 4, 3), np.uint8))
    np.save(folder / "first.npy", np.zeros((3, 8, 9), np.uint8))
    np.save(folder / "whole.npy", GRAY)
    (folder / "cut.npy").write_bytes((folder / "whole.npy").read_bytes()[:-5])
    (folder / "rgb16.png").write_bytes(png_of(2, 1, 16, 2, b"\0" + bytes(12)))
    (folder / "bomb.png").write_bytes(png_of(30_000, 30_000, 1, 0, b""))
    (folder / "large.png").write_bytes(png_of(10_000, 9_000, 1, 0, b""))
    (folder / "text.png").write_text("no picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "folder.png").mkdir()
    Image.fromarray(RGB).save(folder / "hidden.png", format="BMP")
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    (folder / "short.png").write_bytes(buffer.getvalue()[:200])
    black = np.full((*GRAY.shape, 4), 9, np.uint8)
    return {
        "transparent": saved(folder / "transparent.png", Image.fromarray(transparent)),
        "save each page": saved(folder / "pages.tif", frames[0], save_all=True, append_images=frames[1:]),
        "one picture, but got 2": saved(folder / "moving.webp", frames[0], save_all=True, append_images=frames[1:]),
        "black ink": saved(folder / "ink.tif", Image.fromarray(black, mode="CMYK")),
        "mode=F": saved(folder / "float.tif", Image.fromarray(floats.astype(np.float32))),
        "dtype=float64": folder / "floats.npy",
        "hold numbers": folder / "objects.npy",
        r"shape \(H, W\)": folder / "deep.npy",
        "transpose": folder / "first.npy",
        "cut short": folder / "cut.npy",
        "16 bits": folder / "rgb16.png",
        "bomb": folder / "bomb.png",
        "pixel limit.*10000 x 9000": folder / "large.png",
        "must be a PNG": folder / "text.png",
        "UnidentifiedImageError": folder / "empty.jpg",
        "regular file": folder / "folder.png",
        "convert it": folder / "hidden.png",
        "damaged": folder / "short.png",
        "no such file": folder / "none.png",
    }


@pytest.mark.fault(
    39, 43,
    how=(
        "19 files: transparency, black ink, floats, 16-bit RGB, several pages, objects in .npy, and PNGs "
        "of 30000 x 30000 and 10000 x 9000 pixels in a few bytes"
    ),
    saw="each refused by name before decoding; the bombs by their header",
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_read_without_loss_is_refused_by_name(tmp_path: Path) -> None:
    for words, path in refusals(tmp_path).items():
        with pytest.raises(DataError, match=words) as caught:
            read_pixels(path)
        assert caught.value.exit_code == 2
        assert caught.value.faults[0].where == str(path)


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    getattr(os, "mkfifo", os.mkdir)(tmp_path / "a.png")
    with pytest.raises(DataError, match="regular file"):
        read_header(tmp_path / "a.png")


def whole_files() -> dict[str, bytes]:
    made = {}
    for suffix in ("png", "jpeg", "tiff", "webp"):
        buffer = io.BytesIO()
        Image.fromarray(RGB).save(buffer, suffix)
        made[f".{suffix}"] = buffer.getvalue()
    buffer = io.BytesIO()
    np.save(buffer, RGB)
    made[".npy"] = buffer.getvalue()
    return made


WHOLE = whole_files()


@pytest.mark.fault(
    37,
    how="150 files with random bytes changed and cut off, in five formats",
    saw="pixels, or a DataError with the file name; never another exception",
)
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(suffix=st.sampled_from(sorted(WHOLE)), data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_end_in_pixels_or_in_a_named_fault(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    content = bytearray(WHOLE[suffix])
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for read in (read_pixels, read_raw):
        try:
            read(path)
        except DataError as error:
            assert str(path) in str(error)
