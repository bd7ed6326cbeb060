"""Random numbers of the strong views, drawn on the host: one color map, one blur and a few boxes per image."""

from __future__ import annotations

import math

import numpy as np

from trainable.data.streams import BLUR_TAPS, F32, Photometric

_GRAY = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def color_matrix(rng: np.random.Generator, strong: Photometric) -> F32:
    """Brightness, contrast, saturation, hue and gray as one affine map of RGB in [0, 1].

    Contrast turns about mid-gray 0.5 instead of the image's own mean, so that the map needs no look at the image.

    Returns:
        float32[3, 4]: y = m[:, :3] x + m[:, 3].

    >>> import numpy as np
    >>> color_matrix(np.random.default_rng(0), Photometric(jitter_p=0.0, gray_p=0.0)).tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    """
    draws = rng.random(6)
    matrix, offset = np.eye(3), np.zeros(3)
    if draws[0] < strong.jitter_p:
        brightness, contrast, saturation = 1 + strong.jitter * (2 * draws[1:4] - 1)
        angle = math.tau * strong.jitter / 2 * (2 * draws[4] - 1)
        turn = np.array(
            [[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]]
        )
        matrix = _FROM_YIQ @ turn @ _TO_YIQ
        matrix = (saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), _GRAY)) @ matrix
        matrix = contrast * brightness * matrix
        offset = np.full(3, 0.5 * (1 - contrast))
    if draws[5] < strong.gray_p:
        gray = np.outer(np.ones(3), _GRAY)
        matrix, offset = gray @ matrix, gray @ offset
    return np.asarray(np.concatenate([matrix, offset[:, None]], axis=1), np.float32)


def blur_kernel(rng: np.random.Generator, chance: float) -> F32:
    """A normalized Gaussian kernel with sigma in [0.1, 2] pixels, or the identity.

    >>> import numpy as np
    >>> float(blur_kernel(np.random.default_rng(0), 0.0)[BLUR_TAPS // 2])
    1.0
    """
    draw, share = rng.random(2)
    offsets = np.arange(BLUR_TAPS) - BLUR_TAPS // 2
    if draw >= chance:
        return np.asarray(offsets == 0, np.float32)
    sigma = 0.1 + 1.9 * share
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    return np.asarray(kernel / kernel.sum(), np.float32)


def cutmix_box(rng: np.random.Generator, chance: float, ndim: int) -> F32:
    """A box that covers a share of the image, or an empty one.

    In 2D the area is in [0.02, 0.4] of the image and the aspect ratio in [0.3, 1/0.3] (log-uniform); in 3D the
    volume is in the same range and the box is a cube. Clipped so that it lies inside.

    Returns:
        float32[2 ndim]: lower then upper corner, in shares of the side.

    >>> import numpy as np
    >>> cutmix_box(np.random.default_rng(0), 0.0, 2).tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    draws = rng.random(3 + ndim)
    if draws[0] >= chance:
        return np.zeros(2 * ndim, np.float32)
    share = 0.02 + 0.38 * draws[1]
    sides = np.full(ndim, share ** (1 / ndim))
    if ndim == 2:
        ratio = math.exp(math.log(0.3) * (2 * draws[2] - 1))
        sides = np.minimum(1.0, np.array([math.sqrt(share * ratio), math.sqrt(share / ratio)]))
    low = draws[3:] * (1 - sides)
    return np.concatenate([low, low + sides]).astype(np.float32)


def cutmix_boxes(rng: np.random.Generator, chance: float, number: int, ndim: int) -> F32:
    """Several boxes, all of them or none; one alone is that of `cutmix_box`.

    Of n boxes each has an area of a / n of the image with a in [0.25, 0.5], and in 2D a height of a^u / sqrt(n) of its
    side with u in [0, 1]; in 3D they are cubes. All lie inside.

    Returns:
        float32[number 2 ndim]: lower then upper corner of one box after the other, in shares of the side.

    >>> import numpy as np
    >>> cutmix_boxes(np.random.default_rng(0), 0.0, 2, 2).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]

    Source: the masks of Cross Pseudo Supervision (arXiv 2106.01226), after French et al. (arXiv 1906.01916).
    """
    if number == 1:
        return cutmix_box(rng, chance, ndim)
    met, draws = rng.random() < chance, rng.random((number, 2 + ndim))
    if not met:
        return np.zeros(number * 2 * ndim, np.float32)
    share = 0.25 + 0.25 * draws[:, :1]
    sides = np.repeat((share / number) ** (1 / ndim), ndim, 1)
    if ndim == 2:
        height = share ** draws[:, 1:2]
        sides = np.concatenate([height, share / height], 1) / math.sqrt(number)
    low = draws[:, 2:] * (1 - sides)
    return np.concatenate([low, low + sides], 1).astype(np.float32).ravel()
