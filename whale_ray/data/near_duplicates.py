"""The same picture twice, though saved again, cropped or brightened: told by its pixels, laid over one another.

Knows pictures, held small; which pairs are compared is told by vectors. `audit` finds copies that were only saved
again by their hash; a hash does not survive a crop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image

LEAST_CORRELATION = 0.94
"""Above most photographs of one animal in one encounter, below most copies (EXPERIMENTS.md, 2026-11-24)."""
_COARSE, _FINE = 24, 64  # pixels of the longer side
_SQUARE = 12  # pixels of each side, where pictures are only looked for
_COARSE_LEAST = 0.8  # correlation of the coarse pictures below which the fine ones are not compared
_CENTRE = 0.15  # the part of each side that is not looked for: a copy may be cropped by it
_SCALES = np.linspace(0.84, 1.2, 10)  # how much larger one may show things

Small = dict[int, Image.Image]


def shrink_picture(picture: Image.Image) -> Small:
    """The picture in grey at the sizes that are compared; its aspect is kept."""
    grey = picture.convert("L")
    return {side: _resized(grey, side / max(grey.size)) for side in (_COARSE, _FINE)}


def copy_correlation(one: Small, other: Small) -> float:
    """How well the centre of one fits somewhere into the other: the largest correlation of their pixels, -1 to 1.

    Over shifts and scales, whichever is laid over the other; correlation sees neither brightness nor contrast. What is
    coarsely unlike is not looked at finely.
    """
    coarse = _both_ways(one[_COARSE], other[_COARSE])
    return coarse if coarse < _COARSE_LEAST else _both_ways(one[_FINE], other[_FINE])


def _both_ways(one: Image.Image, other: Image.Image) -> float:
    return max(_fit(one, other), _fit(other, one))


def _fit(one: Image.Image, other: Image.Image) -> float:
    """The largest correlation of the centre of `one` with a window of `other`, at any scale."""
    pixels = np.asarray(one, dtype=np.float64)
    rows, columns = (int(side * _CENTRE) for side in pixels.shape)
    centre = pixels[rows : pixels.shape[0] - rows, columns : pixels.shape[1] - columns]
    return max((_best_window(centre, _resized(other, scale)) for scale in _SCALES), default=-1.0)


def _best_window(centre: np.ndarray, picture: Image.Image) -> float:
    pixels = np.asarray(picture, dtype=np.float64)
    if any(have < need for have, need in zip(pixels.shape, centre.shape, strict=True)) or centre.std() == 0:
        return -1.0
    windows = np.lib.stride_tricks.sliding_window_view(pixels, centre.shape).reshape(-1, centre.size)
    spread = np.sqrt(np.maximum((windows * windows).mean(axis=1) - windows.mean(axis=1) ** 2, 1e-9))
    wanted = (centre - centre.mean()).ravel() / centre.std()
    return float((windows @ wanted / centre.size / spread).max())


def _resized(picture: Image.Image, scale: float) -> Image.Image:
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return picture.resize((size[0], size[1]), Image.Resampling.BOX if scale < 1 / 3 else Image.Resampling.BILINEAR)


def find_copies(
    pairs: np.ndarray, pictures: Mapping[int, Small], *, least: float = LEAST_CORRELATION
) -> list[tuple[int, int, float]]:
    """The pairs (one, other, correlation) among `pairs`, int (P, 2), that show the same picture, in their order.

    pictures: by row, those that can be opened; a pair without both of its pictures is left out.
    """
    there = [(int(one), int(other)) for one, other in pairs if {int(one), int(other)} <= pictures.keys()]
    judged = ((one, other, copy_correlation(pictures[one], pictures[other])) for one, other in there)
    return [pair for pair in judged if pair[2] >= least]


def coarse_vectors(pictures: Iterable[Small]) -> np.ndarray:
    """(N, D): each picture so coarsely that a copy lies near its original, though every side was cropped by 8 %.

    Brightness and contrast are taken out. Of 150 such copies among a thousand photographs 147 or more had their
    original as the nearest of all, drawn flukes and animals on land alike (EXPERIMENTS.md, 2026-11-24).
    """
    squares = [np.asarray(one[_COARSE].resize((_SQUARE, _SQUARE), Image.Resampling.BOX)).ravel() for one in pictures]
    pixels = np.array(squares, dtype=np.float64).reshape(-1, _SQUARE * _SQUARE)
    return np.asarray(pixels - pixels.mean(axis=1, keepdims=True))
