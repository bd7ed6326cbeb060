"""Pictures for people, drawn without a screen; the training system's only place that imports matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANEL_INCHES = 3.2
_TARGET_COLORS = {0: (40, 60, 120), 1: (250, 220, 60), 255: (170, 170, 170)}


def panels(pictures: Sequence[tuple[str, npt.NDArray[Any]]], title: str = "") -> bytes:
    """Pictures side by side, as a PNG.

    Args:
        pictures: title and picture each: uint8[H, W, 3], or float[H, W] in [0, 1], which is shown in gray.
        title: above all of them.

    Returns:
        The bytes of the file.

    >>> panels([("black", np.zeros((4, 4)))])[1:4]
    b'PNG'
    """
    figure = Figure(figsize=(PANEL_INCHES * len(pictures), PANEL_INCHES + 0.5), layout="tight")
    FigureCanvasAgg(figure)  # draws without a screen
    figure.suptitle(title)
    for place, (name, picture) in enumerate(pictures):
        axes = figure.add_subplot(1, len(pictures), place + 1)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1 if picture.ndim == 2 else 255, interpolation="nearest")
        axes.set_title(name, fontsize="medium")
        axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def target_picture(target: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Binary labels in color: negative blue, positive yellow, without a label gray.

    Args:
        target: uint8[H, W], 0, 1 or 255.

    Returns:
        uint8[H, W, 3].

    >>> target_picture(np.array([[0, 255]], np.uint8)).tolist()
    [[[40, 60, 120], [170, 170, 170]]]
    """
    picture = np.zeros((*target.shape, 3), np.uint8)
    for value, color in _TARGET_COLORS.items():
        picture[target == value] = color
    return picture
