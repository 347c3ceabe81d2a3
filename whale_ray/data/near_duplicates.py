"""Near-duplicate images: the same picture re-encoded, cropped or brightened, found by correlating pixels.

`audit` finds re-encoded copies by their perceptual hash; a hash does not survive a crop. Works on small grey images;
candidate pairs come from `coarse_vectors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image

MIN_CORRELATION = 0.94
"""Above most photographs of one animal in one encounter, below most copies (docs/experiments/data-and-labels.md)."""
_COARSE, _FINE = 24, 64  # pixels of the longer side
_SQUARE = 12  # pixels of each side, where pictures are only looked for
_MIN_COARSE_CORRELATION = 0.8  # correlation of the coarse pictures below which the fine ones are not compared
_CROP_MARGIN = 0.15  # the part of each side that is not looked for: a copy may be cropped by it
_SCALES = np.linspace(0.84, 1.2, 10)  # how much larger one may show things

GreyPair = dict[int, Image.Image]


def shrink_picture(picture: Image.Image) -> GreyPair:
    """Return the image in grey at the two sizes that are compared; the aspect ratio is kept."""
    grey = picture.convert("L")
    return {side: _resized(grey, side / max(grey.size)) for side in (_COARSE, _FINE)}


def copy_correlation(one: GreyPair, other: GreyPair) -> float:
    """Return how well the center of one image matches a window of the other: the largest pixel correlation, -1 to 1.

    Searches over shifts and scales in both directions. Correlation ignores brightness and contrast. Images that differ
    at the coarse size are not compared at the fine size.

    Args:
        one: Grey images of the first picture.
        other: Grey images of the second picture.
    """
    coarse = _symmetric_correlation(one[_COARSE], other[_COARSE])
    return coarse if coarse < _MIN_COARSE_CORRELATION else _symmetric_correlation(one[_FINE], other[_FINE])


def _symmetric_correlation(one: Image.Image, other: Image.Image) -> float:
    return max(_best_correlation(one, other), _best_correlation(other, one))


def _best_correlation(one: Image.Image, other: Image.Image) -> float:
    """Return the largest correlation of the center of `one` with a window of `other`, at any scale."""
    pixels = np.asarray(one, dtype=np.float64)
    rows, columns = (int(side * _CROP_MARGIN) for side in pixels.shape)
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
    pairs: np.ndarray, pictures: Mapping[int, GreyPair], *, least: float = MIN_CORRELATION
) -> list[tuple[int, int, float]]:
    """Return the pairs (one, other, correlation) that show the same picture, in the order of `pairs`.

    Args:
        pairs: Candidate pairs of rows, int, shape (P, 2).
        pictures: Grey images by row. Pairs with a missing image are left out.
        least: Smallest correlation of a copy.
    """
    there = [(int(one), int(other)) for one, other in pairs if {int(one), int(other)} <= pictures.keys()]
    judged = ((one, other, copy_correlation(pictures[one], pictures[other])) for one, other in there)
    return [pair for pair in judged if pair[2] >= least]


def coarse_vectors(pictures: Iterable[GreyPair]) -> np.ndarray:
    """Return a coarse grey thumbnail of each image as a vector, shape (N, 144), its mean removed.

    A copy lies near its original even if 8 % of every side was cropped: of 150 such copies among a thousand
    photographs, at least 147 had their original as nearest neighbor, on drawn flukes and on land animals.
    """
    squares = [np.asarray(one[_COARSE].resize((_SQUARE, _SQUARE), Image.Resampling.BOX)).ravel() for one in pictures]
    pixels = np.array(squares, dtype=np.float64).reshape(-1, _SQUARE * _SQUARE)
    return np.asarray(pixels - pixels.mean(axis=1, keepdims=True))
